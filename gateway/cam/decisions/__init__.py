"""The decision log: what was decided, on disk, in a chain of hashes.

Read in this order: `log` (keeps a record of every call), `writer` and `chain` (where each record
stands, provably), `queries` (found again), `proofs` (verified and exported), `retention`.
"""
