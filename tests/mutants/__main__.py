"""How strong the suite is: the share of small faults in the product that it finds.

    python -m tests.mutants --count 200 --seed 1

Draws faults over all modules of the product, puts one after the other into a copy of the tree, and
runs the tests that reach its line, and then those that reach its module, until one fails. A first
run of the whole suite under coverage finds out which these are; ``--reach FILE`` takes one of
before. What no test finds is listed, with the change: it needs a test, or a reason why nobody
could tell.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from tests.mutants.reach import SECONDS, Reach
from tests.mutants.sites import Site, sites

PACKAGES = ("framework", "pytest_asyncframe")
BATCHES = ((40, 10.0), (300, 50.0), (1_000, 300.0))
"""How many tests are run at most, one batch after the other, and seconds that they took before.

Under coverage and beside others they take some times as long as they do here.
"""
HANGS = 600.0
"""Real seconds after which a batch hangs, and the fault is found."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One fault: a module, by its path from the root, and what is changed in it."""

    module: str
    site: Site

    @property
    def room(self) -> str:
        """Package and folder, or module, that it is in."""
        return "/".join(Path(self.module).with_suffix("").parts[:2])


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a mutant.

    Attributes:
        mutant: The fault.
        found_by: The test that failed, or how else it was found; None if it was not.
        tests: How many tests were run.
    """

    mutant: Mutant
    found_by: str | None
    tests: int


def draw(root: Path, count: int, seed: int) -> list[Mutant]:
    """Draw *count* faults evenly from all that the five kinds allow."""
    modules = sorted(path for package in PACKAGES for path in (root / package).rglob("*.py"))
    every = [
        Mutant(str(module.relative_to(root)), site)
        for module in modules
        for site in sites(module.read_text("utf-8"))
    ]
    return random.Random(seed).sample(every, count)


def batches(names: Sequence[str], seconds: dict[str, float]) -> Iterator[list[str]]:
    """Yield the tests to run next, each once, as `BATCHES` bounds them."""
    left = list(names)
    for most, limit in BATCHES:
        batch: list[str] = []
        while left and len(batch) < most and sum(map(seconds.__getitem__, batch)) < limit:
            batch.append(left.pop(0))
        if batch:
            yield batch


class Copy:
    """A copy of the tree, for one mutant at a time."""

    def __init__(self, root: Path, folder: Path) -> None:
        self._root = root
        self._folder = folder
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=True
        )
        for name in filter(None, listed.stdout.split("\0")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, folder / name)

    def judge(self, mutant: Mutant, reach: Reach) -> Verdict:
        """Run the tests that reach a mutant's module, until one fails without failing otherwise."""
        place = self._folder / mutant.module
        source = place.read_text("utf-8")
        changed = mutant.site.apply(source)
        ran = 0
        for batch in batches(reach.tests(mutant.module, mutant.site.line), reach.seconds):
            left = batch
            while left:
                place.write_text(changed, "utf-8")
                try:
                    failed = self._run(left)
                finally:
                    place.write_text(source, "utf-8")
                if failed is None:
                    break
                if failed not in left:  # it hung, or pytest itself did not start
                    return Verdict(mutant, failed, ran + len(left))
                ran += left.index(failed) + 1
                if self._run([failed]) is None:
                    return Verdict(mutant, failed, ran)
                left = left[left.index(failed) + 1 :]  # it fails without a fault too
            ran += len(left)
        return Verdict(mutant, None, ran)

    def _run(self, names: Sequence[str]) -> str | None:
        """Return the first test that fails, in words what went wrong otherwise, or None."""
        with tempfile.TemporaryDirectory(prefix="asyncframe-mutants-") as scratch:
            told = Path(scratch, "failed.json")
            listed = Path(scratch, "tests.txt")
            listed.write_text("\n".join(names), "utf-8")
            command = [sys.executable, "-m", "pytest", "-q", "-x", "-m", "", "--timeout", "60"]
            command += ["-p", "no:randomly", "-p", "no:cacheprovider", "-p", "tests.mutants.first"]
            process = subprocess.Popen(
                [*command, f"@{listed}"],
                cwd=self._folder,
                env={
                    **os.environ,
                    "PYTHONPATH": str(self._folder),
                    "PYTHONDONTWRITEBYTECODE": "1",
                    "ASYNCFRAME_FIRST_FAILURE": str(told),
                },
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            try:
                status = process.wait(HANGS)
            except subprocess.TimeoutExpired:
                return "it hangs"
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            if status == 0:
                return None
            if told.exists():
                return str(json.loads(told.read_text("utf-8")))
            return f"pytest ended with {status}"


def measure(root: Path, data: Path, arguments: Sequence[str]) -> None:
    """Run the suite under coverage, with a context for each test."""
    command = [sys.executable, "-m", "coverage", "run", f"--data-file={data}", "-m", "pytest"]
    command += ["-q", "-m", "not soak", "-p", "tests.mutants.reach", *arguments]
    path = {**os.environ, "PYTHONPATH": str(root)}
    subprocess.run(command, cwd=root, env=path, check=False)  # a failure leaves the rest
    parts = [str(part) for part in data.parent.glob(f"{data.name}.*") if part.suffix[1:] != SECONDS]
    combine = [sys.executable, "-m", "coverage", "combine", f"--data-file={data}", *parts]
    subprocess.run(combine, cwd=root, check=True)


def judge_all(root: Path, mutants: Iterable[Mutant], reach: Reach, jobs: int) -> Iterator[Verdict]:
    """Yield a verdict for each mutant, in their order, from *jobs* copies of the tree."""
    with tempfile.TemporaryDirectory(prefix="asyncframe-mutants-") as scratch:
        copies: SimpleQueue[Copy] = SimpleQueue()
        for number in range(jobs):
            copies.put(Copy(root, Path(scratch, str(number))))

        def judge(mutant: Mutant) -> Verdict:
            copy = copies.get()
            try:
                return copy.judge(mutant, reach)
            finally:
                copies.put(copy)

        with ThreadPoolExecutor(jobs) as pool:
            yield from pool.map(judge, mutants)


def show(root: Path, verdict: Verdict) -> None:
    """Print a line for a mutant, and its change if it was not found."""
    mutant, site = verdict.mutant, verdict.mutant.site
    where = f"{mutant.module}:{site.line}"
    if verdict.found_by is not None:
        print(f"found    {where} {site.kind}: {verdict.found_by}", flush=True)
        return
    source = (root / mutant.module).read_text("utf-8")
    was = source.encode()[site.start : site.stop].decode()
    change = f"{was} -> {site.text}" if site.text != "pass" else was
    ran = f"{verdict.tests} tests ran" if verdict.tests else "no test reaches its module"
    print(f"SURVIVED {where} {site.kind} ({ran}): {' '.join(change.split())}", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw, judge and report; 1 if fewer were found than ``--at-least``."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--count", type=int, default=200, help="how many faults (200)")
    parser.add_argument("--seed", type=int, default=1, help="which ones (1)")
    parser.add_argument("--at-least", type=float, default=0.0, help="share to be found, 0 to 1 (0)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="copies of the tree")
    parser.add_argument("--tree", type=Path, default=Path.cwd(), help="what is tested (.)")
    parser.add_argument("--reach", type=Path, help="coverage data of a run before")
    parser.add_argument("tests", nargs="*", help="arguments of pytest for the run under coverage")
    options = parser.parse_args(arguments)
    root = options.tree.resolve()
    with tempfile.TemporaryDirectory(prefix="asyncframe-reach-") as scratch:
        data = options.reach
        if data is None:
            data = Path(scratch, "reach")
            measure(root, data, options.tests)
        reach = Reach(data, root)
        mutants = draw(root, options.count, options.seed)
        drawn: Counter[str] = Counter()
        found: Counter[str] = Counter()
        for verdict in judge_all(root, mutants, reach, options.jobs):
            show(root, verdict)
            drawn[verdict.mutant.room] += 1
            found[verdict.mutant.room] += verdict.found_by is not None
    for room in sorted(drawn):
        print(f"{room:36} {found[room]:4} of {drawn[room]}")
    share = found.total() / drawn.total()
    print(f"{'all':36} {found.total():4} of {drawn.total()}, {share:.0%}")
    return int(share < options.at_least)


if __name__ == "__main__":
    sys.exit(main())
