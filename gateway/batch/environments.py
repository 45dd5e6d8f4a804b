"""Compute environments and their nodes as transactions."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Row

from gateway import ids
from gateway.batch import datatypes, tidings
from gateway.batch import statements as sql
from gateway.batch.jobs import JOBS, TopicExists, check_topics, store_tags
from gateway.batch.notices import dump_notifications, load_notifications, read_notifications
from gateway.batch.placement import check_env_data, check_zone, mask_password, node_size
from gateway.batch.states import NODE, NodeState, NodeTrigger
from gateway.batch.validation import RETRIES_MAX, check_choice, check_range, check_tags
from gateway.call import Principal
from gateway.errors import (
    InvalidParameter,
    InvalidParameterValue,
    LimitExceeded,
    ResourceNotFound,
    UnsupportedOperation,
)
from gateway.events import outbox
from gateway.events.messages import Event
from gateway.events.names import EventName
from gateway.ids import NewId
from gateway.store import Conflict, Tx

NAME_MAX = 60
DESCRIPTION_MAX = 200
NODES_MAX = 2_000
_WAITING = [NodeState.SUBMITTED.value, NodeState.PENDING.value]


def check_env(request: datatypes.CreateComputeEnvRequest, *, region: str) -> None:
    """Check a CreateComputeEnv request. Raises the public error of the first thing wrong."""
    env = request.compute_env
    check_zone(request.placement.zone, region=region)
    if not 0 < len(env.env_name) <= NAME_MAX:
        raise InvalidParameter(
            f"EnvName has not 1 to {NAME_MAX} characters.", detail="EnvNameTooLong"
        )
    if len(env.env_description or "") > DESCRIPTION_MAX:
        raise InvalidParameter(
            f"EnvDescription is longer than {DESCRIPTION_MAX} characters.",
            detail="EnvDescriptionTooLong",
        )
    if env.desired_compute_node_count < 0:
        raise InvalidParameterValue("DesiredComputeNodeCount is negative.", detail="Negative")
    if env.desired_compute_node_count > NODES_MAX:
        raise LimitExceeded(f"An environment has at most {NODES_MAX} nodes.", detail="CpuQuota")
    check_env_data(
        env.env_data,
        env_type=env.env_type,
        type_error=InvalidParameterValue(
            "The instance type does not exist.", detail="InstanceType"
        ),
    )
    check_choice("ActionIfComputeNodeInactive", env.action_if_compute_node_inactive, ("RECREATE",))
    check_range("ResourceMaxRetryCount", env.resource_max_retry_count, most=RETRIES_MAX)
    check_tags(env.tags)
    read_notifications(env.notifications, target=env.notification_target)
    if env.input_mappings or env.authentications:
        raise UnsupportedOperation("InputMappings and Authentications are not served yet.")


def create_env(
    tx: Tx,
    request: datatypes.CreateComputeEnvRequest,
    *,
    principal: Principal,
    region: str,
    topic_exists: TopicExists,
    now: datetime,
    new_id: NewId,
) -> str:
    """Store an environment and order its nodes; returns its id."""
    env = request.compute_env
    notifications = read_notifications(env.notifications, target=env.notification_target)
    check_topics(tx, notifications, principal, region, topic_exists)
    env_id = new_id("env")
    kept = msgspec.structs.replace(
        env, env_data=mask_password(env.env_data) if env.env_data else None
    )
    tx.execute(
        sql.ADD_ENV,
        {
            "id": env_id,
            "owner_uin": principal.owner_uin,
            "region": region,
            "created_by": principal.uin,
            "name": env.env_name,
            "description": env.env_description or "",
            "env_type": env.env_type or "MANAGED",
            "zone": request.placement.zone,
            "next_action": "",
            "desired_count": env.desired_compute_node_count,
            "resource_type": "CVM",
            "placement": msgspec.json.encode(request.placement),
            "created": msgspec.json.encode(kept),
            "notifications": dump_notifications(notifications),
            "created_at": now,
        },
    )
    store_tags(tx, env_id, env.tags)
    _order_nodes(tx, env_id, env, now=now, new_id=new_id)
    event = tidings.env_event(
        EventName.COMPUTE_ENV_CREATED,
        env_id=env_id,
        env_name=env.env_name,
        created_at=now,
        desired_count=env.desired_compute_node_count,
    )
    stream = outbox.Stream(env_id, principal.owner_uin, region)
    outbox.append(tx, stream, [event], notifications=notifications, now=now)
    tx.wake(JOBS)
    return env_id


def _order_nodes(
    tx: Tx, env_id: str, env: datatypes.NamedComputeEnv, *, now: datetime, new_id: NewId
) -> None:
    size = node_size(env.env_data)
    rows = [
        {
            "id": new_id("node"),
            "env_id": env_id,
            "state": NodeState.SUBMITTED.value,
            "instance_id": new_id("ins"),
            "cpu": size.cpu,
            "mem_gib": size.mem_gib,
            "busy_with": "",
            "fate": "",
            "origin": "BATCH_CREATED",
            "failures": 0,
            "retry_at": None,
            "reason": "",
            "address": "127.0.0.1",
            "image_id": (env.env_data.image_id if env.env_data else None) or "",
            "created_at": now,
            "resource_created_at": None,
        }
        for _ in range(env.desired_compute_node_count)
    ]
    if rows:
        tx.execute(sql.ADD_NODE, rows)


def nodes_are_waiting(tx: Tx) -> bool:
    """Whether any ordered node is not made yet."""
    return tx.execute(sql.ENVS_WITH_NODES_IN, {"states": _WAITING}).first() is not None


def bring_nodes_up(tx: Tx, *, now: datetime) -> None:
    """Make every ordered node and let it join: on the local engine a node is a slot."""
    for env_id in tx.execute(sql.ENVS_WITH_NODES_IN, {"states": _WAITING}).scalars().all():
        env = tx.execute(sql.LOCK_ENV, {"env_id": env_id}).first()
        if env is None:
            continue
        events: list[Event] = []
        for node in tx.execute(sql.NODES, {"env_id": env_id}).all():
            if node.state in _WAITING:
                triggers = (NodeTrigger.ORDERED, NodeTrigger.MADE, NodeTrigger.JOINED)
                events += _move_node(tx, env, node, triggers, now=now)
        _tell(tx, env, events, now=now)
        tx.wake(JOBS)


def _move_node(
    tx: Tx, env: Row[Any], node: Row[Any], triggers: Sequence[NodeTrigger], *, now: datetime
) -> list[Event]:
    """Move a node along the table, one trigger after another, in one write."""
    events = []
    state = NodeState(node.state)
    made_at = node.resource_created_at or now
    for trigger in triggers:
        state, name = NODE[state, trigger]
        if name is not None:
            events.append(tidings.node_event(name, env, node, made_at=made_at))
    values = {"node_id": node.id, "old": node.state, "new": state.value, "made_at": made_at}
    if tx.execute(sql.MOVE_NODE, values).rowcount != 1:
        raise Conflict(f"{node.id} is no longer {node.state}")
    return events


def _tell(tx: Tx, env: Row[Any], events: Sequence[Event], *, now: datetime) -> None:
    stream = outbox.Stream(env.id, env.owner_uin, env.region)
    notifications = load_notifications(env.notifications)
    outbox.append(tx, stream, events, notifications=notifications, now=now)


def get_env(tx: Tx, env_id: str, *, principal: Principal, region: str) -> Row[Any]:
    """An account's environment in a region. Raises ResourceNotFound.ComputeEnv."""
    keys = {"env_id": env_id, "owner_uin": principal.owner_uin, "region": region}
    return _found(tx.execute(sql.FIND_ENV, keys).first(), env_id)


