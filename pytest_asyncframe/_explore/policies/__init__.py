"""Which schedules of a test are run, and how one that fails is made small."""
