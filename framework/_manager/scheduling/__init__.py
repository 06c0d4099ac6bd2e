"""Schedules: when they are due, who runs them, and what people can do with them."""
