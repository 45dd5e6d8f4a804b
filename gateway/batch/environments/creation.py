"""Environments as transactions: create, modify, delete."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Row

from gateway.batch import datatypes, tidings
from gateway.batch.environments import ENVIRONMENTS
from gateway.batch.environments import statements as sql
from gateway.batch.environments.changes import EnvChanges, find_row, open_own_env
from gateway.batch.environments.ordering import give_up, is_terminable, order_nodes
from gateway.batch.environments.records import EnvNode, Fate, Origin
from gateway.batch.environments.requests import check_wanted
from gateway.batch.environments.specs import (
    AnyEnv,
    EnvPlan,
    image_of,
    read_spec,
    secrets_of,
    size_of,
    with_types,
)
from gateway.batch.jobs import TopicExists, check_topics, store_tags
from gateway.batch.notices import dump_notifications, read_notifications
from gateway.batch.rules import Rules
from gateway.batch.secrets import OF_THE_ENV, Vault, encode_masked
from gateway.batch.states import NodeState
from gateway.call import Principal
from gateway.errors import LimitExceeded, UnsupportedOperation
from gateway.events.names import EventName
from gateway.ids import NewId
from gateway.store import Tx

ENVS_MAX = 10
CORES_MAX = 1_000
"""How many environments, and how many cores in their nodes, an account has in a region where the
vendor's quotas hold. Of cores the text of 2018 says 500; the newer pages say twice that."""
DELETING = "DELETING"
_GIVEN_UP_FIRST = (NodeState.CREATION_FAILED, NodeState.ABNORMAL)


def create_env(
    tx: Tx,
    plan: EnvPlan,
    *,
    principal: Principal,
    region: str,
    topic_exists: TopicExists,
    rules: Rules,
    vault: Vault,
    now: datetime,
    new_id: NewId,
) -> str:
    """Store an environment and order its nodes; returns its id.

    vault: keeps its secrets. Raises LimitExceeded.ComputeEnvQuota where the vendor's quotas hold,
    and InvalidParameter for a topic that is not there.
    """
    spec = plan.spec
    notifications = read_notifications(spec.notifications, target=spec.notification_target)
    check_topics(tx, notifications, principal, region, topic_exists)
    if rules.quotas:
        _check_env_quota(tx, principal=principal, region=region)
    env_id = new_id("env")
    tx.execute(
        sql.ADD_ENV,
        {
            "id": env_id,
            "owner_uin": principal.owner_uin,
            "region": region,
            "created_by": principal.uin,
            "name": spec.env_name,
            "description": spec.env_description or "",
            "env_type": plan.env_type,
            "zone": plan.placement.zone,
            "next_action": "",
            "desired_count": spec.desired_compute_node_count,
            "resource_type": plan.resource_type,
            "placement": msgspec.json.encode(plan.placement),
            "created": encode_masked(spec),
            "notifications": dump_notifications(notifications),
            "created_at": now,
        },
    )
    store_tags(tx, env_id, spec.tags)
    vault.store(tx, env_id, {OF_THE_ENV: secrets_of(spec)})
    row = tx.execute(sql.LOCK_ENV, {"env_id": env_id}).one()
    changes = EnvChanges(tx, row, now=now, new_id=new_id)
    changes.tell(tidings.env_event(EventName.COMPUTE_ENV_CREATED, row))
    count = spec.desired_compute_node_count
    cause = f"{plan.action}: the capacity is {count}"
    _order(tx, changes, spec, count=count, rules=rules, cause=cause)
    changes.close()
    tx.wake(ENVIRONMENTS)
    return env_id


def _check_env_quota(tx: Tx, *, principal: Principal, region: str) -> None:
    keys = {"owner_uin": principal.owner_uin, "region": region}
    if tx.execute(sql.COUNT_ENVS, keys).scalar_one() >= ENVS_MAX:
        raise LimitExceeded(
            f"An account has at most {ENVS_MAX} environments.", detail="ComputeEnvQuota"
        )


def _order(
    tx: Tx, changes: EnvChanges, spec: AnyEnv, *, count: int, rules: Rules, cause: str
) -> None:
    """Order nodes as the environment is to have them now. Raises LimitExceeded.CpuQuota."""
    size = size_of(spec, catalogue=rules.catalogue)
    if rules.quotas:
        keys = {"owner_uin": changes.env.owner_uin, "region": changes.env.region}
        if tx.execute(sql.COUNT_CORES, keys).scalar_one() + count * size.cpu > CORES_MAX:
            raise LimitExceeded(
                f"The nodes of an account have at most {CORES_MAX} cores.", detail="CpuQuota"
            )
    order_nodes(changes, count, size=size, image_id=image_of(spec), cause=cause)


