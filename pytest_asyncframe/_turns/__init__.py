"""Which threads of a test may run and when its time moves; built on raw locks alone."""
