"""Apps: what the framework does with an app when it starts, handles requests and stops."""
