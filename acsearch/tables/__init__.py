"""Recorded tables: representations, their A and C, and their scores on benchmarks."""
