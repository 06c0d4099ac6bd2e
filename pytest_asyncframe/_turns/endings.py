"""What becomes of the threads of a test that has ended.

Relies on: `turns`, through whose `_stop` each wait goes.
"""

from __future__ import annotations

from pytest_asyncframe._turns.actors import Actor, TestEndedError
from pytest_asyncframe._turns.turns import Turns


class EndingTurns(Turns):
    """The actors of one test, whose waits end with it.

    Args:
        one_at_a_time: Whether only one actor runs at a time.
    """

    def __init__(self, *, one_at_a_time: bool) -> None:
        super().__init__(one_at_a_time=one_at_a_time)
        self._has_waits = True

    def end_waits(self) -> None:
        """Raise `TestEndedError` in every actor that waits, or is about to from now on.

        All but `first`, which ends the test. Who is ready now would otherwise wait for ever,
        at its next wait, for what nobody does any more.
        """
        with self._lock:
            self._has_waits = False
            for actor in self.actors.values():
                if actor is not self.first:
                    self._throw(actor, TestEndedError())
        self.dispatch()

    def _stop(self, actor: Actor, until: int | None, wants: object) -> None:
        if not self._has_waits and actor is not self.first:
            actor.refuse_wait()
        super()._stop(actor, until, wants)
