"""All tasks of an app, from intake to drain, and which framework is current."""
