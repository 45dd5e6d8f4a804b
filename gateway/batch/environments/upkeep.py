"""What is done to the nodes of an environment when their time has come: one transaction each."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType

from gateway.batch.catalogue import Catalogue
from gateway.batch.environments import ENVIRONMENTS
from gateway.batch.environments import statements as sql
from gateway.batch.environments.changes import EnvChanges, open_env
from gateway.batch.environments.records import ActivityType, EnvNode, Fate, Origin
from gateway.batch.environments.specs import read_spec, retries_of
from gateway.batch.jobs import JOBS
from gateway.batch.node_waits import wait_before
from gateway.batch.states import ActivityTrigger, NodeState, NodeTrigger
from gateway.clock import wire_time
from gateway.ids import NewId
from gateway.store import Tx

NODES_AT_ONCE = 500
"""How many nodes one transaction moves, for others to get a turn between two of them."""
_ALL_WELL = ActivityTrigger.BEGUN, ActivityTrigger.DONE
_IN_VAIN = ActivityTrigger.BEGUN, ActivityTrigger.NOT_DONE


@dataclass(frozen=True, slots=True)
class Due:
    """What the keeper has to look after in one environment.

    node_ids: the nodes that something is to be done with. to_clear: those of them whose folder must
    be gone before they are forgotten.
    """

    env_id: str
    node_ids: frozenset[str]
    to_clear: frozenset[str]

    def covers(self, other: "Due") -> bool:
        """Whether all that the other one tells of is in this one."""
        return other.node_ids <= self.node_ids and other.to_clear <= self.to_clear


def list_due(tx: Tx, *, now: datetime) -> list[Due]:
    """The environments with something to be done, and what has to be cleared for it."""
    found: dict[str, dict[str, NodeState]] = defaultdict(dict)
    for row in tx.execute(sql.DUE_NODES, {"now": now}):
        found[row.env_id][row.id] = NodeState(row.state)
    return [
        Due(
            env_id,
            frozenset(nodes),
            frozenset(node_id for node_id in nodes if nodes[node_id] is NodeState.DELETING),
        )
        for env_id, nodes in found.items()
    ]


def lose_nodes(tx: Tx) -> None:
    """Note that every node is lost; the keeper draws the conclusions as soon as it runs nothing.

    For a report that what held them all is gone. A node that still has a command is freed by
    whoever moves its job, once that has ended.
    """
    tx.execute(sql.LOCK_RUNNING_NODES).all()
    tx.execute(sql.LOSE_NODES, {"now_fate": Fate.LOST.value})
    tx.wake(ENVIRONMENTS)


def tend(
    tx: Tx,
    env_id: str,
    *,
    cleared: Set[str],
    catalogue: Catalogue,
    now: datetime,
    new_id: NewId,
) -> bool:
    """Do what is due in one environment; True if there may be more of it at once.

    cleared: the nodes whose folders are gone. Whatever needs that and is not named waits.
    """
    changes = open_env(tx, env_id, now=now, new_id=new_id)
    if changes is None:
        return False
    spec = read_spec(changes.env.created, resource_type=changes.env.resource_type)
    upkeep = _Upkeep(changes, cleared, catalogue, retries_of(spec))
    due = changes.due_nodes(most=NODES_AT_ONCE)
    moved = [upkeep.tend(node) for node in due]
    changes.close()
    if changes.env.next_action and not tx.execute(sql.COUNT_NODES, {"env_id": env_id}).scalar_one():
        changes = EnvChanges(tx, changes.env, now=now, new_id=new_id)
        changes.bury()
        changes.close()
    if any(moved):
        tx.wake(JOBS)
    return len(due) == NODES_AT_ONCE and any(moved)


@dataclass(frozen=True, slots=True)
class _Upkeep:
    """What is done to each node of a locked environment that something is due for."""

    changes: EnvChanges
    cleared: Set[str]
    catalogue: Catalogue
    retries_max: int

    def tend(self, node: EnvNode) -> bool:
        """Do what a node needs; False if it has to wait for its folder to be cleared."""
        if node.state is NodeState.DELETING and node.id not in self.cleared:
            return False
        if node.fate is not Fate.NONE:
            _BY_FATE[node.fate](self, node)
        else:
            _BY_STATE[node.state](self, node)
        return True

    def make(self, node: EnvNode) -> None:
        """Make an ordered node, or find out that it cannot be made."""
        why_not = self.catalogue.why_not_made(node.image_id)
        if why_not:
            failures = node.failures + 1
            retry_at = self._next_try(failures)
            failed = self.changes.move(
                node,
                NodeTrigger.BEGUN,
                NodeTrigger.NOT_MADE,
                failures=failures,
                retry_at=retry_at,
                reason=f"{why_not}{self._what_follows(retry_at)}",
            )
            self.changes.finish(failed, *_IN_VAIN, reason=why_not)
            return
        made = self.changes.move(
            node,
            NodeTrigger.BEGUN,
            NodeTrigger.MADE,
            NodeTrigger.JOINED,
            retry_at=None,
            reason="",
            resource_created_at=self.changes.now,
        )
        self.changes.finish(made, *_ALL_WELL)

    def make_again(self, node: EnvNode) -> None:
        """Order a node anew that has no machine, and make it. One that was attached is the same."""
        reason = node.reason.removesuffix(self._what_follows(node.retry_at))
        cause = f"RECREATE: try {node.failures} of {self.retries_max}, {reason}"
        instance_id = node.instance_id
        if node.origin is Origin.BATCH_CREATED:
            instance_id = self.changes.new_id("ins")
        ordered = self.changes.move(
            node,
            NodeTrigger.REPEATED,
            NodeTrigger.ORDERED,
            instance_id=instance_id,
            resource_created_at=None,
        )
        self.changes.begin(ordered, ActivityType.CREATE, cause=cause)
        self.make(ordered)

    def replace(self, node: EnvNode) -> None:
        """Give up the machine of a node that is lost, and make another. It has the same disks.

        Why they are kept: they are folders here, and were not lost with the process.
        """
        self.make_again(self.changes.move(node, NodeTrigger.DROPPED))

    def lose(self, node: EnvNode) -> None:
        """Declare a node ABNORMAL, and make it again at once.

        Why without the waits of nodes that cannot be made: what is lost here is a process, which
        says nothing of whether its successor will live, and jobs wait for the node. How often an
        instance may be lost has a bound of its own.
        """
        lost = self.changes.move(
            node,
            NodeTrigger.LOST,
            fate=Fate.NONE,
            failures=0,
            retry_at=self.changes.now,
            reason="its machine was lost",
        )
        self.replace(lost)

    def restart(self, node: EnvNode) -> None:
        """Let a node take work again. What ran there has ended; its disks outlive a restart."""
        restarted = self.changes.move(node, fate=Fate.NONE)
        self.changes.begin(
            restarted,
            ActivityType.RESTART,
            cause="RestartComputeNode: what ran there asks for it, or was terminated",
        )
        self.changes.finish(restarted, *_ALL_WELL)

    def forget(self, node: EnvNode) -> None:
        """Let a node go that was given up."""
        self.changes.finish(node, ActivityTrigger.DONE)
        self.changes.remove(node)

    def _next_try(self, failures: int) -> datetime | None:
        """When a node that could not be made so often is tried again; None: not any more."""
        return self.changes.now + wait_before(failures) if failures <= self.retries_max else None

    def _what_follows(self, retry_at: datetime | None) -> str:
        """What whoever waits for a node that could not be made has to know besides why."""
        if retry_at is not None:
            return f" The next try is at {wire_time(retry_at)}."
        return (
            f" No further try follows (ResourceMaxRetryCount is {self.retries_max}). Once that is"
            " mended, ModifyComputeEnv can order more nodes; if it cannot be, terminate the job and"
            " make another environment."
        )


_BY_FATE: Mapping[Fate, Callable[[_Upkeep, EnvNode], None]] = MappingProxyType(
    {Fate.LOST: _Upkeep.lose, Fate.RESTART: _Upkeep.restart}
)
_BY_STATE: Mapping[NodeState, Callable[[_Upkeep, EnvNode], None]] = MappingProxyType(
    {
        NodeState.SUBMITTED: _Upkeep.make,
        NodeState.CREATION_FAILED: _Upkeep.make_again,
        NodeState.ABNORMAL: _Upkeep.replace,
        NodeState.DELETING: _Upkeep.forget,
    }
)
