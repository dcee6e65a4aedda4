"""The fault matrix: every fault of a network or a server in every dialect, as a table (`python -m tests.faults`)."""
