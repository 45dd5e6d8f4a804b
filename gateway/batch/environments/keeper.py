"""The keeper of environments: has their nodes made, made again, restarted, and gone.

One read finds all that is due; each environment then has one transaction for up to some hundred
nodes. What is due can be read from the rows: nothing is kept in memory that a restart would miss.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import anyio
from anyio.abc import TaskGroup, TaskStatus

from gateway.batch.catalogue import Catalogue
from gateway.batch.environments import ENVIRONMENTS
from gateway.batch.environments.upkeep import Due, list_due, tend
from gateway.batch.executor.removal import remove_trees
from gateway.clock import Clock
from gateway.ids import NewId
from gateway.store import Store, StoreUnavailable
from gateway.telemetry import log

IDLE_S = 5.0
ENVS_AT_ONCE = 32
REMOVALS_AT_ONCE = 4


class Keeper:
    """Looks after the nodes of every environment of a store.

    node_path: where the engine keeps what a node has between attempts.
    """

    def __init__(
        self,
        store: Store,
        catalogue: Catalogue,
        *,
        node_path: Callable[[str], Path],
        clock: Clock,
        new_id: NewId,
    ) -> None:
        self._store = store
        self._catalogue = catalogue
        self._node_path = node_path
        self._clock = clock
        self._new_id = new_id
        self._places = anyio.CapacityLimiter(ENVS_AT_ONCE)
        self._removals = anyio.CapacityLimiter(REMOVALS_AT_ONCE)
        self._under_way: dict[str, Due] = {}
        self._missed: set[str] = set()  # environments with nodes that became due meanwhile

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Keep environments until cancelled. What fails is logged and tried again later.

        Why each environment in a task of its own: to remove what a node kept may take minutes, and
        the others must not wait for it.
        """
        async with anyio.create_task_group() as tasks:
            task_status.started()
            while True:
                seen = self._store.signals.count(ENVIRONMENTS)
                await self.tend_due(tasks)
                await self._store.signals.wait(ENVIRONMENTS, seen=seen, at_most_s=IDLE_S)

    async def tend_due(self, tasks: TaskGroup) -> None:
        """Start what is due now, each environment in a task of its own; returns before it is done.

        What is tended already is left alone, and looked at again if there is more of it. The read
        may tell of what has been done since: that is then not due any more, and a node whose folder
        was cleared is gone and never takes work again.
        """
        for due in await self._list_due():
            before = self._under_way.get(due.env_id)
            if before is None:
                self._under_way[due.env_id] = due
                tasks.start_soon(self._tend_beside, due)
            elif not before.covers(due):
                self._missed.add(due.env_id)

    async def _list_due(self) -> list[Due]:
        try:
            return await self._store.read_list(partial(list_due, now=self._clock()))
        except StoreUnavailable:
            log.exception("environments_not_read")
            return []

    async def _tend_beside(self, due: Due) -> None:
        try:
            more = await self._tend(due)
        finally:
            del self._under_way[due.env_id]
        if more or due.env_id in self._missed:
            self._missed.discard(due.env_id)
            self._store.signals.wake([ENVIRONMENTS])

    async def _tend(self, due: Due) -> bool:
        """Look after one environment; True if more may be due. What is wrong stops no other."""
        async with self._places:
            try:
                cleared = await self._clear(due.to_clear)
                return await self._store.write(
                    partial(
                        tend,
                        env_id=due.env_id,
                        cleared=cleared,
                        catalogue=self._catalogue,
                        now=self._clock(),
                        new_id=self._new_id,
                    )
                )
            except Exception:
                log.exception("environment_not_tended", env_id=due.env_id)
                return False

    async def _clear(self, node_ids: Iterable[str]) -> frozenset[str]:
        """Remove what nodes kept between attempts; returns those of which nothing is left."""
        paths = {node_id: self._node_path(node_id) for node_id in node_ids}
        if not paths:
            return frozenset()
        await anyio.to_thread.run_sync(_remove, list(paths.values()), limiter=self._removals)
        cleared = frozenset(node_id for node_id, path in paths.items() if not path.exists())
        for node_id in paths.keys() - cleared:
            log.warning("node_not_cleared", node_id=node_id)
        return cleared


def _remove(paths: Sequence[Path]) -> None:
    """Remove folders; most nodes never had one."""
    remove_trees([path for path in paths if path.exists()])
