"""What the `events dead-letters` verbs do, beside a running server and on the same settings."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from gateway.administration import with_store
from gateway.clock import now, optional_wire_time, wire_time
from gateway.cmq.push import dead_letters, replaying
from gateway.cmq.push.dead_letters import DeadLetter, Graveyard
from gateway.config import Settings
from gateway.events.bus import TopicAddress
from gateway.store import Store, Tx


def list_dead_letters(settings: Settings, wanted: Graveyard, *, limit: int) -> list[dict[str, Any]]:
    """The last dead letters that are meant, the newest first, without their bodies."""
    found = with_store(
        settings,
        lambda store: store.read_list(lambda tx: dead_letters.list_last(tx, wanted, limit=limit)),
    )
    return [dead_letter_members(each) for each in found]


def find_dead_letter(settings: Settings, letter_id: int) -> dict[str, Any] | None:
    """A dead letter with its body as text; None if there is none of this id."""
    found = with_store(
        settings, lambda store: store.read_list(lambda tx: dead_letters.find(tx, letter_id))
    )
    if found is None:
        return None
    letter, body = found
    return {**dead_letter_members(letter), "Body": body.decode(errors="backslashreplace")}


def replay_dead_letters(settings: Settings, letter_ids: Sequence[int]) -> dict[int, str]:
    """Tell dead letters again, all that can be; returns why for those that could not."""

    async def work(store: Store) -> dict[int, str]:
        failures: dict[int, str] = {}
        for first in range(0, len(letter_ids), dead_letters.PAGE):
            page = letter_ids[first : first + dead_letters.PAGE]
            failures |= await store.write(partial(_replay_page, letter_ids=page))
        return failures

    return with_store(settings, work)


def replay_graveyard(settings: Settings, wanted: Graveyard) -> tuple[int, dict[int, str]]:
    """Tell all dead letters again that are meant: how many could be, and why others could not."""

    async def work(store: Store) -> tuple[int, dict[int, str]]:
        told, failures, after = 0, dict[int, str](), 0
        upto = await store.read_list(dead_letters.find_last_id)
        while page := await store.read_list(
            partial(dead_letters.list_ids, wanted=wanted, after=after, upto=upto)
        ):
            failed = await store.write(partial(_replay_page, letter_ids=page))
            told, failures, after = told + len(page) - len(failed), failures | failed, page[-1]
        return told, failures

    return with_store(settings, work)


def dead_letter_members(letter: DeadLetter) -> dict[str, Any]:
    """A dead letter in its public form."""
    topic = TopicAddress.parse(letter.topic_key)
    return {
        "Id": letter.id,
        "MessageId": letter.message_id,
        "EventName": letter.event_name,
        "Owner": topic.owner_uin,
        "Region": topic.region,
        "TopicName": topic.name,
        "SubscriptionId": letter.subscription_id,
        "SubscriptionName": letter.subscription_name,
        "Endpoint": letter.endpoint,
        "Attempts": letter.attempts,
        "Why": letter.why,
        "CreateTime": wire_time(letter.created_at),
        "DeathTime": wire_time(letter.died_at),
        "ReplayTime": optional_wire_time(letter.replayed_at),
    }


def _replay_page(tx: Tx, *, letter_ids: Sequence[int]) -> dict[int, str]:
    return replaying.replay(tx, letter_ids, now=now())
