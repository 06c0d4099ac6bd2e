"""What users call: the methods of a `TaskManager`, by subject."""
