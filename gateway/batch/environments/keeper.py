"""The keeper of environments: has their nodes made, made again, restarted, and gone.

One read finds all that is due; each environment then has one transaction for up to some hundred
nodes. What is due can be read from the rows, so nothing is kept in memory.
"""

import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import anyio
from anyio.abc import TaskStatus

from gateway.batch.catalogue import Catalogue
from gateway.batch.environments import ENVIRONMENTS
from gateway.batch.environments.upkeep import Due, list_due, tend
from gateway.clock import Clock
from gateway.ids import NewId
from gateway.store import Store, StoreUnavailable
from gateway.telemetry import log

IDLE_S = 5.0
ENVS_AT_ONCE = 32


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

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Keep environments until cancelled. What fails is logged and tried again later."""
        task_status.started()
        while True:
            seen = self._store.signals.count(ENVIRONMENTS)
            if not await self.tend_all():
                await self._store.signals.wait(ENVIRONMENTS, seen=seen, at_most_s=IDLE_S)

    async def tend_all(self) -> bool:
        """Do all that is due now; True if more may be due at once."""
        now = self._clock()
        try:
            due = await self._store.read_list(partial(list_due, now=now))
        except StoreUnavailable:
            log.exception("environments_not_read")
            return False
        more: list[bool] = []
        async with anyio.create_task_group() as tasks:
            for each in due:
                tasks.start_soon(self._tend, each, more)
        return any(more)

    async def _tend(self, due: Due, more: list[bool]) -> None:
        """Look after one environment. What is wrong with it stops no other."""
        async with self._places:
            try:
                cleared = await self._clear(due.to_clear)
                more.append(
                    await self._store.write(
                        partial(
                            tend,
                            env_id=due.env_id,
                            cleared=cleared,
                            catalogue=self._catalogue,
                            now=self._clock(),
                            new_id=self._new_id,
                        )
                    )
                )
            except Exception:
                log.exception("environment_not_tended", env_id=due.env_id)

    async def _clear(self, node_ids: Sequence[str]) -> frozenset[str]:
        """Remove what nodes keep between attempts; returns those of which nothing is left."""
        if not node_ids:
            return frozenset()
        return await anyio.to_thread.run_sync(self._remove_folders, node_ids)

    def _remove_folders(self, node_ids: Sequence[str]) -> frozenset[str]:
        cleared = []
        for node_id in node_ids:
            try:
                shutil.rmtree(self._node_path(node_id))
            except FileNotFoundError:
                pass
            except OSError as error:
                log.warning("node_not_cleared", node_id=node_id, error=str(error))
                continue
            cleared.append(node_id)
        return frozenset(cleared)
