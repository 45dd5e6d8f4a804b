"""Benchmarks: each runs beside its peers, in one run, and prints both sides and the ratio."""
