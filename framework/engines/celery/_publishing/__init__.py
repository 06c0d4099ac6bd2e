"""How tasks get to the broker, and what is done if they were lost on the way."""
