"""How llmlite's cost compares with bare requests and with other clients: `python -m tests.benchmarks --help`."""
