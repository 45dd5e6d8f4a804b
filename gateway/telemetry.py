"""Logs and metrics: structlog on stderr, prometheus counters on the management port.

Never a secret, signature, token or request body in a log line.
"""

import logging
import sys
from functools import lru_cache

import structlog
from prometheus_client import Counter, Gauge, Histogram

log: structlog.stdlib.BoundLogger = structlog.get_logger()

CALLS = Counter("qcs_gateway_calls", "Calls answered, by public code.", ["code"])
CALL_SECONDS = Histogram("qcs_gateway_call_seconds", "Time from request to answer.")
EVENTS_RECORDED = Counter("qcs_gateway_events_recorded", "Events written to the ledger.")
MESSAGES_PUBLISHED = Counter("qcs_gateway_messages_published", "Messages the broker confirmed.")
MESSAGES_WAITING = Gauge("qcs_gateway_messages_waiting", "Messages not yet sent.")
OLDEST_MESSAGE_SECONDS = Gauge(
    "qcs_gateway_oldest_message_seconds", "How long the oldest unsent message has waited."
)
PUSHES = Counter("qcs_gateway_pushes", "HTTP pushes, delivered or failed.", ["outcome"])
DEAD_LETTERS = Counter("qcs_gateway_dead_letters", "Messages given up, by why.", ["why"])
PUSH_SECONDS = Histogram(
    "qcs_gateway_push_seconds",
    "Time from a push's connecting to the head of its answer.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15),
)
PUSHES_WAITING = Gauge("qcs_gateway_pushes_waiting", "Messages that wait to be pushed.")
OLDEST_PUSH_SECONDS = Gauge(
    "qcs_gateway_oldest_push_seconds", "How long the oldest message to be pushed has waited."
)
SUBSCRIPTIONS_PAUSED = Gauge(
    "qcs_gateway_subscriptions_paused", "HTTP subscriptions that are only probed."
)
BROKER_CONNECTED = Gauge("qcs_gateway_broker_connected", "1 while there is a line to the broker.")
TOPICS_HELD = Gauge(
    "qcs_gateway_topics_held", "Topics with an exchange or a queue that the broker refuses."
)
BROKER_BLOCKED = Gauge("qcs_gateway_broker_blocked", "1 while the broker takes no messages.")
POLICY_GENERATION = Gauge("qcs_gateway_policy_generation", "The policy snapshot in force.")
POLICY_BROKEN = Gauge("qcs_gateway_policy_broken", "1 while the policy files on disk are refused.")
DECISIONS_DROPPED = Counter("qcs_gateway_decisions_dropped", "Decisions answered and not kept.")
LOOP_FAILURES = Counter(
    "qcs_gateway_loop_failures", "Loops that failed and were begun anew.", ["loop"]
)
LEDGER_DISCREPANCIES = Gauge(
    "qcs_gateway_ledger_discrepancies", "What the ledger and the states disagree on: must be 0."
)
DISK_FREE_BYTES = Gauge("qcs_gateway_disk_free_bytes", "What is left for the data folder.")
EVENT_STREAMS = Gauge("qcs_gateway_event_streams", "Streams of events that are open.")
EXECUTOR_SILENT = Gauge("qcs_gateway_executor_silent", "1 while no executor answers.")
INSTANCES_RUNNING = Gauge("qcs_gateway_instances_running", "Task instances running now.")


@lru_cache(maxsize=1_024)
def calls_of(code: str) -> Counter:
    """The counter of the calls answered with a code: to find it takes longer than to count."""
    return CALLS.labels(code=code)


def configure_logging() -> None:
    """Send every log line to stderr as one JSON object, our own and the libraries' alike."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    for chatty in ("alembic", "casbin", "uvicorn"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
