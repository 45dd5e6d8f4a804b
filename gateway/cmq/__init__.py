"""CMQ: topics, queues and subscriptions (tdmq 2020-02-17), and the classic data API (2017)."""
