"""What the processes of one database share: who lives, orphans, places, windows, schedules."""
