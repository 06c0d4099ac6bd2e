"""All that a program may do if time passes once while others could go on, as on a slow machine."""

from __future__ import annotations

from tests.explore.oracle.interpreter import World, enumerated
from tests.explore.oracle.programs import END, Note, Program


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


def outcomes(program: Program, most: int) -> set[tuple[Note, ...]] | None:
    """Return all that a program may do; None if that takes more than so many runs."""
    return enumerated(lambda choices: SlowWorld(program, choices), most)
