"""Benchmarks: `python -m bench`, and `python -m pytest bench` for single cases (the README's extra `bench`)."""
