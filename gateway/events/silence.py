"""Queues on the broker that take no messages, and so keep the other subscribers waiting.

To RabbitMQ a message is confirmed when all its queues have it. One that takes none, such as one
whose making was cut short by a crash, is declared like any other; it is found only by being given
a message of its own.
"""

from collections.abc import Sequence
from typing import Final

import anyio

from gateway.events.bus import Binding, Bus, Message, Outcome, Route

PROBE: Final = "cmq.probe."  # and the queue: no account is called so


async def find_silent(
    bus: Bus, route: Route, message: Message, *, among: Sequence[str]
) -> tuple[str, ...]:
    """The queues that do not take a message which is for them, asked twice.

    among: no others are asked; all of them if it is empty, or the message is for none of it.
    Raises BusUnavailable, BusRefused.
    """
    connection = await bus.connect()
    wanting = route.queues_for(message)
    silent = [
        queue
        for queue in [each for each in wanting if each in among] or wanting
        if not (await _takes(bus, queue, message) or await _takes(bus, queue, message))
    ]
    # if the line broke meanwhile, that is why
    return tuple(silent) if await bus.connect() == connection else ()


async def _takes(bus: Bus, queue: str, message: Message) -> bool:
    """Whether a queue, asked alone, takes a message. Raises BusUnavailable, BusRefused.

    Why by an exchange for it: what comes straight into a queue has its name as routing key, and
    this may be the message's first arrival.
    """
    if message.only_subscription_id is not None:
        straight = Route("", queues={message.only_subscription_id: queue})
        return await bus.publish(straight, [message]) != [Outcome.LOST]
    alone = Route(PROBE + queue, (Binding(queue, "#"),))
    try:
        await bus.declare(alone)
        outcomes = await bus.publish(alone, [message])
    finally:
        with anyio.CancelScope(shield=True):
            await bus.remove(alone.exchange)
    return outcomes != [Outcome.LOST]
