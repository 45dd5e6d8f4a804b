"""The nodes of one environment inside one transaction: moved by the table, written together.

The environment's row is locked first, so nothing else moves its nodes meanwhile, and its events
are numbered in the order of the commits. A job's row is never locked from here: a job that takes a
node has locked its own row before, and two who wait for each other would wait for ever.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select

from gateway.batch import statements as batch_sql
from gateway.batch import tidings
from gateway.batch.environments import statements as sql
from gateway.batch.environments.records import ActivityType, EnvNode, read_node
from gateway.batch.notices import load_notifications
from gateway.batch.secrets import drop_secrets
from gateway.batch.states import (
    ACTIVITY,
    NODE,
    ActivityState,
    ActivityTrigger,
    NodeState,
    NodeTrigger,
)
from gateway.call import Principal
from gateway.errors import ResourceNotFound, UnsupportedOperation
from gateway.events import outbox
from gateway.events.messages import Event
from gateway.events.names import EventName
from gateway.ids import NewId
from gateway.store import Conflict, Tx

ACTIVITIES_MAX = 6_000
"""How many activities of one environment are kept at least: three for each node of the largest."""


@dataclass(slots=True)
class _Activity:
    """An activity that is not over, or ended here. old: its state in the database; None: new."""

    id: str
    state: ActivityState
    old: ActivityState | None
    row: dict[str, Any]
    reason: str = ""
    ended_at: datetime | None = None

    def move(self, *triggers: ActivityTrigger) -> None:
        for trigger in triggers:
            self.state = ACTIVITY[self.state, trigger]


class EnvChanges:
    """A locked environment and what changes of it. End it with `close`."""

    def __init__(self, tx: Tx, env: Row[Any], *, now: datetime, new_id: NewId) -> None:
        self.env = env
        self.now = now
        self.new_id = new_id
        self._tx = tx
        self._events: list[Event] = []
        self._added: dict[str, EnvNode] = {}
        self._moved: dict[str, tuple[NodeState, EnvNode]] = {}
        self._gone: set[str] = set()
        self._is_over = False
        self._activities: list[_Activity] = []
        self._open: dict[str, _Activity] | None = None

    def nodes(self) -> list[EnvNode]:
        """Every node, by id, locked: no job takes or frees one meanwhile."""
        return [read_node(row) for row in self._tx.execute(sql.LOCK_NODES, {"env_id": self.env.id})]

    def due_nodes(self, *, most: int) -> list[EnvNode]:
        """The nodes that something is to be done with now, locked."""
        keys = {"env_id": self.env.id, "now": self.now, "most": most}
        return [read_node(row) for row in self._tx.execute(sql.LOCK_DUE_NODES, keys)]

    # Nodes -----------------------------------------------------------------------------------

    def add(self, node: EnvNode) -> EnvNode:
        """Order a node; returns it as it is now. It is written with the others."""
        ordered = self._advance(node, NodeTrigger.ORDERED)
        self._added[node.id] = ordered
        return ordered

    def move(self, node: EnvNode, *triggers: NodeTrigger, **values: Any) -> EnvNode:
        """Move a node along the table, with other columns of its row; returns it as it is now.

        The events say what the node is after all of it: its new machine, say.
        """
        before = self._moved[node.id][0] if node.id in self._moved else node.state
        after = self._advance(replace(node, **values), *triggers)
        self._moved[node.id] = before, after
        return after

    def _advance(self, node: EnvNode, *triggers: NodeTrigger) -> EnvNode:
        state = node.state
        for trigger in triggers:
            state, name = NODE[state, trigger]
            if name is not None:
                self._events.append(tidings.node_event(name, self.env, node))
        return replace(node, state=state)

    def remove(self, node: EnvNode) -> None:
        """Forget a node: nothing of it is left."""
        self._moved.pop(node.id, None)
        self._gone.add(node.id)

    def modify(self, **values: Any) -> None:
        """Change what `SAVE_ENV` names of the environment itself; later events tell of it so."""
        self._tx.execute(sql.SAVE_ENV, {"of_env": self.env.id, **values})
        self.env = self._tx.execute(sql.LOCK_ENV, {"env_id": self.env.id}).one()

    def tell(self, event: Event) -> None:
        """Record an event of the environment itself."""
        self._events.append(event)

    def bury(self) -> None:
        """Remove the environment, which has no nodes any more, and tell of it."""
        self.tell(tidings.env_event(EventName.COMPUTE_ENV_DELETED, self.env))
        self._is_over = True

    # Activities ------------------------------------------------------------------------------

    def begin(
        self, node: EnvNode, kind: ActivityType, *triggers: ActivityTrigger, cause: str
    ) -> None:
        """Note what is going to be done to a node, which has no other activity that is open."""
        activity_id = self.new_id("act")
        row = {
            "id": activity_id,
            "env_id": self.env.id,
            "node_id": node.id,
            "instance_id": node.instance_id,
            "type": kind.value,
            "cause": cause,
            "started_at": self.now,
        }
        activity = _Activity(activity_id, ActivityState.SUBMITTED, None, row)
        activity.move(*triggers)
        self._activities.append(activity)
        self._open_ones()[node.id] = activity

    def finish(self, node: EnvNode, *triggers: ActivityTrigger, reason: str = "") -> None:
        """Note how what was done to a node came out. One from before there were activities has
        none.
        """
        activity = self._open_ones().pop(node.id, None)
        if activity is None:
            return
        activity.move(*triggers)
        activity.reason = reason
        activity.ended_at = self.now
        if activity.old is not None:
            self._activities.append(activity)

    def _open_ones(self) -> dict[str, _Activity]:
        if self._open is None:
            rows = self._tx.execute(sql.OPEN_ACTIVITIES, {"env_id": self.env.id})
            self._open = {
                row.node_id: _Activity(
                    row.id, ActivityState(row.state), ActivityState(row.state), {}
                )
                for row in rows
            }
        return self._open

    # Writing ---------------------------------------------------------------------------------

    def close(self) -> None:
        """Write everything, the events last."""
        if self._added:
            self._tx.execute(sql.ADD_NODE, [node.row() for node in self._added.values()])
        self._save_nodes()
        if self._gone:
            self._tx.execute(sql.DROP_NODE, [{"of_node": node_id} for node_id in self._gone])
        self._save_activities()
        if self._events:
            stream = outbox.Stream(self.env.id, self.env.owner_uin, self.env.region)
            notifications = load_notifications(self.env.notifications)
            outbox.append(self._tx, stream, self._events, notifications=notifications, now=self.now)
        if self._is_over:
            self._tx.execute(batch_sql.DROP_TAGS, {"of_id": self.env.id})
            drop_secrets(self._tx, self.env.id)
            self._tx.execute(sql.DROP_ENV, {"env_id": self.env.id})

    def write_attached(self, node: EnvNode) -> bool:
        """Write an ordered node of an attached machine now; False if some node has the machine."""
        row = self._added.pop(node.id).row()
        return self._tx.execute(sql.ATTACH_NODE[self._tx.dialect], row).first() is not None

    def _save_nodes(self) -> None:
        rows = [
            {
                "of_node": node.id,
                "old": before.value,
                "new": node.state.value,
                "on_instance": node.instance_id,
                "now_fate": node.fate.value,
                "now_failures": node.failures,
                "try_at": node.retry_at,
                "in_words": node.reason,
                "made_at": node.resource_created_at,
            }
            for before, node in self._moved.values()
        ]
        if rows and self._tx.execute(sql.SAVE_NODE, rows).rowcount != len(rows):
            raise Conflict(f"a node of {self.env.id} was moved by someone else")

    def _save_activities(self) -> None:
        new = [
            {**a.row, "state": a.state.value, "reason": a.reason, "ended_at": a.ended_at}
            for a in self._activities
            if a.old is None
        ]
        moved = [
            {
                "of_activity": a.id,
                "old": a.old.value,
                "new": a.state.value,
                "in_words": a.reason,
                "over_at": a.ended_at,
            }
            for a in self._activities
            if a.old is not None
        ]
        if moved and self._tx.execute(sql.SAVE_ACTIVITY, moved).rowcount != len(moved):
            raise Conflict(f"an activity of {self.env.id} was moved by someone else")
        if new:
            self._tx.execute(sql.ADD_ACTIVITY, new)
            self._forget_old_activities()

    def _forget_old_activities(self) -> None:
        keys = {"env_id": self.env.id, "kept": ACTIVITIES_MAX}
        oldest = self._tx.execute(sql.OLDEST_ACTIVITY_KEPT, keys).scalar_one_or_none()
        if oldest is not None:
            self._tx.execute(sql.DROP_ACTIVITIES, {"of_env": self.env.id, "up_to": oldest})


def open_env(tx: Tx, env_id: str, *, now: datetime, new_id: NewId) -> EnvChanges | None:
    """Lock an environment to change its nodes; None if it is gone."""
    row = tx.execute(sql.LOCK_ENV, {"env_id": env_id}).first()
    return None if row is None else EnvChanges(tx, row, now=now, new_id=new_id)


def open_own_env(
    tx: Tx, env_id: str, *, principal: Principal, region: str, now: datetime, new_id: NewId
) -> EnvChanges:
    """Lock a caller's environment to change it.

    Raises ResourceNotFound.ComputeEnv, and UnsupportedOperation.ComputeEnvAcceptOtherRequest for
    one that goes with its last node.
    """
    keys = {"env_id": env_id, "owner_uin": principal.owner_uin, "region": region}
    row = find_row(tx, sql.LOCK_OWN_ENV, keys)
    if row.next_action:
        raise UnsupportedOperation(
            f"The environment `{env_id}` is being deleted.", detail="ComputeEnvAcceptOtherRequest"
        )
    return EnvChanges(tx, row, now=now, new_id=new_id)


def find_row(tx: Tx, statement: Select[Any], keys: Mapping[str, str]) -> Row[Any]:
    """The row of a caller's environment. Raises ResourceNotFound.ComputeEnv."""
    row = tx.execute(statement, keys).first()
    if row is None:
        raise ResourceNotFound(
            f"The environment `{keys['env_id']}` does not exist.", detail="ComputeEnv"
        )
    return row
