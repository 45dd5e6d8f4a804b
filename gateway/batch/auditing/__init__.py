"""Auditing: holds the ledger against the states, and messages and deliveries against the ledger."""
