"""Running a test in several modes and over several transports, to find where they disagree."""
