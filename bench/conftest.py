"""`python -m pytest bench` runs the benchmarks, which the project's options skip among the tests."""


def pytest_configure(config) -> None:
    if hasattr(config.option, "benchmark_skip"):
        config.option.benchmark_skip = False
