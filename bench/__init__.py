"""Benchmarks: `python -m pytest bench` (the README's extra `bench`)."""
