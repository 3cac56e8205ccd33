"""One protocol, two executions: NumPy everywhere, torch where it is installed."""
