"""What is known of a task, as data, and how values are checked, shown and carried."""
