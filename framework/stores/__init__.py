"""Where the records of finished tasks are kept."""
