"""What the processes of one Redis share: the places of tasks, and schedules."""
