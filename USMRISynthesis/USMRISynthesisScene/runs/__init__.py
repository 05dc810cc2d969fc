"""Work in the child process, as the scene sees it."""
