"""What the describing actions read of environments, put together."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Row, func, select

from gateway.batch import datatypes as wire
from gateway.batch import views
from gateway.batch.environments import statements as sql
from gateway.batch.environments.records import Origin
from gateway.batch.environments.specs import as_env_data, read_spec
from gateway.batch.lists import Page
from gateway.batch.naming import check_node_id
from gateway.batch.reads import tags_of
from gateway.batch.states import NodeState
from gateway.batch.tables import compute_env_activity
from gateway.clock import optional_wire_time, wire_time
from gateway.store import Tx

AGENT_VERSION = "1.1.9"
NODE_FILTER = "compute-node-id"


def describe_env(tx: Tx, env: Row[Any]) -> wire.DescribeComputeEnvResponse:
    """An environment with its nodes."""
    view = env_views(tx, [env])[0]
    nodes = tx.execute(sql.NODES, {"env_id": env.id}).all()
    return wire.DescribeComputeEnvResponse(
        env_id=view.env_id,
        env_name=view.env_name,
        placement=view.placement,
        create_time=view.create_time,
        compute_node_set=[_node_view(n, resource_type=env.resource_type) for n in nodes],
        compute_node_metrics=view.compute_node_metrics,
        desired_compute_node_count=view.desired_compute_node_count,
        env_type=view.env_type,
        resource_type=view.resource_type,
        next_action=view.next_action,
        attached_compute_node_count=view.attached_compute_node_count,
        tags=view.tags,
    )


def env_views(tx: Tx, rows: Sequence[Row[Any]]) -> list[wire.ComputeEnvView]:
    """Environments with the counts of their nodes and their tags."""
    env_ids = [row.id for row in rows]
    nodes: dict[str, list[Row[Any]]] = {env_id: [] for env_id in env_ids}
    for row in tx.execute(sql.COUNT_NODES_BY_STATE, {"env_ids": env_ids}):
        nodes[row.env_id].append(row)
    tags = tags_of(tx, env_ids)
    return [_env_view(r, nodes=nodes[r.id], tags_on=tags.get(r.id, [])) for r in rows]


def _env_view(
    row: Row[Any], *, nodes: Sequence[Row[Any]], tags_on: Sequence[wire.Tag]
) -> wire.ComputeEnvView:
    attached = sum(
        each.n
        for each in nodes
        if each.origin == Origin.USER_ATTACHED.value and each.state != NodeState.DELETING.value
    )
    return wire.ComputeEnvView(
        env_id=row.id,
        env_name=row.name,
        placement=views.placement(row.placement),
        create_time=wire_time(row.created_at),
        compute_node_metrics=_node_metrics(nodes),
        env_type=row.env_type,
        desired_compute_node_count=row.desired_count,
        resource_type=row.resource_type,
        next_action=row.next_action,
        attached_compute_node_count=attached,
        tags=list(tags_on),
    )


def _node_metrics(rows: Sequence[Row[Any]]) -> wire.ComputeNodeMetrics:
    """The number of nodes in each state; no node is ever found PENDING, which has no count."""
    counts = Counter[str]()
    for row in rows:
        counts[f"{row.state.lower()}_count"] += row.n
    return wire.ComputeNodeMetrics(**counts)


def _node_view(row: Row[Any], *, resource_type: str) -> wire.ComputeNode:
    ready = row.state == NodeState.RUNNING.value and not row.busy_with and not row.fate
    return wire.ComputeNode(
        compute_node_id=row.id,
        compute_node_instance_id=row.instance_id,
        compute_node_state=row.state,
        cpu=row.cpu,
        mem=row.mem_gib,
        resource_created_time=optional_wire_time(row.resource_created_at),
        task_instance_num_available=int(ready),
        agent_version=AGENT_VERSION,
        private_ip_addresses=[row.address],
        public_ip_addresses=[],
        resource_type=resource_type,
        resource_origin=row.origin,
    )


def create_infos(tx: Tx, rows: Sequence[Row[Any]]) -> list[wire.ComputeEnvCreateInfo]:
    """Environments as one would have to ask for them now. Their secrets are masked.

    Why not as they were created: ModifyComputeEnv has changed what it was asked to change, and who
    makes another one after this answer wants it like this one.
    """
    tags = tags_of(tx, [row.id for row in rows])
    return [_create_info(row, tags=tags) for row in rows]


def _create_info(row: Row[Any], *, tags: Mapping[str, list[wire.Tag]]) -> wire.ComputeEnvCreateInfo:
    spec = read_spec(row.created, resource_type=row.resource_type)
    disks = spec.mount_data_disks if isinstance(spec, wire.NamedComputeEnv) else []
    return wire.ComputeEnvCreateInfo(
        env_id=row.id,
        env_name=row.name,
        env_description=row.description,
        env_type=row.env_type,
        env_data=as_env_data(spec),
        mount_data_disks=disks,
        input_mappings=spec.input_mappings,
        authentications=spec.authentications,
        notifications=spec.notifications,
        desired_compute_node_count=row.desired_count,
        tags=tags.get(row.id, []),
    )


def check_activity_filters(filters: Sequence[wire.Filter]) -> None:
    """Refuse what cannot be the id of a node."""
    for each in filters:
        for node_id in each.values:
            check_node_id(node_id)


def list_activities(
    tx: Tx, env_id: str, *, filters: Sequence[wire.Filter], page: Page
) -> wire.DescribeComputeEnvActivitiesResponse:
    """What was done to the nodes of an environment, the newest first."""
    table = compute_env_activity
    conditions = [table.c.env_id == env_id]
    conditions += [table.c.node_id.in_(each.values) for each in filters]
    total = tx.execute(select(func.count()).select_from(table).where(*conditions)).scalar_one()
    statement = (
        select(table)
        .where(*conditions)
        .order_by(table.c.started_at.desc(), table.c.id)
        .offset(page.offset)
        .limit(page.limit)
    )
    return wire.DescribeComputeEnvActivitiesResponse(
        activity_set=[_activity(row) for row in tx.execute(statement)], total_count=total
    )


def _activity(row: Row[Any]) -> wire.Activity:
    return wire.Activity(
        activity_id=row.id,
        compute_node_id=row.node_id,
        compute_node_activity_type=row.type,
        env_id=row.env_id,
        cause=row.cause,
        activity_state=row.state,
        state_reason=row.reason,
        start_time=wire_time(row.started_at),
        end_time=optional_wire_time(row.ended_at),
        instance_id=row.instance_id,
    )
