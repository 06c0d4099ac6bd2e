"""Errors as JSON, as others will have them: another process, or a task that goes on."""
