"""What a task waits for: its next attempt, a throttle, a place, or a permit to start."""
