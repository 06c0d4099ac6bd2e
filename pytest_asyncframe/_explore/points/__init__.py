"""Where actors may be paused in a run: the levels, and what each of them follows."""
