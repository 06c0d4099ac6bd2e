"""Accepting: what a route with the return type `Accepted` gets, and what it answers."""
