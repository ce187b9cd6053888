"""Spark transformations: pure functions of DataFrames. No reads, no writes, no clock, no unseeded draw."""
