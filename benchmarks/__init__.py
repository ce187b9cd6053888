"""Benchmarks: every figure is a ratio to a named peer on the same data, with the same answer, taken in one run."""
