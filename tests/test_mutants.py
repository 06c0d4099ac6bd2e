"""The faults that measure the suite: where a module allows one, and which tests are run."""

from __future__ import annotations

import ast
from pathlib import Path

import framework
from tests.mutants.__main__ import BATCHES, batches, draw
from tests.mutants.sites import UNLOCKED, sites

ROOT = Path(framework.__file__).resolve().parents[1]

SOURCE = '''
if TYPE_CHECKING:
    import nothing

@overload
def f(a: int) -> bool: ...

def f(a):
    """Call nothing()."""
    with self._lock, open(a) as file:
        self.count += 1
        a.b = a[
            0
        ] = g(a)
    if a and not g(a):
        call(
            a
        )
    while a is None:
        local = 1
    return a < 1 <= 2
'''
CHANGES = {
    10: [f"({UNLOCKED})"],
    11: ["pass"],
    12: ["pass\n\n"],
    15: ["((a) or (not g(a)))", "((not (a and not g(a))))"],
    16: ["pass\n\n"],
    19: ["((a) is not (None))"],
}
"""What stands in its place, by the line where it begins."""


def test_sites() -> None:
    """A module's changes are of the five kinds, and none is in what only type checkers see."""
    found: dict[int, list[str]] = {}
    for site in sites(SOURCE):
        found.setdefault(site.line, []).append(site.text)

    assert {line: sorted(texts) for line, texts in found.items()} == CHANGES


def test_each_change_is_a_module() -> None:
    """Every change of a module is Python that differs, with as many lines as before."""
    source = (ROOT / "framework/_threads/deadlines.py").read_text("utf-8")
    plain = ast.dump(ast.parse(source))

    changed = [site.apply(source) for site in sites(source)]

    assert len(changed) > 10
    assert {text.count("\n") for text in changed} == {source.count("\n")}
    assert plain not in {ast.dump(ast.parse(text)) for text in changed}


def test_a_draw_is_of_its_seed(tmp_path: Path) -> None:
    """One seed draws the same faults of the packages every time, and another seed others."""
    for module in ("framework/one.py", "pytest_asyncframe/rooms/two.py", "tests/three.py"):
        (tmp_path / module).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / module).write_text(SOURCE, "utf-8")

    drawn = [draw(tmp_path, 6, seed) for seed in (1, 1, 2)]

    assert drawn[0] == drawn[1] != drawn[2]
    assert {each.room for each in draw(tmp_path, 14, 1)} == {
        "framework/one",
        "pytest_asyncframe/rooms",
    }


def test_batches() -> None:
    """Each test is in one batch at most, in its order, and no batch is longer than allowed."""
    names = [f"test_{number}" for number in range(2_000)]
    seconds = dict.fromkeys(names, 0.1)

    found = list(batches(names, seconds))

    assert [name for batch in found for name in batch] == names[: sum(map(len, found))]
    assert [len(batch) for batch in found] == [most for most, _ in BATCHES]
    assert list(batches(names[:2], dict.fromkeys(names, 1_000.0))) == [["test_0"], ["test_1"]]
