"""Deleting messages that no queue may hand out any more."""

import anyio
from anyio.abc import TaskStatus
from sqlalchemy.exc import OperationalError

from gateway.clock import Clock
from gateway.cmq import queues
from gateway.store import Store, StoreUnavailable
from gateway.telemetry import log

EVERY_S = 60.0


async def run(
    store: Store, *, clock: Clock, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    """Delete expired messages for ever. They are never handed out, deleted or not."""
    task_status.started()
    while True:
        try:
            count = await store.write(lambda tx: queues.drop_expired(tx, now=clock()))
            if count:
                log.info("messages_expired", messages=count)
        except (StoreUnavailable, OperationalError):
            log.warning("messages_not_expired", retry_s=EVERY_S)
        await anyio.sleep(EVERY_S)