def get_env(tx: Tx, env_id: str, *, principal: Principal, region: str) -> Row[Any]:
    """An account's environment in a region. Raises ResourceNotFound.ComputeEnv."""
    keys = {"env_id": env_id, "owner_uin": principal.owner_uin, "region": region}
    return find_row(tx, sql.FIND_OWN_ENV, keys)


def modify_env(
    tx: Tx,
    request: datatypes.ModifyComputeEnvRequest,
    *,
    principal: Principal,
    region: str,
    rules: Rules,
    now: datetime,
    new_id: NewId,
) -> None:
    """Give an environment another name, description, number of nodes, or types for later ones."""
    env_id = request.env_id
    changes = open_own_env(tx, env_id, principal=principal, region=region, now=now, new_id=new_id)
    env = changes.env
    spec = read_spec(env.created, resource_type=env.resource_type)
    if request.env_data is not None:
        spec = with_types(spec, request.env_data.instance_types)
    changes.modify(
        given_name=env.name if request.env_name is None else request.env_name,
        given_description=(
            env.description if request.env_description is None else request.env_description
        ),
        given_created=msgspec.json.encode(spec),
    )
    wanted = request.desired_compute_node_count
    if wanted is not None:
        check_wanted(wanted, resource_type=env.resource_type)
        had: int = env.desired_count
        more = wanted - had
        if more > 0:
            cause = f"ModifyComputeEnv: increase the capacity from {had} to {wanted}"
            _order(tx, changes, spec, count=more, rules=rules, cause=cause)
        elif more < 0:
            cause = f"ModifyComputeEnv: decrease the capacity from {had} to {wanted}"
            give_up(changes, _spare_nodes(changes.nodes(), -more), cause=cause)
        tx.execute(sql.SET_DESIRED, {"of_env": env_id, "wanted": wanted})
    changes.close()
    tx.wake(ENVIRONMENTS)


def _spare_nodes(nodes: Sequence[EnvNode], count: int) -> Sequence[EnvNode]:
    """The nodes that are missed least: those that are not running, then idle ones, newest first.

    Why two refusals: a node that is still being made cannot be terminated, so it does not count
    among those there are (NotEnoughComputeNodesToTerminate); a busy one is there, and is not to be
    taken from its command (ComputeNodeForbidTerminate).
    """
    there = [n for n in nodes if is_terminable(n) and n.origin is Origin.BATCH_CREATED]
    if len(there) < count:
        raise UnsupportedOperation(
            f"Only {len(there)} nodes could be terminated; the others are being made.",
            detail="NotEnoughComputeNodesToTerminate",
        )
    idle = [node for node in there if not node.busy_with]
    if len(idle) < count:
        raise UnsupportedOperation(
            f"Only {len(idle)} nodes are idle; the others run task instances.",
            detail="ComputeNodeForbidTerminate",
        )
    idle.sort(key=lambda n: (n.created_at, n.id), reverse=True)
    idle.sort(key=lambda n: (n.state not in _GIVEN_UP_FIRST, n.fate is Fate.NONE))
    return idle[:count]


def delete_env(
    tx: Tx, env_id: str, *, principal: Principal, region: str, now: datetime, new_id: NewId
) -> None:
    """Remove an environment that has no nodes and no job waiting for it.

    While the last nodes are DELETING, it is only noted: it goes with them, and till then its
    NextAction says so. Raises UnsupportedOperation with detail ComputeNodeForbidTerminate while it
    has other nodes, ComputeEnvOperation while a job still names it, and AcceptOtherRequest when
    asked again.
    """
    keys = {"env_id": env_id, "owner_uin": principal.owner_uin, "region": region}
    row = find_row(tx, sql.LOCK_OWN_ENV, keys)
    if row.next_action:
        raise UnsupportedOperation(
            f"The environment `{env_id}` is being deleted.", detail="AcceptOtherRequest"
        )
    changes = EnvChanges(tx, row, now=now, new_id=new_id)
    nodes = changes.nodes()
    kept = {node.origin for node in nodes if node.state is not NodeState.DELETING}
    if kept:
        ways = {Origin.BATCH_CREATED: "terminate", Origin.USER_ATTACHED: "detach"}
        how = " and ".join(way for origin, way in ways.items() if origin in kept)
        raise UnsupportedOperation(
            f"The environment `{env_id}` still has nodes; {how} them first.",
            detail="ComputeNodeForbidTerminate",
        )
    if tx.execute(sql.COUNT_OPEN_TASKS_ON_ENV, {"env_id": env_id}).scalar_one():
        raise UnsupportedOperation(
            f"A job that is not over uses the environment `{env_id}`.", detail="ComputeEnvOperation"
        )
    if nodes:
        tx.execute(sql.SET_NEXT_ACTION, {"of_env": env_id, "now_next": DELETING})
    else:
        changes.bury()
    changes.close()
    tx.wake(ENVIRONMENTS)
