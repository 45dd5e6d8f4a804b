"""The shortcut past the relay: deliveries written in the transaction of what happened.

Why: what the relay does later costs a transaction of its own, reads every message again and
changes its row. The relay is there for all that cannot go this way or should not.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from gateway.events import outbox
from gateway.events.messages import Event, Notification
from gateway.events.outbox import Draft, Stream
from gateway.events.relay import EXPANDED_AT_ONCE, EXPANDED_BYTES
from gateway.events.subscribers import Subscribers
from gateway.store import Tx
from gateway.telemetry import log

MANY = 16
"""So many messages are worth the statements of a delivery; fewer are if one job alone has any."""
SHUT = timedelta(seconds=60)
"""So long everything is left to the relay when something went wrong with a delivery."""


class Shortcut:
    """Appends events as the outbox does, and delivers their messages at once if it may.

    final: there is no bus, so a message that is delivered needs no publishing.
    """

    def __init__(self, subscribers: Subscribers, *, final: bool) -> None:
        self._subscribers = subscribers
        self._final = final
        self._shut_until: datetime | None = None
        self._last_stream_id: str | None = None

    def append(
        self,
        tx: Tx,
        stream: Stream,
        events: Sequence[Event],
        *,
        notifications: Sequence[Notification],
        now: datetime,
    ) -> None:
        """See `outbox.append`.

        Whatever a delivery raises undoes all that happened, with it. When that is tried again, the
        relay is left with the deliveries: a fault of theirs must not keep a job from going on.
        """
        drafts = outbox.record(tx, stream, events, notifications=notifications, now=now)
        if not drafts:
            return
        is_cheaper = self._is_cheaper(stream, drafts)
        if not (is_cheaper and self._may_deliver(tx, drafts, now=now)):
            outbox.add(tx, drafts)
            return
        try:
            self._deliver(tx, drafts, now=now)
        except Exception:
            log.warning("deliveries_left_to_the_relay", for_s=SHUT.total_seconds())
            self._shut_until = now + SHUT
            raise

    def _is_cheaper(self, stream: Stream, drafts: Sequence[Draft]) -> bool:
        """Whether this costs less than the relay, which delivers for many jobs at once."""
        last, self._last_stream_id = self._last_stream_id, stream.id
        return last in (None, stream.id) or len(drafts) >= MANY

    def _may_deliver(self, tx: Tx, drafts: Sequence[Draft], *, now: datetime) -> bool:
        """Whether nothing is in the way: too much at once, something older, or a long wait.

        Something older of whatever topic: that is one look at an index, which is empty as a rule.
        Whatever was told of this stream before is seen by it, for who writes of a stream holds its
        lock. Nobody is waited for, because the caller holds locks that others need.
        """
        if self._shut_until is not None and now < self._shut_until:
            return False
        if len(drafts) > EXPANDED_AT_ONCE:
            return False
        if sum(len(draft["body"]) for draft in drafts) > EXPANDED_BYTES:
            return False
        if outbox.has_unexpanded(tx):
            return False
        return self._subscribers.hold(tx, {draft["topic_key"] for draft in drafts})

    def _deliver(self, tx: Tx, drafts: Sequence[Draft], *, now: datetime) -> None:
        """Add messages with their deliveries; what is too much for one transaction waits."""
        messages = outbox.add_expanded(tx, drafts, now=now, final=self._final)
        count = self._subscribers.deliver(tx, messages, now=now)
        if count < len(messages):
            outbox.mark_unexpanded(tx, [message.position for message in messages[count:]])
        elif self._final:
            return  # there is nothing left for anybody to do
        outbox.wake(tx, {message.topic_key for message in messages})
