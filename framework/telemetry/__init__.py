"""What reports on the tasks of an app to other systems; each module needs its extra."""
