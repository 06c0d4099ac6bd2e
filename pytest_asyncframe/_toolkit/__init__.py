"""The parts of one test, put together. Imports nothing: every pytest run loads the options."""
