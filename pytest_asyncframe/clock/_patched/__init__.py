"""What waits in Python, replaced so that it waits on the clock of the test that runs now."""
