// Uses the types that openapi-typescript generates: starts, follows and cancels tasks.
import createClient from "openapi-fetch";
import type { components, paths } from "./api.js";

declare const process: { argv: string[] };

const client = createClient<paths>({ baseUrl: process.argv[2] });

const accepted = await client.POST("/process", { params: { query: { data_id: "7" } } });
if (!accepted.data) throw new Error(`refused: ${JSON.stringify(accepted.error)}`);
const shown = await client.GET("/tasks/{task_id}", {
  params: { path: { task_id: accepted.data.task_id }, query: { wait: 60 } },
});
if (!shown.data) throw new Error(`unknown: ${JSON.stringify(shown.error)}`);
// The type of the result is in that of the 202 response.
const result = shown.data.result as NonNullable<typeof accepted.data.result>;
const processed: components["schemas"]["Processed"] = result;
console.log(shown.data.status, processed.data_id);

const later = { arg1: 1, arg2: 2, delay: 3_600 };
const delayed = await client.POST("/custom-task", { body: later });
if (!delayed.data) throw new Error(`refused: ${JSON.stringify(delayed.error)}`);
const cancelled = await client.DELETE("/tasks/{task_id}", {
  params: {
    path: { task_id: delayed.data.task_id },
    header: { "X-Requested-With": "a test" },
  },
});
console.log(cancelled.data?.cancelled, cancelled.data?.status);
