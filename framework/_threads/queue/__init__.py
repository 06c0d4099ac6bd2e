"""What waits for a thread of a pool, in which order it comes, and which threads stand in."""
