"""Benchmarks of the daemon's own rooms together: `qkdd bench pipeline`."""
