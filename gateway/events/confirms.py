"""Publishing with confirms on one AMQP channel, many messages to a write.

Why a channel of our own: aiormq's takes a lock, a timer, a write to the socket and a future with
four callbacks for each message. Here a batch takes one of each, and the confirms are counted.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Protocol

from aiormq import Channel
from aiormq.abc import AbstractConnection, ChannelFrame, ConfirmationFrameType
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from gateway.events.bus import Message, Outcome, Route
from gateway.events.frames import FRAME_OVERHEAD, publish_frames

BATCH = 64  # messages to a write
BATCHES_ON_THEIR_WAY = 4
LOOKS = 10
"""So often it is looked whether the broker is blocked while confirms are waited for."""

IsBlocked = Callable[[], Awaitable[bool]]

for hook in ("_on_confirm_frame", "_on_return_frame", "_get_frame"):
    if not hasattr(Channel, hook):  # or no confirm would ever be seen, and nobody would say so
        raise ImportError(f"aiormq's Channel has no `{hook}`: this version of it is not known here")


class Batch:
    """Messages that were written together, and what has become of each so far.

    first: the delivery tag of the first one. settled: done when every outcome is known; fails when
    the channel closes before.
    """

    __slots__ = ("_left", "first", "messages", "outcomes", "settled")

    def __init__(
        self, messages: Sequence[Message], *, first: int, settled: asyncio.Future[None]
    ) -> None:
        self.messages = messages
        self.first = first
        self.outcomes: list[Outcome | None] = [None] * len(messages)
        self.settled = settled
        self._left = len(messages)

    def settle(self, tag: int, outcome: Outcome) -> None:
        """Note the broker's last word on one message."""
        index = tag - self.first
        if self.outcomes[index] is None:  # what was returned is confirmed as well, and stays so
            self.outcomes[index] = outcome
        self._left -= 1
        if not self._left and not self.settled.done():
            self.settled.set_result(None)

    def note_return(self, tag: int) -> None:
        """Note that a message came back; its confirm follows."""
        self.outcomes[tag - self.first] = Outcome.RETURNED

    def final(self) -> list[Outcome]:
        """What became of each message, as far as anybody will ever know."""
        return [outcome or Outcome.LOST for outcome in self.outcomes]

    def give_up(self) -> str:
        """Wait no longer; returns why something of it is lost, empty if nothing is."""
        settled = self.settled
        if settled.cancelled():
            return "the channel was closed"
        if settled.cancel():
            return "the broker did not confirm it in time"
        error = settled.exception()
        return repr(error) if error else ""


@dataclass(frozen=True, slots=True)
class Published:
    """What became of each message. why_lost: of the first that is LOST; empty if none is."""

    outcomes: list[Outcome]
    why_lost: str


