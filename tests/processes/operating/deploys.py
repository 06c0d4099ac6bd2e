"""Releases of an app whose tasks go on from their steps, and what a deploy of each brings about."""

from __future__ import annotations

from typing import NamedTuple

SHOP = """
import asyncio, json, os, random, sys
from datetime import date

from framework import background_task, current_task, get_task_manager, setup_async_framework
from framework.steps import Message, sleep, step
from framework.stores.sql import SQLStore

STOPS = os.environ.get("SHOP_STOPS")
approval = Message("approval", bool)


def app():
    return setup_async_framework(None, store=SQLStore(os.environ["SHOP_STORE"], durable=True))


async def note(effect):
    with open(os.environ["SHOP_EFFECTS"], "a") as file:
        print(current_task().name, effect, file=file)


@step
async def charge(order: int) -> str:
    await note("charge")
    return "payment"


@step
async def pack(order: int) -> str:
    await note("pack")
    return "box"


@step(key=lambda order, token: order)
async def sign(order: int, token: str) -> str:
    await note("sign")
    return "signed"


@step
async def ship(order: int) -> str:
    if STOPS:
        await asyncio.Event().wait()
    await note("ship")
    return "parcel"


@step
async def mail(order: int) -> None:
    await note("mail")


@background_task(on_restart="resume", name="fulfil")
async def fulfil(order: int) -> str:
    await charge(order)
    await pack(order)
    await sign(order, "a token")
    return await ship(order)


async def part(number: int) -> str:
    await charge(number)
    await pack(number)
    return await ship(number)


@background_task(on_restart="resume", name="gathered")
async def gathered() -> None:
    async with asyncio.TaskGroup() as group:
        for number in range(3):
            group.create_task(part(number))


@background_task(on_restart="resume", name="sleeper")
async def sleeper() -> None:
    await charge(1)
    await sleep(86_400)
    await approval.receive()


@background_task(on_restart="resume", name="of_a_set")
async def of_a_set() -> None:
    for number, name in enumerate({"ann", "bob", "cid", "dan", "eve", "fay", "gus", "hal"}):
        if STOPS and number == 4:
            await asyncio.Event().wait()
        await greet(name)


@step
async def greet(name: str) -> str:
    return name


@background_task(on_restart="resume", name="of_a_machine")
async def of_a_machine() -> None:
    await greet(os.environ.get("SHOP_HOST", "the first"))
    await ship(1)


@background_task(on_restart="resume", name="at_random")
async def at_random() -> None:
    await greet(str(random.random()))
    await ship(1)


@background_task(on_restart="resume", name="impatient")
async def impatient() -> None:
    await greet("somebody")
    print("what the code prints")
    if not STOPS:
        await asyncio.to_thread(sys.modules["time"].sleep, 3)
    await ship(1)


@step
def greet_here(name: str) -> str:
    return name


@background_task(on_restart="resume", name="blocked")
def blocked() -> None:
    greet_here("somebody")
    sys.modules["time"].sleep(30)
    greet_here("nobody")
"""

OLD = """
import asyncio, json, os, shop, sqlite3, sys
from framework import get_task_manager

COUNT = "SELECT count(*) FROM asyncframe_steps WHERE task_id = ?"

async def main():
    async with shop.app():
        manager, rows = get_task_manager(), sqlite3.connect("tasks.db")
        for name, steps in json.loads(sys.argv[1]).items():
            fn = getattr(shop, name)
            await manager.submit(fn, (7,) if name == "fulfil" else (), task_id=name)
            while rows.execute(COUNT, (name,)).fetchone()[0] < steps:
                await asyncio.sleep(0.001)
        os._exit(0)

asyncio.run(main())
"""
"""Submits a task of each function that is named, and dies when so many steps of it are stored."""

NEW = """
import asyncio, contextlib, json, os, shop, sys
from framework import get_task_manager

async def main():
    async with shop.app():
        manager = get_task_manager()
        with contextlib.suppress(Exception):
            await manager.get_result(sys.argv[1], timeout=float(sys.argv[2]))
        task = await manager.get_task(sys.argv[1])
        print(task.status, type(task.error).__name__ if task.error else "")
        sys.stdout.flush()
        os._exit(0)

asyncio.run(main())
"""
"""Goes on with a task, and says how it has ended."""


class Deploy(NamedTuple):
    """A change of the app.

    Attributes:
        old: What is replaced.
        new: By what.
        kinds: What a replay of the task finds.
        ends: How the task then really ends.
        runs: The steps that run then.
        left_out: Whether it then ends without a step that is recorded.
    """

    old: str
    new: str
    kinds: tuple[str, ...] = ()
    ends: str = "completed"
    runs: str = "ship"
    left_out: bool = False


_FULFIL = "async def fulfil(order: int) -> str:\n    await charge(order)\n    await pack(order)\n"

DEPLOYS = {
    "nothing": Deploy("import asyncio", "import asyncio"),
    "a comment": Deploy("import asyncio", "# comment\nimport asyncio"),
    "a step after the recorded ones": Deploy(
        "    return await ship(order)\n",
        "    parcel = await ship(order)\n    await mail(order)\n    return parcel\n",
        runs="ship mail",
    ),
    "a step before a recorded one": Deploy(
        "    await pack(order)\n    await sign",
        "    await mail(order)\n    await pack(order)\n    await sign",
        ("new",),
        runs="mail ship",
    ),
    "a step less": Deploy(
        "    await pack(order)\n    await sign", "    await sign", ("new",), left_out=True
    ),
    "another order": Deploy(
        _FULFIL,
        "async def fulfil(order: int) -> str:\n    await pack(order)\n    await charge(order)\n",
    ),
    "side by side": Deploy(
        _FULFIL,
        "async def fulfil(order: int) -> str:\n"
        "    await asyncio.gather(pack(order), charge(order))\n",
    ),
    "another name": Deploy("charge(", "bill(", ("new",), runs="charge ship"),
    "another argument": Deploy(
        "    await charge(order)\n    await pack(order)\n    await sign",
        "    await charge(order + 1)\n    await pack(order)\n    await sign",
        ("refused",),
        "failed StepMismatchError",
        "",
    ),
    "another argument beside a key": Deploy('"a token"', '"another token"'),
    "a parameter with a default": Deploy("fulfil(order: int)", "fulfil(order: int, fast=False)"),
    "a parameter without one": Deploy(
        "fulfil(order: int)",
        "fulfil(order: int, fast: bool)",
        ("arguments",),
        "failed TypeError",
        "",
    ),
    "another type": Deploy(
        "fulfil(order: int)", "fulfil(order: list[int])", ("arguments",), "failed TypeError", ""
    ),
    "a mistake between the steps": Deploy(
        "    await pack(order)\n    await sign",
        "    {}[order]\n    await pack(order)\n    await sign",
        ("raised",),
        "failed KeyError",
        "",
    ),
    "no such function": Deploy('name="fulfil"', 'name="fulfil_2"', ("gone",), "pending", ""),
}
"""By what changes."""
