"""What a process writes into the database, and the thread that does it."""