class PublishingChannel(Channel):
    """A channel in confirm mode that only publishes."""

    def __init__(self, connection: AbstractConnection, number: int) -> None:
        super().__init__(connection, number, publisher_confirms=True)
        self._unconfirmed: dict[int, Batch] = {}  # in the order of the tags
        self._frame_max = self.max_content_size + FRAME_OVERHEAD

    @classmethod
    async def open_on(cls, connection: AbstractConnection) -> "PublishingChannel":
        """A new channel of a connection.

        Why not by its method `channel`: that makes channels of aiormq's own class only. Nothing is
        awaited between the choice of the number and its being taken.
        """
        number = max(connection.channels, default=0) + 1
        channel = cls(connection, number)
        connection.channels[number] = channel
        await channel.open()
        return channel

    async def write(self, route: Route, messages: Sequence[Message]) -> Batch:
        """Write messages in one piece. Raises what aiormq raises if the channel is closed."""
        async with self.lock:
            piece = b"".join(self._frames(route, message) for message in messages)
            first = self.delivery_tag + 1
            self.delivery_tag += len(messages)
            batch = Batch(messages, first=first, settled=self.create_future())
            self._unconfirmed.update(dict.fromkeys(range(first, self.delivery_tag + 1), batch))
            await self.write_queue.put(ChannelFrame(payload=piece, should_close=False))
        return batch

    def _frames(self, route: Route, message: Message) -> bytes:
        exchange, routing_key, mandatory = route.destination(message)
        return publish_frames(
            message,
            self.number,
            exchange=exchange,
            routing_key=routing_key,
            mandatory=mandatory,
            frame_max=self._frame_max,
        )

    async def _on_confirm_frame(self, frame: ConfirmationFrameType) -> None:
        last = frame.delivery_tag or 0
        outcome = Outcome.CONFIRMED if isinstance(frame, Basic.Ack) else Outcome.REFUSED
        unconfirmed = self._unconfirmed
        tags = [last]
        if not isinstance(frame, Basic.Reject) and frame.multiple:
            tags = list(takewhile(last.__ge__, unconfirmed))
        for tag in tags:
            batch = unconfirmed.pop(tag, None)
            if batch is not None:
                batch.settle(tag, outcome)

    async def _on_return_frame(self, _: Basic.Return) -> None:
        """Find the message that came back; its header and its body follow the frame.

        Why by id and replay: the broker does not say the delivery tag.
        """
        header = await self._get_frame()
        if not isinstance(header, ContentHeader):
            raise TypeError(f"{header!r} instead of the header of what was returned")
        left = header.body_size
        while left > 0:
            left -= len(getattr(await self._get_frame(), "value", b"") or b"\0" * left)
        properties = header.properties
        returned = properties.message_id, (properties.headers or {}).get("replay", 0)
        for tag, batch in self._unconfirmed.items():
            message = batch.messages[tag - batch.first]
            if (message.id, message.replay) == returned:
                batch.note_return(tag)


class Writer(Protocol):
    """What publishes a batch of messages, such as a `PublishingChannel`."""

    async def write(self, route: Route, messages: Sequence[Message]) -> Batch:
        """Write messages; returns what becomes of them."""
        ...


async def publish(
    channel: Writer,
    route: Route,
    messages: Sequence[Message],
    *,
    first_s: float,
    then_s: float,
    is_blocked: IsBlocked,
    written: Callable[[], None],
) -> Published:
    """Publish in this order, and say for each message what became of it.

    first_s, then_s: how long the confirms of the first batch, and of each later one, may take;
    while the broker is seen to be blocked, no time runs. written: called once all are on their way.
    After a LOST message nothing more is published, and nothing waited for.
    """
    outcomes: list[Outcome] = []
    on_their_way: list[Batch] = []
    why_lost = ""

    async def settle_oldest() -> None:
        nonlocal why_lost
        batch = on_their_way.pop(0)
        if not why_lost:
            within_s = then_s if outcomes else first_s
            await _until_settled(batch, within_s=within_s, is_blocked=is_blocked)
        why_lost = why_lost or batch.give_up()
        outcomes.extend(batch.final())

    for first in range(0, len(messages), BATCH):
        if len(on_their_way) == BATCHES_ON_THEIR_WAY:
            await settle_oldest()
            if why_lost:
                break
        on_their_way.append(await channel.write(route, messages[first : first + BATCH]))
    else:
        written()
    while on_their_way:
        await settle_oldest()
    outcomes += [Outcome.LOST] * (len(messages) - len(outcomes))
    return Published(outcomes, why_lost)


async def _until_settled(batch: Batch, *, within_s: float, is_blocked: IsBlocked) -> None:
    """Wait for the confirms of a batch, until they are late.

    Why a blocked broker is waited for: it has what was written, and takes it when it can. To write
    it again would only give its subscribers everything twice. Once it is no longer blocked it has
    the whole time again.
    """
    looks_left = LOOKS
    while looks_left and not (await asyncio.wait([batch.settled], timeout=within_s / LOOKS))[0]:
        looks_left = LOOKS if await is_blocked() else looks_left - 1
