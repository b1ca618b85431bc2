"""Benchmarks: `python -m benchmarks.NAME --json`, or `make bench-NAME`. Commands, not tests: machines are noisy."""
