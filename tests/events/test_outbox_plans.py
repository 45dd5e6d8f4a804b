"""Looking for what waits costs by how much waits, not by how much was told before."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from sqlalchemy import Select, insert, text

from gateway.events import outbox, tables
from gateway.store import Store, Tx
from tests.support.events import JOB_TOPIC, NOW, message
from tests.support.plans import plan_of

pytestmark = pytest.mark.anyio

TOLD, WAITING = 12_000, 3_000
UNSENT, UNEXPANDED = "ix_event_message_unsent", "ix_event_message_unexpanded"
LOOKS: Mapping[str, tuple[Callable[[str], Select[Any]], dict[str, Any], str]] = {
    "a page of a topic": (
        lambda dialect: tables.UNSENT[dialect],
        {"topic_key": JOB_TOPIC.key, "after": 0, "limit": 64, "short_bytes": 2_048},
        UNSENT,
    ),
    "the topics": (lambda _: tables.WAITING_TOPICS, {}, UNSENT),
    "how many": (lambda _: tables.COUNT_UNSENT, {}, UNSENT),
    "since when": (lambda _: tables.OLDEST_UNSENT, {}, UNSENT),
    "what is to be delivered": (
        lambda _: tables.UNEXPANDED,
        {"limit": 256, "short_bytes": 2_048},
        UNEXPANDED,
    ),
    "whether there is": (lambda _: tables.ANY_UNEXPANDED, {}, UNEXPANDED),
}


def row(number: int) -> dict[str, Any]:
    told_at = NOW if number <= TOLD else None
    return {
        "id": message(number).id,
        "topic_key": JOB_TOPIC.key if number % 2 else "another",
        "shard": 0,
        "routing_key": "",
        "tags": outbox.NO_TAGS,
        "body": b"x" * 300,
        "created_at": NOW,
        "expanded_at": told_at,
        "sent_at": told_at,
    }


@pytest.fixture
async def filled(store: Store) -> Store:
    """Many messages that were told, and some that wait; PostgreSQL has counted them, as it does."""

    def fill(tx: Tx) -> None:
        tx.execute(insert(tables.message), [row(n) for n in range(1, TOLD + WAITING + 1)])
        if tx.dialect == "postgresql":
            tx.execute(text("ANALYZE event_message"))

    await store.write(fill)
    return store


@pytest.mark.parametrize("what", LOOKS)
async def test_no_look_goes_through_what_was_told(filled: Store, what: str) -> None:
    statement, parameters, index = LOOKS[what]

    def look(tx: Tx) -> str:
        if tx.dialect == "postgresql":  # of a table as small as this it may read everything
            tx.execute(text("SET LOCAL enable_seqscan = off"))
        return plan_of(tx, statement(tx.dialect), parameters)

    plan = await filled.read_list(look)
    assert index in plan, plan
    assert plan.count("pk_event_message") + plan.count("PRIMARY KEY") == (what == "since when"), (
        plan
    )
