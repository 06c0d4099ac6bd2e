"""Free tasks: which no process has, how they become free, and who takes them."""
