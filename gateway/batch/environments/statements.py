"""The statements on environments, their nodes and what was done to them, built once."""

from sqlalchemy import (
    ColumnElement,
    LargeBinary,
    Text,
    and_,
    bindparam,
    delete,
    func,
    insert,
    literal_column,
    or_,
    select,
    union,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from gateway.batch.environments.records import Origin
from gateway.batch.states import NodeState, State
from gateway.batch.tables import compute_env, compute_env_activity, compute_node, task
from gateway.store import Moment

# Environments ----------------------------------------------------------------------------------

ADD_ENV = insert(compute_env)
_OWN = (
    compute_env.c.id == bindparam("env_id"),
    compute_env.c.owner_uin == bindparam("owner_uin"),
    compute_env.c.region == bindparam("region"),
)
FIND_OWN_ENV = select(compute_env).where(*_OWN)
LOCK_OWN_ENV = FIND_OWN_ENV.with_for_update()
LOCK_ENV = select(compute_env).where(compute_env.c.id == bindparam("env_id")).with_for_update()
COUNT_ENVS = select(func.count()).where(
    compute_env.c.owner_uin == bindparam("owner_uin"), compute_env.c.region == bindparam("region")
)
COUNT_CORES = (
    select(func.coalesce(func.sum(compute_node.c.cpu), 0))
    .join(compute_env, compute_env.c.id == compute_node.c.env_id)
    .where(
        compute_env.c.owner_uin == bindparam("owner_uin"),
        compute_env.c.region == bindparam("region"),
        compute_node.c.origin == Origin.BATCH_CREATED.value,
    )
)
SAVE_ENV = (
    update(compute_env)
    .where(compute_env.c.id == bindparam("of_env"))
    .values(
        name=bindparam("given_name", type_=Text),
        description=bindparam("given_description", type_=Text),
        created=bindparam("given_created", type_=LargeBinary),
    )
)
SET_DESIRED = (
    update(compute_env)
    .where(compute_env.c.id == bindparam("of_env"))
    .values(desired_count=bindparam("wanted"))
)
SET_NEXT_ACTION = (
    update(compute_env)
    .where(compute_env.c.id == bindparam("of_env"))
    .values(next_action=bindparam("now_next"))
)
DROP_ENV = delete(compute_env).where(compute_env.c.id == bindparam("env_id"))
COUNT_OPEN_TASKS_ON_ENV = select(func.count()).where(
    task.c.env_id == bindparam("env_id"),
    task.c.state.not_in([State.SUCCEED.value, State.FAILED.value]),
)

# Nodes -----------------------------------------------------------------------------------------

ADD_NODE = insert(compute_node)
_ID = compute_node.c.id
ATTACH_NODE = {
    "sqlite": sqlite.insert(compute_node).on_conflict_do_nothing().returning(_ID),
    "postgresql": postgresql.insert(compute_node).on_conflict_do_nothing().returning(_ID),
}
"""By dialect. Adds and returns nothing for a machine that some environment has already."""
ENV_WITH_MACHINE = (
    select(compute_env.c.id)
    .join(compute_node, compute_node.c.env_id == compute_env.c.id)
    .where(
        compute_node.c.instance_id == bindparam("instance_id"),
        compute_node.c.origin == Origin.USER_ATTACHED.value,
        compute_env.c.owner_uin == bindparam("owner_uin"),
    )
)
"""Which environment of an account has a machine."""
NODES = (
    select(compute_node)
    .where(compute_node.c.env_id == bindparam("env_id"))
    .order_by(compute_node.c.created_at, compute_node.c.id)
)
LOCK_NODES = (
    select(compute_node)
    .where(compute_node.c.env_id == bindparam("env_id"))
    .order_by(compute_node.c.id)
    .with_for_update()
)
"""Whoever locks several nodes does it in the order of their ids: nobody waits crosswise."""
COUNT_NODES = select(func.count()).where(compute_node.c.env_id == bindparam("env_id"))
COUNT_NODES_BY_STATE = (
    select(
        compute_node.c.env_id,
        compute_node.c.state,
        compute_node.c.origin,
        func.count().label("n"),
    )
    .where(compute_node.c.env_id.in_(bindparam("env_ids", expanding=True)))
    .group_by(compute_node.c.env_id, compute_node.c.state, compute_node.c.origin)
)

_UNDER_WAY = compute_node.c.state.in_([NodeState.SUBMITTED.value, NodeState.DELETING.value])
_TRIED_AGAIN = and_(
    compute_node.c.state.in_([NodeState.CREATION_FAILED.value, NodeState.ABNORMAL.value]),
    compute_node.c.retry_at <= bindparam("now", type_=Moment),
)
_NO_FATE: ColumnElement[str] = literal_column("''")
"""No parameter: the index of the nodes that have a fate is found by this very word."""
_FATED = and_(compute_node.c.fate != _NO_FATE, compute_node.c.busy_with == "")
DUE_NODES = union(
    *[
        select(compute_node.c.env_id, compute_node.c.id, compute_node.c.state).where(condition)
        for condition in (_UNDER_WAY, _TRIED_AGAIN, _FATED)
    ]
)
"""What the keeper has to look after, in every environment. Three questions, not one, because each
has an index: a thousand idle nodes are not looked at."""
LOCK_DUE_NODES = (
    select(compute_node)
    .where(
        compute_node.c.env_id == bindparam("env_id"),
        or_(_UNDER_WAY, _TRIED_AGAIN, _FATED),
    )
    .order_by(compute_node.c.id)
    .limit(bindparam("most"))
    .with_for_update()
)
SAVE_NODE = (
    update(compute_node)
    .where(compute_node.c.id == bindparam("of_node"), compute_node.c.state == bindparam("old"))
    .values(
        state=bindparam("new"),
        instance_id=bindparam("on_instance"),
        fate=bindparam("now_fate"),
        failures=bindparam("now_failures"),
        retry_at=bindparam("try_at"),
        reason=bindparam("in_words", type_=Text),
        resource_created_at=bindparam("made_at"),
    )
)
DROP_NODE = delete(compute_node).where(compute_node.c.id == bindparam("of_node"))
LOCK_RUNNING_NODES = (
    select(compute_node.c.id)
    .where(compute_node.c.state == NodeState.RUNNING.value)
    .order_by(compute_node.c.id)
    .with_for_update()
)
LOSE_NODES = (
    update(compute_node)
    .where(compute_node.c.state == NodeState.RUNNING.value)
    .values(fate=bindparam("now_fate"))
)

# Activities ------------------------------------------------------------------------------------

ADD_ACTIVITY = insert(compute_env_activity)
OPEN_ACTIVITIES = select(
    compute_env_activity.c.id, compute_env_activity.c.node_id, compute_env_activity.c.state
).where(
    compute_env_activity.c.env_id == bindparam("env_id"), compute_env_activity.c.ended_at.is_(None)
)
SAVE_ACTIVITY = (
    update(compute_env_activity)
    .where(
        compute_env_activity.c.id == bindparam("of_activity"),
        compute_env_activity.c.state == bindparam("old"),
    )
    .values(
        state=bindparam("new"),
        reason=bindparam("in_words", type_=Text),
        ended_at=bindparam("over_at"),
    )
)
OLDEST_ACTIVITY_KEPT = (
    select(compute_env_activity.c.started_at)
    .where(compute_env_activity.c.env_id == bindparam("env_id"))
    .order_by(compute_env_activity.c.started_at.desc(), compute_env_activity.c.id)
    .offset(bindparam("kept"))
    .limit(1)
)
DROP_ACTIVITIES = delete(compute_env_activity).where(
    compute_env_activity.c.env_id == bindparam("of_env"),
    compute_env_activity.c.started_at < bindparam("up_to", type_=Moment),
    compute_env_activity.c.ended_at.is_not(None),
)
