"""Faults that a test plans: as data, and injected into tasks. Imports nothing."""
