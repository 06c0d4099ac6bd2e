"""How often the store's thread writes, reads and gives a sign of life."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pace:
    """The intervals of the thread, in seconds above 0.

    Attributes:
        gather: How long records are collected before a batch is written, while no caller waits
            until a record is safe.
        hurry: The same while callers wait, and come in bursts.
        look: Between two reads of what others have written.
        watch: The same while somebody waits for a change of another process's task.
        beat: Between two increments of this process's counter.
        pause_min: After the first fault; doubled after each further one.
        pause_max: The longest pause after a fault.
        aside: Between two attempts to write records that were set aside.
    """

    gather: float = 0.02
    hurry: float = 0.001
    look: float = 0.1
    watch: float = 0.05
    beat: float = 1.0
    pause_min: float = 0.05
    pause_max: float = 1.0
    aside: float = 5.0
