"""Access: who sees which tasks, and what is told at start about a router that is open to all."""
