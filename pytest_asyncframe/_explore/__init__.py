"""Running a test under many schedules, to find races and to say what a pass proves."""
