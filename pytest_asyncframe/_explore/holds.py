"""Holding actors back: what a schedule does where it says nothing.

Who is passed over in a deviation is held back: it comes only when nobody else can, as if its
thread or its coroutine had become slow. So it is one deviation, however many steps the others
make meanwhile. To let it go on sooner is another one, but not at the first chance.
"""

from __future__ import annotations

from pytest_asyncframe._explore.schedule import Step

_MOST_PASSED = 1_000
"""How often actors are passed over in a run, so that others do not wait for them forever."""


class Holds:
    """Takes the first option that is not held back; see `schedule.Rule`.

    What is held back follows from the options that were taken, and from nothing else. So equal
    runs are equal schedules, whoever has made the choices.
    """

    def __init__(self) -> None:
        # Whether the actor has been passed over since it was held back.
        self._held: dict[str, bool] = {}
        self._left = _MOST_PASSED

    def default(self, step: Step) -> int:
        """Return the index of the first option that is not held back; 0 if all are."""
        found = self._first(step)
        return 0 if found == len(step.options) else found

    def _first(self, step: Step) -> int:
        held = self._held
        if not held:
            return 0
        options = step.options
        return next((n for n, one in enumerate(options) if one not in held), len(options))

    def cost(self, step: Step, option: int) -> int:
        """Return 0 for letting an actor go on at the first chance, else 1."""
        if option < self._first(step):
            return int(self._held[step.options[option]])
        return 1

    def took(self, step: Step, option: int) -> None:
        """Hold back who was passed over, and let go on who was taken before its time."""
        held, options = self._held, step.options
        first = self._first(step)
        taken = self.default(step)
        if held:
            for one in options[:option]:
                if one in held:
                    held[one] = True
            if option == taken and taken:
                self._has_passed()
        if option != taken and self._left:
            if option > first:
                held[options[first]] = False
            held.pop(options[option], None)

    def _has_passed(self) -> None:
        self._left -= 1
        if not self._left:
            self._held.clear()
