"""What the `events` verbs do, beside a running server and on the same settings."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import anyio

from gateway.administration import FOLLOW_S, follow, with_store
from gateway.clock import now, optional_wire_time, wire_time
from gateway.cmq import outcomes, subscribers
from gateway.cmq.outcomes import DeadLetter, Delivery, Graveyard
from gateway.config import Settings
from gateway.errors import ResourceNotFound
from gateway.events import ledger
from gateway.events.ledger import Entry, Sending, Wanted
from gateway.events.replay import Chosen, Recipient, Replayed, replay
from gateway.store import Store, Tx

FOLLOWED_AT_ONCE = 500
DEAD_LETTERS_SHOWN = 1_000


def list_events(settings: Settings, wanted: Wanted, *, limit: int) -> list[bytes]:
    """The last events that fit, as JSON, the newest first."""
    found = with_store(
        settings,
        lambda store: store.read_list(lambda tx: ledger.list_last(tx, wanted, limit=limit)),
    )
    return [ledger.event_json(entry) for entry in found]


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


def describe_event(settings: Settings, event_id: str) -> dict[str, Any] | None:
    """An event with its messages, their deliveries and dead letters; None if there is none."""

    def read(tx: Tx) -> dict[str, Any] | None:
        entry = ledger.find(tx, event_id)
        return None if entry is None else _describe(tx, entry)

    return with_store(settings, lambda store: store.read_list(read))


def _describe(tx: Tx, entry: Entry) -> dict[str, Any]:
    sendings = ledger.list_sendings(tx, entry)
    deliveries = outcomes.list_deliveries(tx, [each.position for each in sendings])
    dead: list[DeadLetter] = []
    if sendings:
        graveyard = Graveyard(message_ids=frozenset(each.id for each in sendings))
        dead = outcomes.list_dead_letters(tx, graveyard, limit=DEAD_LETTERS_SHOWN)[::-1]
    members: dict[str, Any] = json.loads(ledger.event_json(entry))
    members["Messages"] = [_sending_members(each, deliveries) for each in sendings]
    members["DeadLetters"] = [dead_letter_members(each) for each in dead]
    return members


def replay_events(
    settings: Settings, chosen: Chosen, *, subscription: str | None, dry_run: bool
) -> Replayed:
    """Tell the chosen messages again. Raises ResourceNotFound if there is no such subscription.

    subscription: the name of the one in the chosen topic that alone is told.
    """

    async def work(store: Store) -> Replayed:
        only = None
        if subscription is not None:
            find = partial(_get_recipient, topic_key=chosen.topic_key, name=subscription)
            only = await store.read_list(find)
        return await replay(store, chosen, subscribers=subscribers, only=only, dry_run=dry_run)

    return with_store(settings, work)


def _get_recipient(tx: Tx, *, topic_key: str, name: str) -> Recipient:
    found = outcomes.find_subscription(tx, topic_key, name=name)
    if found is None:
        raise ResourceNotFound(f"topic {topic_key} has no subscription `{name}`")
    return Recipient(
        found.id, lambda routing_key, tags: found.wants(routing_key=routing_key, tags=tags)
    )


def list_dead_letters(settings: Settings, wanted: Graveyard, *, limit: int) -> list[dict[str, Any]]:
    """The last dead letters that are meant, the newest first, without their bodies."""
    found = with_store(
        settings,
        lambda store: store.read_list(
            lambda tx: outcomes.list_dead_letters(tx, wanted, limit=limit)
        ),
    )
    return [dead_letter_members(each) for each in found]


def find_dead_letter(settings: Settings, letter_id: int) -> dict[str, Any] | None:
    """A dead letter with its body as text; None if there is none of this id."""
    found = with_store(
        settings,
        lambda store: store.read_list(lambda tx: outcomes.find_dead_letter(tx, letter_id)),
    )
    if found is None:
        return None
    letter, body = found
    return {**dead_letter_members(letter), "Body": body.decode(errors="backslashreplace")}


def replay_dead_letters(settings: Settings, letter_ids: Sequence[int]) -> dict[int, str]:
    """Tell dead letters again, all that can be; returns why for those that could not."""

    async def work(store: Store) -> dict[int, str]:
        failures: dict[int, str] = {}
        for first in range(0, len(letter_ids), outcomes.PAGE):
            page = letter_ids[first : first + outcomes.PAGE]
            failures |= await store.write(partial(_replay_page, letter_ids=page))
        return failures

    return with_store(settings, work)


def replay_graveyard(settings: Settings, wanted: Graveyard) -> tuple[int, dict[int, str]]:
    """Tell all dead letters again that are meant: how many could be, and why others could not."""

    async def work(store: Store) -> tuple[int, dict[int, str]]:
        told, failures, after = 0, dict[int, str](), 0
        upto = await store.read_list(outcomes.find_last_id)
        while page := await store.read_list(
            partial(outcomes.list_ids, wanted=wanted, after=after, upto=upto)
        ):
            failed = await store.write(partial(_replay_page, letter_ids=page))
            told, failures, after = told + len(page) - len(failed), failures | failed, page[-1]
        return told, failures

    return with_store(settings, work)


def _replay_page(tx: Tx, *, letter_ids: Sequence[int]) -> dict[int, str]:
    return outcomes.replay(tx, letter_ids, now=now())


def _sending_members(sending: Sending, deliveries: Sequence[Delivery]) -> dict[str, Any]:
    """A message in its public form, with what became of it."""
    return {
        "MessageId": sending.id,
        "TopicName": _topic_name(sending.topic_key),
        "Replay": sending.replay,
        "OnlySubscriptionId": sending.only_subscription_id,
        "CreateTime": wire_time(sending.created_at),
        "ExpandTime": optional_wire_time(sending.expanded_at),
        "SendTime": optional_wire_time(sending.sent_at),
        "Deliveries": [
            _delivery_members(each) for each in deliveries if each.position == sending.position
        ],
    }


def _delivery_members(delivery: Delivery) -> dict[str, Any]:
    return {
        "SubscriptionId": delivery.subscription_id,
        "SubscriptionName": delivery.subscription_name,
        "Protocol": delivery.protocol,
        "State": delivery.state,
        "Attempts": delivery.attempts,
        "NextTime": optional_wire_time(delivery.next_at),
        "ExpireTime": optional_wire_time(delivery.expires_at),
        "Why": delivery.why,
        "ChangeTime": wire_time(delivery.changed_at),
    }


def dead_letter_members(letter: DeadLetter) -> dict[str, Any]:
    """A dead letter in its public form."""
    owner_uin, region, topic_name = letter.topic_key.split("/", 2)
    return {
        "Id": letter.id,
        "MessageId": letter.message_id,
        "EventName": letter.event_name,
        "Owner": owner_uin,
        "Region": region,
        "TopicName": topic_name,
        "SubscriptionId": letter.subscription_id,
        "SubscriptionName": letter.subscription_name,
        "Endpoint": letter.endpoint,
        "Attempts": letter.attempts,
        "Why": letter.why,
        "CreateTime": wire_time(letter.created_at),
        "DeathTime": wire_time(letter.died_at),
        "ReplayTime": optional_wire_time(letter.replayed_at),
    }


def _topic_name(topic_key: str) -> str:
    return topic_key.split("/", 2)[2]
