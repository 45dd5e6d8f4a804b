"""Compute environments: what callers ask of them, and the loop that keeps their nodes."""

ENVIRONMENTS = "environments"
"""The signal that wakes the keeper: nodes were ordered, given up, or have a fate."""
