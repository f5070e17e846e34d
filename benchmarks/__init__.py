"""Time and memory of a merge, measured on whole processes."""
