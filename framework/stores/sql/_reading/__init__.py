"""How tasks are read from a database: from memory, by pages, and from outside."""
