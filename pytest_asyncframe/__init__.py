"""The pytest plugin of asyncframe: tests of tasks that never sleep."""
