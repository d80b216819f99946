"""What the guard costs beside the bare SDK: ``python -m benchmarks``."""
