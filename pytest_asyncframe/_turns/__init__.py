"""Whose turn it is in a test, and when virtual time moves.

`Sequencer` is what others use. It is built of `Turns`, who waits and is woken, and `Points`,
what may come next. All of a test is guarded by one lock, that of `Turns`: `Roster`,
`TaskQueue` and `Timers` are data that these three change while they hold it, and call nobody.
`Watchdog` and `Outside` are asked without the lock.
"""
