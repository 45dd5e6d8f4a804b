"""Rebinding: a binding that comes or goes holds for what is published from then on.

What was published before may still wait, for the broker can be away for hours. So a change waits
behind it: the lane that publishes the topic's messages gives the broker the bindings of each
stretch of them, and makes the change when all before it are confirmed.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gateway.events import tables
from gateway.events.bus import Binding, Route, TopicAddress
from gateway.events.outbox import Waiting, wake
from gateway.store import Tx


@dataclass(frozen=True, slots=True)
class Change:
    """A change of what the broker has for a topic, which waits for messages before it.

    binding: None: the exchange itself goes. subscription_id: whose it is, or was; empty for the
    exchange. since, until: the positions that it is for are those after `since`, up to `until`;
    without an end it comes, with one it goes.
    """

    id: int
    exchange: str
    binding: Binding | None
    subscription_id: str
    since: int
    until: int | None

    @property
    def comes(self) -> bool:
        """Whether the binding is new, and not one that goes."""
        return self.until is None

    @property
    def behind(self) -> int:
        """The last position before the change."""
        return self.since if self.until is None else self.until

    def covers(self, position: int) -> bool:
        """Whether the binding is for the message at a position."""
        return self.since < position and (self.until is None or position <= self.until)


@dataclass(frozen=True, slots=True)
class Stretch:
    """Unsent messages of a topic up to the next change, and what is to be done before them.

    route: what the broker must have for them; None: there is no topic any more, and nobody to give
    them to. changes: those that are due once all messages before are confirmed.
    """

    route: Route | None
    changes: tuple[Change, ...]
    waiting: Waiting


def begin(
    tx: Tx, topic: TopicAddress, subscription_id: str, *, bindings: Collection[Binding]
) -> None:
    """Have bindings of a topic, which the caller has locked, come after what waits in it.

    Why after the changes that wait, too: what was given up with a topic of that name may be on its
    way to the broker all the same, and the exchange goes behind it.
    """
    if not bindings:
        return
    changes = list_changes(tx, topic.key)
    if since := max([_last_unsent(tx, topic), *(each.behind for each in changes)]):
        rows = [_row(topic, subscription_id, each, since=since, until=None) for each in bindings]
        tx.execute(tables.ADD_CHANGES, rows)
        wake(tx, {topic.key})


def retire(
    tx: Tx,
    topic: TopicAddress,
    subscription_id: str,
    *,
    bindings: Collection[Binding],
    shared: Collection[Binding],
    was_served: bool = True,
) -> None:
    """Have bindings of a topic, which the caller has locked, go after what waits in it.

    shared: bindings that other subscriptions have, too; the broker keeps these. was_served: if
    not, they go at once.
    """
    if not bindings:
        return
    until = _last_unsent(tx, topic) if was_served else 0
    coming = {each.binding: each for each in list_changes(tx, topic.key) if each.comes}
    since = {binding: each.since for binding, each in coming.items()}
    rows = [
        _row(topic, subscription_id, each, since=since.get(each, 0), until=until)
        for each in bindings
    ]
    overtaken = {*bindings} - {*shared}
    drop(tx, [each for binding, each in coming.items() if binding in overtaken])
    tx.execute(tables.ADD_CHANGES, rows)
    wake(tx, {topic.key})


def retire_exchange(tx: Tx, topic: TopicAddress) -> None:
    """Have the exchange of a topic go, which is deleted, after what waits in it."""
    tx.execute(tables.ADD_CHANGES, _row(topic, "", None, since=0, until=_last_unsent(tx, topic)))
    wake(tx, {topic.key})


def last_claimed(tx: Tx, topic_key: str) -> int:
    """The last position of a topic that a subscription, gone since, is still to be given."""
    gone = (each for each in list_changes(tx, topic_key) if each.binding and not each.comes)
    return max((each.behind for each in gone), default=0)


def list_changes(tx: Tx, topic_key: str) -> list[Change]:
    """The changes that wait in a topic, in the order of the requests."""
    return [
        Change(
            id=row.id,
            exchange=row.exchange,
            binding=Binding(row.queue, row.binding_key) if row.queue else None,
            subscription_id=row.subscription_id,
            since=row.since,
            until=row.until,
        )
        for row in tx.execute(tables.CHANGES, {"topic_key": topic_key})
    ]


def drop(tx: Tx, changes: Sequence[Change]) -> None:
    """Forget changes that are made."""
    if changes:
        tx.execute(tables.DROP_CHANGES, {"ids": [change.id for change in changes]})


def next_stretch(waiting: Waiting, wanted: Route | None, changes: Sequence[Change]) -> Stretch:
    """Cut what waits at the next change. Pure.

    wanted: what the broker must have once all changes are made.
    """
    if not changes:
        return Stretch(wanted, (), waiting)
    position = _first_position(waiting)
    if position is None:
        return Stretch(wanted, tuple(changes), waiting)
    due = tuple(each for each in changes if each.behind < position)
    borders = {each.since for each in changes} | {each.behind for each in changes}
    if (ends_at := min((each for each in borders if each >= position), default=None)) is not None:
        waiting = _upto(waiting, ends_at)
    return Stretch(_route_at(position, wanted, changes), due, waiting)


def without_coming(route: Route, changes: Sequence[Change]) -> Route:
    """A route without the bindings that are still to come. Pure."""
    coming = {each.binding for each in changes if each.comes}
    return replace(route, bindings=tuple(each for each in route.bindings if each not in coming))


def _first_position(waiting: Waiting) -> int | None:
    """Where the next message is, if it is known that there is one."""
    if waiting.messages:
        return waiting.messages[0].position
    return waiting.last + 1 if waiting.more else None


def _upto(waiting: Waiting, position: int) -> Waiting:
    if waiting.last <= position:
        return waiting
    messages = tuple(each for each in waiting.messages if each.position <= position)
    return Waiting(messages, position, more=True)


def _route_at(position: int, wanted: Route | None, changes: Sequence[Change]) -> Route | None:
    """What the broker must have for the message at a position, which no change is behind."""
    going = [
        (each, each.binding)
        for each in changes
        if each.binding is not None and not each.comes and each.covers(position)
    ]
    if wanted is not None:
        wanted = without_coming(wanted, [each for each in changes if each.since >= position])
    if not going:
        return wanted
    before = wanted or Route("")
    owed = {change.subscription_id: binding.queue for change, binding in going}
    return Route(
        going[0][0].exchange,  # one that was deleted and made again may spell it another way
        tuple(dict.fromkeys([*before.bindings, *(binding for _, binding in going)])),
        {**before.queues, **owed},
    )


def _last_unsent(tx: Tx, topic: TopicAddress) -> int:
    last: int | None = tx.execute(tables.LAST_UNSENT, {"topic_key": topic.key}).scalar_one()
    return last or 0


def _row(
    topic: TopicAddress,
    subscription_id: str,
    binding: Binding | None,
    *,
    since: int,
    until: int | None,
) -> dict[str, Any]:
    return {
        "topic_key": topic.key,
        "exchange": topic.exchange,
        "queue": binding.queue if binding else None,
        "binding_key": binding.key if binding else None,
        "subscription_id": subscription_id,
        "since": since,
        "until": until,
    }
