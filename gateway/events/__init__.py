"""WHAT HAPPENED: the ledger of events, and the outbox of the messages that are made of them.

The relay delivers what is in the outbox, and sends it to the broker; a replay tells it again.
"""
