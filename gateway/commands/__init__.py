"""The verbs of `qcs-gateway` that have a family of their own; they parse and print."""
