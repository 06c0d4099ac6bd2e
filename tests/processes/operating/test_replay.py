"""`asyncframe replay`: what it says before a deploy is what the deploy then does."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.children import ROOT, python
from tests.processes.operating.deploys import DEPLOYS, NEW, OLD, SHOP, Deploy

pytestmark = pytest.mark.extended("processes")

_STEPS = {
    "fulfil": 3,
    "gathered": 6,
    "sleeper": 2,
    "of_a_set": 4,
    "of_a_machine": 1,
    "at_random": 1,
    "impatient": 1,
    "blocked": 1,
}
"""How many steps of each task are stored when the first release is killed."""


class Shop:
    """An app and its database.

    Attributes:
        folder: Where both are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"sqlite:///{folder / 'tasks.db'}"
        self._effects = folder / "effects"

    def copy(self, folder: Path, old: str, new: str) -> Shop:
        """Return a copy with other code."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        made = Shop(folder)
        assert old in SHOP
        (folder / "shop.py").write_text(SHOP.replace(old, new))
        made._effects.write_text("")
        return made

    def run(self, *arguments: str, status: int | None = 0, **env: str) -> Any:
        """Run a program with the app, to its end."""
        surroundings = {
            "PYTHONPATH": f"{ROOT}:{self.folder}",
            "SHOP_STORE": self.url,
            "SHOP_EFFECTS": str(self._effects),
            **env,
        }
        return python(*arguments, cwd=self.folder, env=surroundings, status=status)

    def replay(self, *options: str, status: int, **env: str) -> Any:
        """Replay its tasks from the command line; return what is printed of each."""
        arguments = ("-m", "framework", "replay", "shop:app", "--store", self.url, *options)
        said = self.run(*arguments, status=status, **env).stdout
        return [json.loads(line) for line in said.splitlines()]

    @property
    def effects(self) -> list[str]:
        """The steps of the task ``fulfil`` that have run."""
        lines = map(str.split, self._effects.read_text().splitlines())
        return [effect for task, effect in lines if task == "fulfil"]

    def rows(self) -> list[str]:
        """Return all that the database holds."""
        with closing(sqlite3.connect(self.folder / "tasks.db")) as connection:
            return list(connection.iterdump())


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """A first release that was killed when its tasks had recorded some steps."""
    shop = Shop(tmp_path_factory.mktemp("old"))
    (shop.folder / "shop.py").write_text(SHOP)
    shop.run("-c", OLD, json.dumps(_STEPS), SHOP_STOPS="1", PYTHONHASHSEED="1")
    return shop


@pytest.mark.parametrize("change", DEPLOYS.values(), ids=DEPLOYS)
def test_a_deploy_does_what_its_replay_has_said(old: Shop, tmp_path: Path, change: Deploy) -> None:
    """A replay finds what the task then meets, if it really goes on with the new code."""
    shop = old.copy(tmp_path, change.old, change.new)
    before = shop.rows()
    found = shop.replay("--only", "fulfil", status=1 if change.kinds else 0)
    kinds = [difference["kind"] for task in found for difference in task["differences"]]

    assert (tuple(kinds), shop.effects, shop.rows()) == (change.kinds, [], before)

    seconds = "2" if change.ends == "pending" else "20"
    done = shop.run("-c", NEW, "fulfil", seconds)
    # Other tasks go on there, too, and print something.
    assert done.stdout.splitlines()[-1].strip() == change.ends
    assert shop.effects == change.runs.split()
    left_out = "did not call again what is recorded: shop.pack; what these did stays done"
    assert (left_out in done.stderr) == change.left_out


def test_what_differs_from_process_to_process_is_found(old: Shop, tmp_path: Path) -> None:
    """With the same code, a task goes elsewhere by the order of a set, a machine, or chance.

    One that waits outside of its steps is told, too, on its loop or on a thread.
    """
    shop = old.copy(tmp_path, "import asyncio", "import asyncio")
    found = shop.replay("--timeout", "1", status=1, PYTHONHASHSEED="2", SHOP_HOST="the second")
    first = {one["task_id"]: one["differences"][0] for one in found}
    kinds = {task_id: one["kind"] for task_id, one in first.items()}

    assert kinds == {
        "of_a_set": "refused",
        "of_a_machine": "refused",
        "at_random": "refused",
        "impatient": "stuck",
        "blocked": "stuck",
    }
    assert first["of_a_machine"]["what"] == (
        "calls shop.greet('the second') at shop.py:96 in of_a_machine, and shop.greet is recorded "
        "with other arguments"
    )


def test_a_name_without_a_function_or_task_is_refused(old: Shop, tmp_path: Path) -> None:
    """A typing error in `--only` does not pass as a deploy that leads no task elsewhere."""
    shop = old.copy(tmp_path, "import asyncio", "import asyncio")
    command = ("-m", "framework", "replay", "shop:app", "--store", shop.url)
    refused = shop.run(*command, "--only", "fulfill", status=2)

    names = "at_random, blocked, fulfil, gathered, impatient, of_a_machine, of_a_set, sleeper"
    assert refused.stdout == ""
    assert refused.stderr == (
        "asyncframe: neither the app nor a task under way has a function 'fulfill'; the app can "
        f"resume {names}; did you mean 'fulfil'?\n"
    )


def test_a_module_under_another_name(old: Shop, tmp_path: Path) -> None:
    """A step whose module has another name, such as that of a program, is told as what it is."""
    shop = old.copy(tmp_path, "import asyncio", "import asyncio")
    (shop.folder / "market.py").write_text(SHOP)
    command = ("-m", "framework", "replay", "market:app", "--json", "--only", "fulfil")
    done = shop.run(*command, "--store", shop.url, status=1)

    (difference,) = json.loads(done.stdout)["differences"]
    assert difference["step"] == "market.charge"
    assert difference["cure"].startswith(
        "it has the name of shop.charge in another module, and so it is another step and would run "
        "again: let the app be imported by one name"
    )


def test_people_are_told_once_of_tasks_of_one_function(old: Shop, tmp_path: Path) -> None:
    """For people there is one paragraph for each function and step, and a line at the end."""
    shop = old.copy(tmp_path, "    await pack(number)\n", "")
    command = ("-m", "framework", "replay", "shop:app", "--table", "--only", "gathered")
    done = shop.run(*command, "--store", shop.url, status=1)

    assert done.stdout == (
        "gathered: gathered\n"
        "  calls shop.ship(0) at shop.py:63 in part in branch 0, of which there is no record; what "
        "is recorded and not called before: shop.pack in branch 0, shop.pack in branch 1, "
        "shop.pack in branch 2\n"
        "  it would run now, after all that is recorded, and what is not called any more stays "
        "done. With another name, or in another module, a step is another one and runs again: keep "
        "the old one until such tasks have ended\n"
        "1 task under way: 1 would go elsewhere with this code\n"
    )
