"""The database of a store: its connections, its tables, its rows, and the SQL for them."""
