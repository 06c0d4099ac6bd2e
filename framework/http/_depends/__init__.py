"""Values for the dependencies of a task's function, as FastAPI gets them for an endpoint."""
