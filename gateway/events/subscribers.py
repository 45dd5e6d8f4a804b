"""What the relay and retention need to know of who is subscribed; the CMQ service answers it."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Protocol

from gateway.events.bus import Message, Route
from gateway.store import Tx


class Subscribers(Protocol):
    """The subscriptions of every topic. A module with these functions is one."""

    def hold(self, tx: Tx, topic_keys: Collection[str]) -> bool:
        """Keep the subscriptions of topics as they are until the end of `tx`, without waiting.

        False if somebody is just changing one of them.
        """
        ...

    def deliver(self, tx: Tx, messages: Sequence[Message], *, now: datetime) -> int:
        """Write the deliveries of messages, in their order, in the transaction `tx`.

        Returns of how many: the first, and as many more as one transaction should deliver.
        """
        ...

    def find_route(self, tx: Tx, topic_key: str) -> Route | None:
        """What the broker must have for a topic; None if there is no such topic any more."""
        ...

    def list_bound_topics(self, tx: Tx) -> Sequence[str]:
        """The keys of the topics with a subscriber on the broker."""
        ...

    def still_waiting(self, tx: Tx, positions: Collection[int]) -> set[int]:
        """Which of these messages still wait to be delivered to somebody."""
        ...

    def forget(self, tx: Tx, positions: Collection[int]) -> None:
        """Delete what is known of the deliveries of messages that wait for nobody any more."""
        ...
