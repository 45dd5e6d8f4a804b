"""What runs for ever goes on, whatever one round of it meets.

Why: one message or row that nobody thought of must not end the service for everybody, nor end one
loop in silence while the others run. What a loop keeps in memory it can read again.
"""

from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

import anyio
from anyio.abc import TaskStatus

from gateway.telemetry import LOOP_FAILURES, log

REST_S_MIN = 0.5
REST_S_MAX = 30.0


class Loop(Protocol):
    """What runs until it is cancelled, or has nothing to do. Called again, it begins anew."""

    def __call__(self, *, task_status: TaskStatus[None]) -> Coroutine[Any, Any, None]:
        """Run, and say so once it does."""
        ...


@dataclass(slots=True)
class _Start(TaskStatus[None]):
    """Tells of the first start alone. done: whether there was one."""

    told: TaskStatus[None]
    done: bool = False

    def started(self, value: None = None) -> None:
        """See `TaskStatus.started`."""
        if not self.done:
            self.done = True
            self.told.started(value)


async def keep_running(
    loop: Loop,
    *,
    name: str,
    rest_s_min: float = REST_S_MIN,
    task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Run a loop, and after each failure again, until it ends by itself or is cancelled.

    name: what the log and the metric call it. The rest after a failure doubles from `rest_s_min`
    to REST_S_MAX; it is short again once the loop has run for that long. Raises what the loop
    raises before it has ever said that it runs: such a service should not start.
    """
    start = _Start(task_status)
    rest_s = rest_s_min
    while True:
        began_at = anyio.current_time()
        try:
            return await loop(task_status=start)
        except Exception as error:
            if not start.done:
                raise
            if anyio.current_time() - began_at > REST_S_MAX:
                rest_s = rest_s_min
            LOOP_FAILURES.labels(loop=name).inc()
            log.error("loop_failed", loop=name, retry_s=rest_s, exc_info=error)
        await anyio.sleep(rest_s)
        rest_s = min(2 * rest_s, REST_S_MAX)
