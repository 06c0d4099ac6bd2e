"""The processes that run tasks of a test, and what is to be known of an app to import it there."""
