"""How one task runs: counting, starting, retrying, limiting and ending it, and telling others."""
