// Uses the types that openapi-typescript generates: starts, follows and cancels tasks.
import createClient from "openapi-fetch";
import type { paths } from "./api.js";

declare const process: { argv: string[] };

const client = createClient<paths>({ baseUrl: process.argv[2] });

const started = await client.POST("/process", { params: { query: { data_id: "7" } } });
if (!started.data) throw new Error(`refused: ${JSON.stringify(started.error)}`);
const shown = await client.GET("/tasks/{task_id}", {
  params: { path: { task_id: started.data.task_id }, query: { wait: 60 } },
});
console.log(shown.data?.status, JSON.stringify(shown.data?.result));

const later = { arg1: 1, arg2: 2, delay: 3_600 };
const delayed = await client.POST("/custom-task", { body: later });
if (!delayed.data) throw new Error(`refused: ${JSON.stringify(delayed.error)}`);
const cancelled = await client.DELETE("/tasks/{task_id}", {
  params: { path: { task_id: delayed.data.task_id } },
});
console.log(cancelled.data?.cancelled);
