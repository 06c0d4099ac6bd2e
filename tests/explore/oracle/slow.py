"""All that a program may do if time passes once while others could go on, as on a slow machine."""

from __future__ import annotations

from functools import partial

from tests.explore.oracle.interpreter import Callback, Coroutine, World, enumerated
from tests.explore.oracle.programs import END, Note, Program
from tests.explore.oracle.threads import Thread


class SlowWorld(World):
    """One run of a program in which time may pass once, to any timer, before any step."""

    def run(self) -> tuple[Note, ...]:
        """Run it to the end; return what has happened."""
        is_slow = False
        while True:
            times = sorted({when for when, _ in self.timers.values()})
            due = [
                one
                for one, (when, _) in self.timers.items()
                if when <= self.now and when == times[0]
            ]
            later = [] if is_slow else [when for when in times if when > self.now]
            options = len(self.ready) + len(due)
            if not options:
                self.now = times[0] if times else END
                if self.now >= END:
                    return tuple(self.notes)
                continue
            chosen = self._choose(options + len(later))
            if chosen >= options:
                is_slow, self.now = True, later[chosen - options]
            elif chosen < len(self.ready):
                self.ready.pop(chosen).step()
            else:
                _, fn = self.timers.pop(due[chosen - len(self.ready)])
                fn()


class SlowThreads(World):
    """The same of a program that has threads alone: time may pass where one could go on."""

    is_slow = False

    def _options(self) -> list[Coroutine | Callback | Thread | int]:
        self.timers = {number: timer for number, timer in self.timers.items() if number > 0}
        times = sorted({when for when, _ in self.timers.values()})
        # Timers fire in the order of their times.
        found = [
            one
            for one in super()._options()
            if not isinstance(one, int) or self.timers[one][0] == times[0]
        ]
        if not self.is_slow and found:
            for when in (when for when in times if when > self.now):
                # That time passes is a timer too, and comes only if it is chosen.
                self.timers[-when] = (END, partial(self._pass_to, when))
                found.append(-when)
        return found

    def _pass_to(self, when: int) -> None:
        self.is_slow, self.now = True, when


def outcomes(program: Program, most: int) -> set[tuple[Note, ...]] | None:
    """Return all that a program may do; None if that takes more than so many runs."""
    return enumerated(lambda choices: SlowWorld(program, choices), most)


def outcomes_of_threads(
    program: Program, most: int, points: frozenset[str]
) -> set[tuple[Note, ...]] | None:
    """Return all that a program of threads may do; see `outcomes` and `World`."""
    return enumerated(lambda choices: SlowThreads(program, choices, points), most)
