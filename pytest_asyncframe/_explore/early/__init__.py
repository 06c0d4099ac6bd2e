"""Early timeouts: time that passes until something that waits gives up, while others could run.

On a slow machine time passes while a thread or a step of a loop stands still. Then its timeout
ends a wait that would have been served.

Guarantees: time passes for all, and timers fire in the order of their times.
    Only timeouts of the app are taken, and never beyond a timer that the test itself waits for.
"""
