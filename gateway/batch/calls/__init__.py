"""The Batch actions, family by family: each calls a transaction, and decides nothing itself."""
