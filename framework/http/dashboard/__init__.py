"""The dashboard: one page that shows tasks while they run, and the facts that it asks for."""
