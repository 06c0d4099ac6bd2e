"""What waits for a thread of a pool, and in which order it comes."""