def _lock_env(tx: Tx, env_id: str, *, principal: Principal, region: str) -> Row[Any]:
    keys = {"env_id": env_id, "owner_uin": principal.owner_uin, "region": region}
    return _found(tx.execute(sql.LOCK_OWN_ENV, keys).first(), env_id)


def _found(row: Row[Any] | None, env_id: str) -> Row[Any]:
    if row is None:
        raise ResourceNotFound(f"The environment `{env_id}` does not exist.", detail="ComputeEnv")
    return row


def terminate_nodes(
    tx: Tx,
    env_id: str,
    node_ids: Sequence[str],
    *,
    principal: Principal,
    region: str,
    now: datetime,
) -> None:
    """Give nodes up, all of them or none; the wanted number of nodes falls with them.

    Why the number falls: a node given up on purpose must not be made again.
    """
    env = _lock_env(tx, env_id, principal=principal, region=region)
    if len(set(node_ids)) != len(node_ids):
        raise UnsupportedOperation("A node is named twice.", detail="ComputeNodeIsTerminating")
    nodes = {node.id: node for node in tx.execute(sql.LOCK_NODES, {"env_id": env_id}).all()}
    events: list[Event] = []
    for node_id in node_ids:
        if not ids.is_id(node_id, "node"):
            raise InvalidParameter(
                f"ComputeNodeId `{node_id}` is malformed.", detail="ComputeNodeIdMalformed"
            )
        if node_id not in nodes:
            raise ResourceNotFound(f"The node `{node_id}` does not exist.", detail="ComputeNode")
        node = nodes[node_id]
        if node.busy_with or (NodeState(node.state), NodeTrigger.DROPPED) not in NODE:
            raise UnsupportedOperation(
                f"The node `{node_id}` is busy or being made, and cannot be terminated now.",
                detail="ComputeNodeForbidTerminate",
            )
        events += _move_node(tx, env, node, [NodeTrigger.DROPPED], now=now)
        tx.execute(sql.DROP_NODE, {"node_id": node_id})
    wanted = max(0, env.desired_count - len(node_ids))
    tx.execute(sql.SET_DESIRED, {"env_id": env_id, "wanted": wanted})
    _tell(tx, env, events, now=now)


def delete_env(tx: Tx, env_id: str, *, principal: Principal, region: str, now: datetime) -> None:
    """Remove an environment that has no nodes and no job waiting for it.

    Raises UnsupportedOperation with detail ComputeNodeForbidTerminate while it has nodes, as
    documented for EnvId, and ComputeEnvOperation while a job still names it.
    """
    env = _lock_env(tx, env_id, principal=principal, region=region)
    if tx.execute(sql.NODES, {"env_id": env_id}).first() is not None:
        raise UnsupportedOperation(
            f"The environment `{env_id}` still has nodes; terminate them first.",
            detail="ComputeNodeForbidTerminate",
        )
    if tx.execute(sql.JOBS_USING_ENV, {"env_id": env_id}).scalar_one():
        raise UnsupportedOperation(
            f"A job that is not over uses the environment `{env_id}`.", detail="ComputeEnvOperation"
        )
    event = tidings.env_event(
        EventName.COMPUTE_ENV_DELETED,
        env_id=env_id,
        env_name=env.name,
        created_at=env.created_at,
        desired_count=env.desired_count,
    )
    _tell(tx, env, [event], now=now)
    tx.execute(sql.DROP_TAGS, {"of_id": env_id})
    tx.execute(sql.DROP_ENV, {"env_id": env_id})
