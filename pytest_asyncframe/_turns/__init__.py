"""Who may run in a test, and when its time moves; built on raw locks alone."""
