"""What an app says of its tasks, and everybody who sees a task sees."""
