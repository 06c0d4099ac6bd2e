"""Replacements of functions that wait: in a test they wait on its clock."""
