"""Tasks of other processes: found, awaited, cancelled, reported and taken over."""
