"""The API of tdmq 2020-02-17: its wire types, and a handler for each `*Cmq*` action."""
