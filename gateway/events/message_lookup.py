"""Messages found by the id that their subscribers see."""

from dataclasses import dataclass

from sqlalchemy import bindparam, select

from gateway.events.ledger import Sending
from gateway.events.tables import message
from gateway.store import Tx


@dataclass(frozen=True, slots=True)
class Found:
    """What was told under one id, replays included, the oldest first; at least once.

    event_id: of the event it was made of; "" if a user published it.
    """

    event_id: str
    sendings: tuple[Sending, ...]


BY_ID = (
    select(
        message.c.stream_id,
        message.c.seq,
        *(message.c[name] for name in Sending.__slots__),
    )
    .where(message.c.id == bindparam("id_"))
    .order_by(message.c.position)
)


def find(tx: Tx, message_id: str) -> Found | None:
    """The messages of an id, which is printable; None if there are none, or none any more."""
    rows = tx.execute(BY_ID, {"id_": message_id}).all()
    if not rows:
        return None
    first = rows[0]
    event_id = "" if first.stream_id is None else f"{first.stream_id}-{first.seq}"
    sendings = (Sending(**{name: getattr(row, name) for name in Sending.__slots__}) for row in rows)
    return Found(event_id, tuple(sendings))
