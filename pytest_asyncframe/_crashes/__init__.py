"""Crash points: a test is run once for each point at which its process can die."""
