"""Histories of operations, compared with a model that does one operation at a time."""
