"""WHAT HAPPENED: event names, messages, the outbox they wait in, and the relay that sends them."""
