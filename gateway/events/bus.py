"""The bus: a broker that messages are published to. Every one passes `tests/conformance/bus.py`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Protocol

from gateway.call import Value
from gateway.events.routing import matches


class BusUnavailable(Exception):
    """The broker cannot be reached now, or the line broke; try again later."""


class LoginRefused(BusUnavailable):
    """The broker does not let us in, or its certificate is not to be trusted."""


class BusRefused(Exception):
    """The broker answers, and refuses what was asked; the reason is its own sentence."""


class Outcome(Enum):
    """What became of one message.

    CONFIRMED: the broker holds it. RETURNED: no queue takes it. REFUSED: the broker says no.
    LOST: the line broke, or the broker did not answer in time, so nobody knows.
    """

    CONFIRMED = "confirmed"
    RETURNED = "returned"
    REFUSED = "refused"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class TopicAddress:
    """Where a topic is: its account, its region and its name, in which case does not matter."""

    owner_uin: str
    region: str
    name: str

    @property
    def key(self) -> str:
        """The address as one word, the same for every spelling of the name."""
        return f"{self.owner_uin}/{self.region}/{self.name.lower()}"

    @classmethod
    def parse(cls, key: str) -> "TopicAddress":
        """The address that a key was made of, with its name in lower case."""
        owner_uin, region, name = key.split("/", 2)
        return cls(owner_uin, region, name)

    @property
    def exchange(self) -> str:
        """The name of the topic's exchange on the broker."""
        return f"cmq.{self.owner_uin}.{self.region}.{self.name}"

    def queue(self, endpoint: str) -> str:
        """The name of a subscriber's queue on the broker."""
        return f"cmq.{self.owner_uin}.{self.region}.{endpoint}"


@dataclass(frozen=True, slots=True)
class Binding:
    """A queue on the broker, and a key that picks messages for it."""

    queue: str
    key: str


@dataclass(frozen=True, slots=True)
class Route:
    """What the broker must have for one topic.

    queues: the queue of each subscription on the broker, by the subscription's id; it may have no
    binding.
    """

    exchange: str
    bindings: tuple[Binding, ...] = ()
    queues: Mapping[str, str] = field(default_factory=dict)

    def reaches_anyone(self, routing_key: str) -> bool:
        """Whether some queue of ours takes a message with this routing key."""
        return any(matches(binding.key, routing_key) for binding in self.bindings)

    def queues_for(self, message: "Message") -> tuple[str, ...]:
        """The queues of ours that take a message."""
        if message.only_subscription_id is not None:
            return (self.queues[message.only_subscription_id],)
        taking = (each for each in self.bindings if matches(each.key, message.routing_key))
        return tuple(dict.fromkeys(each.queue for each in taking))

    def concerns(self, message: "Message") -> bool:
        """Whether the broker has anything to do with a message."""
        return message.only_subscription_id is None or message.only_subscription_id in self.queues

    def destination(self, message: "Message") -> tuple[str, str, bool]:
        """The exchange and routing key of a message, and whether some queue must take it.

        What is for one subscription alone goes by the default exchange, straight into its queue.
        """
        if message.only_subscription_id is not None:
            return "", self.queues[message.only_subscription_id], True
        key = message.routing_key
        return self.exchange, key, self.reaches_anyone(key)


class Message(Value, frozen=True):
    """One message, ready to be sent; `position` orders the messages of a stream.

    id, body: never change, so that a duplicate is seen to be one. tags: for filtering by tag.
    event_name, seq: None for a message that a user published. replay: 0, or the how-manieth time it
    is told again. only_subscription_id: whom alone it is for; None: everybody who wants it.
    """

    position: int
    id: str
    topic_key: str
    shard: int
    routing_key: str
    body: bytes
    created_at: datetime
    event_name: str | None = None
    seq: int | None = None
    tags: tuple[str, ...] = ()
    traceparent: str | None = None
    replay: int = 0
    only_subscription_id: str | None = None

    @property
    def owner_uin(self) -> str:
        """The account of the topic."""
        return TopicAddress.parse(self.topic_key).owner_uin

    @property
    def region(self) -> str:
        """The region of the topic."""
        return TopicAddress.parse(self.topic_key).region


class Bus(Protocol):
    """A broker with exchanges, queues and confirms. Every method ends within a time of its own."""

    async def connect(self) -> int:
        """Be connected; returns the number of this connection, which changes with each new one.

        What is needed must be declared again on a new connection: the broker may have lost it, and
        a queue that is only just coming back confirms nothing. Raises BusUnavailable.
        """
        ...

    async def declare(self, route: Route) -> None:
        """Make sure that an exchange, its queues and its bindings exist.

        Raises BusUnavailable, or BusRefused if the broker has something else by one of the names.
        """
        ...

    async def unbind(self, exchange: str, *, binding: Binding) -> None:
        """Take away a binding, if it exists; the queue stays, with what it holds."""
        ...

    async def remove(self, exchange: str) -> None:
        """Take away an exchange, if it exists."""
        ...

    async def publish(
        self,
        route: Route,
        messages: Sequence[Message],
        *,
        written: Callable[[], None] = lambda: None,
    ) -> list[Outcome]:
        """Publish in this order, and say for each message what became of it. Never raises.

        written: called once all are on their way, if they ever are: what is published to the same
        exchange from then on comes after them, or is LOST.
        """
        ...
