"""What the `events` verbs do, beside a running server and on the same settings."""

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio

from gateway.administration import FOLLOW_S, follow, with_store
from gateway.clock import optional_wire_time, wire_time
from gateway.cmq import deliveries, subscribers
from gateway.cmq.deliveries import Fate
from gateway.cmq.push import dead_letters
from gateway.cmq.push.dead_letters import DeadLetter, Graveyard
from gateway.commands.dead_letter_work import dead_letter_members
from gateway.config import Settings
from gateway.errors import ResourceNotFound
from gateway.events import ledger, message_lookup
from gateway.events.bus import TopicAddress
from gateway.events.ledger import Entry, Sending, Wanted
from gateway.events.replay import Chosen, Replayed, Target, replay
from gateway.store import Store, Tx

FOLLOWED_AT_ONCE = 500
DEAD_LETTERS_SHOWN = 1_000


@dataclass(frozen=True, slots=True)
class Listed:
    """Events as JSON, the newest first. unknown: what was asked for and has no events at all."""

    records: list[bytes]
    unknown: list[str]


def list_events(settings: Settings, wanted: Wanted, *, limit: int) -> Listed:
    """The last events that fit."""

    def read(tx: Tx) -> Listed:
        found = ledger.list_last(tx, wanted, limit=limit)
        # Whatever is among these need not be looked for; the others may have other events.
        others = sorted(wanted.stream_ids - {entry.stream_id for entry in found})
        unknown = [each for each in others if not _has_events(tx, each)]
        return Listed([ledger.event_json(entry) for entry in found], unknown)

    return with_store(settings, lambda store: store.read_list(read))


def _has_events(tx: Tx, stream_id: str) -> bool:
    return bool(ledger.list_last(tx, Wanted(stream_ids=frozenset({stream_id})), limit=1))


def follow_events(
    settings: Settings, wanted: Wanted, *, last: int, show: Callable[[bytes], None]
) -> None:
    """Show the last events that fit, the oldest first, then each new one until SIGINT."""
    follow(settings, partial(_show_new, wanted=wanted, last=last, show=show))


async def _show_new(
    store: Store, *, wanted: Wanted, last: int, show: Callable[[bytes], None]
) -> None:
    at = await store.read_point(ledger.find_settled)
    newest_first = await store.read_list(
        lambda tx: ledger.list_last(tx, wanted, limit=last, upto=at)
    )
    entries: Sequence[Entry] = newest_first[::-1]
    while True:
        for entry in entries:
            show(ledger.event_json(entry))
        if len(entries) < FOLLOWED_AT_ONCE:
            await anyio.sleep(FOLLOW_S)
        page = await ledger.read_following(store, after=at, limit=FOLLOWED_AT_ONCE, wanted=wanted)
        entries, at = page.entries, page.reached


def describe_event(settings: Settings, identifier: str) -> dict[str, Any] | None:
    """An event with its messages, their deliveries and dead letters; None if there is none.

    identifier: of the event, or of one of its messages: then the event is shown with that one
    alone. What a user published, or what outlived its event, has no members of an event.
    """

    def read(tx: Tx) -> dict[str, Any] | None:
        entry = ledger.find(tx, identifier)
        if entry is not None:
            sendings = ledger.list_sendings(tx, entry)
            return _describe(tx, entry, sendings=sendings, ids={each.id for each in sendings})
        if not identifier.isprintable():  # no id, and it may be what no database takes
            return None
        found = message_lookup.find(tx, identifier)
        sendings = list(found.sendings) if found is not None else []
        entry = ledger.find(tx, found.event_id) if found is not None else None
        members = _describe(tx, entry, sendings=sendings, ids={identifier})
        return members if sendings or members["DeadLetters"] else None

    return with_store(settings, lambda store: store.read_list(read))


def _describe(
    tx: Tx, entry: Entry | None, *, sendings: Sequence[Sending], ids: Collection[str]
) -> dict[str, Any]:
    """An event, if there is one, with these of its messages. ids: of messages, for dead letters."""
    fates = deliveries.list_fates(tx, [each.position for each in sendings])
    dead: list[DeadLetter] = []
    if ids:
        graveyard = Graveyard(message_ids=frozenset(ids))
        dead = dead_letters.list_last(tx, graveyard, limit=DEAD_LETTERS_SHOWN)[::-1]
    members: dict[str, Any] = {}
    if entry is not None:
        members = json.loads(ledger.event_json(entry))
    members["Messages"] = [_sending_members(each, fates) for each in sendings]
    members["DeadLetters"] = [dead_letter_members(each) for each in dead]
    return members


def replay_events(
    settings: Settings, chosen: Chosen, *, subscription: str | None, dry_run: bool
) -> Replayed:
    """Tell the chosen messages again.

    Raises ResourceNotFound if there is no such topic or subscription to tell alone.

    subscription: the name of the one in the chosen topic that alone is told.
    """

    async def work(store: Store) -> Replayed:
        only = None
        if subscription is not None:
            find = partial(_get_target, topic_key=chosen.topic_key, name=subscription)
            only = await store.read_list(find)
        return await replay(store, chosen, subscribers=subscribers, only=only, dry_run=dry_run)

    return with_store(settings, work)


def why_nothing(settings: Settings, chosen: Chosen) -> str:
    """A sentence for whoever chose messages of which there are none."""
    topic = TopicAddress.parse(chosen.topic_key) if chosen.topic_key else None
    if topic is not None:
        find = partial(subscribers.find_route, topic_key=topic.key)
        if with_store(settings, lambda store: store.read_list(find)) is None:
            return f"There is {_no_topic(topic)}."
    if topic is None or chosen.id:
        return f"Nothing was told of {chosen.id!a}."
    return f"No message of topic {topic.name!a} fits what was asked for."


def _no_topic(topic: TopicAddress) -> str:
    return f"no topic {topic.name!a} in {topic.region}, account {topic.owner_uin}"


def _get_target(tx: Tx, *, topic_key: str, name: str) -> Target:
    found = subscribers.find_subscription(tx, topic_key, name=name)
    if found is None:
        topic = TopicAddress.parse(topic_key)
        if subscribers.find_route(tx, topic_key) is None:
            raise ResourceNotFound(f"there is {_no_topic(topic)}.")
        raise ResourceNotFound(f"topic {topic.name!a} has no subscription {name!a}.")
    return Target(
        found.id, lambda routing_key, tags: found.wants(routing_key=routing_key, tags=tags)
    )


def _sending_members(sending: Sending, fates: Sequence[Fate]) -> dict[str, Any]:
    """A message in its public form, with what became of it."""
    return {
        "MessageId": sending.id,
        "TopicName": TopicAddress.parse(sending.topic_key).name,
        "Replay": sending.replay,
        "OnlySubscriptionId": sending.only_subscription_id,
        "CreateTime": wire_time(sending.created_at),
        "ExpandTime": optional_wire_time(sending.expanded_at),
        "SendTime": optional_wire_time(sending.sent_at),
        "Deliveries": [_fate_members(each) for each in fates if each.position == sending.position],
    }


def _fate_members(fate: Fate) -> dict[str, Any]:
    return {
        "SubscriptionId": fate.subscription_id,
        "SubscriptionName": fate.subscription_name,
        "Protocol": fate.protocol,
        "State": fate.state,
        "Attempts": fate.attempts,
        "NextTime": optional_wire_time(fate.next_at),
        "ExpireTime": optional_wire_time(fate.expires_at),
        "Why": fate.why,
        "ChangeTime": wire_time(fate.changed_at),
    }
