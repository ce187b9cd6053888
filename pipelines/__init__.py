"""Spark transformations: pure functions from DataFrames to DataFrames. No reads, no writes, no clock, no unseeded draw."""
