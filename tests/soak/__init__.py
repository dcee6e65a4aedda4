"""The chaos soak, thousands of calls to a server that fails one in five: `python -m tests.soak --help`."""
