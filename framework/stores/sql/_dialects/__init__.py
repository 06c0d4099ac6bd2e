"""The databases that a store can use, and all in which they differ."""
