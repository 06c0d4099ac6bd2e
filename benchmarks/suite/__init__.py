"""An app and two suites of tests for it, which are alike but for how they deal with time."""
