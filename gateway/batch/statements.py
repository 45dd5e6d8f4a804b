"""The statements of the Batch service that more than one module uses, built once."""

from sqlalchemy import (
    LargeBinary,
    Text,
    and_,
    bindparam,
    case,
    delete,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from gateway.batch.environments.records import Fate
from gateway.batch.states import COUNTERS, FINAL, LAUNCHED, NodeState, State
from gateway.batch.tables import (
    client_token,
    compute_env,
    compute_node,
    dependence,
    job,
    tag,
    task,
    task_instance,
    task_template,
)

ADD_JOB = insert(job)
ADD_TASK = insert(task)
ADD_DEPENDENCE = insert(dependence)
ADD_INSTANCE = insert(task_instance)
ADD_TEMPLATE = insert(task_template)
ADD_TAG = insert(tag)
DROP_TAGS = delete(tag).where(tag.c.resource_id == bindparam("of_id"))
TAGS_OF = (
    select(tag)
    .where(tag.c.resource_id.in_(bindparam("resource_ids", expanding=True)))
    .order_by(tag.c.resource_id, tag.c.key)
)

CLAIM_TOKEN = {
    "sqlite": sqlite.insert(client_token).on_conflict_do_nothing(),
    "postgresql": postgresql.insert(client_token).on_conflict_do_nothing(),
}
"""By dialect. A second claim waits until the first is committed or undone."""

_THIS_TOKEN = (
    client_token.c.owner_uin == bindparam("of_owner"),
    client_token.c.uin == bindparam("of_uin"),
    client_token.c.region == bindparam("in_region"),
    client_token.c.action == bindparam("for_action"),
    client_token.c.token == bindparam("this_token"),
)
LOCK_TOKEN = select(client_token).where(*_THIS_TOKEN).with_for_update()
SETTLE_TOKEN = (
    update(client_token)
    .where(*_THIS_TOKEN)
    .values(
        request_sha256=bindparam("digest"),
        sealed_digest=bindparam("sealed"),
        made_id=bindparam("made"),
        created_at=bindparam("now"),
    )
)

FIND_JOB = select(job).where(
    job.c.id == bindparam("job_id"),
    job.c.owner_uin == bindparam("owner_uin"),
    job.c.region == bindparam("region"),
)
COUNT_JOBS = select(func.count()).where(
    job.c.owner_uin == bindparam("owner_uin"), job.c.region == bindparam("region")
)
LOCK_OWN_JOB = FIND_JOB.with_for_update()
LOCK_JOB = select(job).where(job.c.id == bindparam("job_id")).with_for_update()
MARK_TERMINATING = update(job).where(job.c.id == bindparam("job_id")).values(terminating=True)
DROP_JOB = delete(job).where(job.c.id == bindparam("job_id"))
MOVE_JOB = (
    update(job)
    .where(job.c.id == bindparam("job_id"), job.c.state == bindparam("old"))
    .values(
        state=bindparam("new"),
        state_reason=bindparam("reason"),
        terminating=bindparam("still_terminating"),
        ended_at=bindparam("over_at"),
    )
)
TASK_STATES = (
    select(task.c.state, func.count().label("n"))
    .where(task.c.job_id == bindparam("job_id"))
    .group_by(task.c.state)
)

TASK_STATES_OF = (
    select(task.c.job_id, task.c.state, func.count().label("n"))
    .where(task.c.job_id.in_(bindparam("job_ids", expanding=True)))
    .group_by(task.c.job_id, task.c.state)
)
TASKS = select(task).where(task.c.job_id == bindparam("job_id")).order_by(task.c.position)
TASKS_AT = select(task).where(
    task.c.job_id == bindparam("job_id"),
    task.c.position.in_(bindparam("positions", expanding=True)),
)
TASK_NAMED = select(task).where(
    task.c.job_id == bindparam("job_id"), task.c.name == bindparam("name")
)
OPEN = [state.value for state in State if state not in FINAL]
HAS_SOME_TO_FAIL = or_(
    and_(task.c.doom != "", task.c.submitted + task.c.pending + task.c.runnable > 0),
    and_(task.c.runnable > 0, task.c.node_failures > 0, task.c.node_retry_at.is_(None)),
)
TASKS_TO_FAIL = select(task.c.position).where(
    task.c.job_id == bindparam("job_id"), HAS_SOME_TO_FAIL
)
"""Those that are doomed, and those whose nodes could not be made so often that it counts as a
failed run."""
OPEN_TASKS = (
    select(task.c.position)
    .where(
        task.c.job_id == bindparam("job_id"),
        task.c.state.in_(OPEN),
    )
    .order_by(task.c.position)
)
LAST_TASK_END = select(func.max(task.c.ended_at)).where(task.c.job_id == bindparam("job_id"))
FOLLOWERS = select(dependence.c.end).where(
    dependence.c.job_id == bindparam("job_id"), dependence.c.start == bindparam("position")
)
COUNTER_KEYS = tuple(f"n_{name}" for name in COUNTERS)
SAVE_TASK = (
    update(task)
    .where(task.c.job_id == bindparam("of_job"), task.c.position == bindparam("at_position"))
    .values(
        state=bindparam("new"),
        blockers=bindparam("blockers_left"),
        doom=bindparam("doomed_by"),
        node_failures=bindparam("nodes_failed"),
        node_retry_at=bindparam("try_at"),
        node_reason=bindparam("no_node_because"),
        ended_at=bindparam("over_at"),
        **{name: bindparam(key) for name, key in zip(COUNTERS, COUNTER_KEYS, strict=True)},
    )
)

INSTANCES_AT = select(task_instance).where(
    task_instance.c.job_id == bindparam("job_id"),
    task_instance.c.position == bindparam("position"),
    task_instance.c.number.in_(bindparam("numbers", expanding=True)),
)
INSTANCES_IN = (
    select(task_instance)
    .where(
        task_instance.c.job_id == bindparam("job_id"),
        task_instance.c.position == bindparam("position"),
        task_instance.c.state.in_(bindparam("states", expanding=True)),
    )
    .order_by(task_instance.c.number)
    .limit(bindparam("most"))
)
LAST_INSTANCE_END = select(func.max(task_instance.c.ended_at)).where(
    task_instance.c.job_id == bindparam("job_id"),
    task_instance.c.position == bindparam("position"),
)
LAUNCHED_IN_JOB = select(task_instance).where(
    task_instance.c.job_id == bindparam("job_id"),
    task_instance.c.state.in_([state.value for state in LAUNCHED]),
)
_its_task = and_(
    task.c.job_id == task_instance.c.job_id, task.c.position == task_instance.c.position
)
LAUNCHED_INSTANCES = (
    select(
        task_instance,
        job.c.owner_uin,
        func.coalesce(compute_node.c.mem_gib, task.c.mem_gib).label("mem_gib"),
    )
    .select_from(
        job.join(task, task.c.job_id == job.c.id)
        .join(task_instance, _its_task)
        .outerjoin(compute_node, compute_node.c.id == task_instance.c.node_id)
    )
    .where(
        job.c.state.in_(OPEN),
        task.c.starting + task.c.running > 0,
        task_instance.c.state.in_([state.value for state in LAUNCHED]),
    )
)
"""The instances that an engine has, each with its account and the memory of its node."""
TERMINATING = LAUNCHED_INSTANCES.where(task_instance.c.terminating)
INSTANCE_WISH = (
    update(task_instance)
    .where(
        task_instance.c.job_id == bindparam("of_job"),
        task_instance.c.position == bindparam("at_position"),
        task_instance.c.number == bindparam("at_number"),
    )
    .values(terminating=True)
)
COUNT_FAILED_RUN = (
    update(task_instance)
    .where(
        task_instance.c.job_id == bindparam("of_job"),
        task_instance.c.position == bindparam("at_position"),
        task_instance.c.state == State.RUNNABLE.value,
    )
    .values(failures=task_instance.c.failures + 1)
)
WITHOUT_A_TRY = (
    select(task_instance)
    .where(
        task_instance.c.job_id == bindparam("job_id"),
        task_instance.c.position == bindparam("position"),
        task_instance.c.state == State.RUNNABLE.value,
        task_instance.c.failures > bindparam("failures_max"),
    )
    .order_by(task_instance.c.number)
    .limit(bindparam("most"))
)
FIRST_FAILED_TASK = (
    select(task.c.position, task.c.name)
    .where(
        task.c.job_id == bindparam("job_id"),
        task.c.doom != "PREDECESSOR_FAILED",
        task.c.failed + task.c.failed_interrupted > 0,
    )
    .order_by(task.c.position)
    .limit(1)
)
MOVE_ALL_INSTANCES = (
    update(task_instance)
    .where(
        task_instance.c.job_id == bindparam("of_job"),
        task_instance.c.position == bindparam("at_position"),
        task_instance.c.state == bindparam("old"),
    )
    .values(state=bindparam("new"))
)
MOVE_INSTANCE = (
    update(task_instance)
    .where(
        task_instance.c.job_id == bindparam("of_job"),
        task_instance.c.position == bindparam("at_position"),
        task_instance.c.number == bindparam("at_number"),
        task_instance.c.state == bindparam("old"),
    )
    .values(
        state=bindparam("new"),
        attempt=bindparam("now_attempt"),
        terminating=bindparam("still_terminating"),
        failures=bindparam("now_failures"),
        losses=bindparam("now_losses"),
        node_id=bindparam("on_node"),
        node_instance_id=bindparam("on_instance"),
        exit_code=bindparam("exited"),
        cause=bindparam("because"),
        reason=bindparam("in_words"),
        launched_at=bindparam("launch"),
        running_at=bindparam("run"),
        ended_at=bindparam("over_at"),
    )
)

NODE_IS_FREE = and_(
    compute_node.c.state == NodeState.RUNNING.value,
    compute_node.c.busy_with == "",
    compute_node.c.fate == Fate.NONE.value,
)
COUNT_FREE_NODES = (
    select(
        compute_node.c.env_id,
        func.count().label("n"),
        func.max(compute_node.c.mem_gib).label("mem_gib"),
    )
    .where(
        compute_node.c.env_id.in_(bindparam("env_ids", expanding=True)),
        NODE_IS_FREE,
    )
    .group_by(compute_node.c.env_id)
)

LOCK_USABLE_ENV = (
    select(compute_env)
    .where(
        compute_env.c.id == bindparam("env_id"),
        compute_env.c.owner_uin == bindparam("owner_uin"),
        compute_env.c.region == bindparam("region"),
        compute_env.c.next_action == "",
    )
    .with_for_update(read=True)
)
"""For a job to use it: one that is being deleted is not there any more.

Why a lock that jobs share: it is to keep the environment from being deleted meanwhile, and calls
that name several jobs take these locks in no common order.
"""
FREE_NODES = (
    select(
        compute_node.c.id,
        compute_node.c.instance_id,
        compute_node.c.cpu,
        compute_node.c.mem_gib,
    )
    .where(
        compute_node.c.env_id == bindparam("env_id"),
        NODE_IS_FREE,
    )
    .order_by(compute_node.c.id)
    .limit(bindparam("most"))
    .with_for_update(skip_locked=True)
)
OCCUPY_NODE = (
    update(compute_node)
    .where(compute_node.c.id == bindparam("at_node"), compute_node.c.busy_with == "")
    .values(busy_with=bindparam("attempt_id"))
)
_next_fate = bindparam("next_fate", type_=Text)
_STAYS = or_(compute_node.c.fate == Fate.LOST.value, _next_fate == Fate.NONE.value)
FREE_NODE = (
    update(compute_node)
    .where(
        compute_node.c.id == bindparam("at_node"),
        compute_node.c.busy_with == bindparam("attempt_id"),
    )
    .values(
        busy_with="",
        fate=case((_STAYS, compute_node.c.fate), else_=_next_fate),
    )
)
"""`next_fate`: of `Fate`. What was lost stays lost, whatever else is to be done."""

_GIVEN_NAME = bindparam("given_name", type_=Text)
_GIVEN_DESCRIPTION = bindparam("given_description", type_=Text)
_GIVEN_SPEC = bindparam("given_spec", type_=LargeBinary)
COUNT_TEMPLATES = (
    select(func.count())
    .select_from(task_template)
    .where(
        task_template.c.owner_uin == bindparam("of_owner"),
        task_template.c.region == bindparam("in_region"),
    )
)
MODIFY_TEMPLATE = (
    update(task_template)
    .where(
        task_template.c.id == bindparam("of_id"),
        task_template.c.owner_uin == bindparam("of_owner"),
        task_template.c.region == bindparam("in_region"),
    )
    .values(
        name=func.coalesce(_GIVEN_NAME, task_template.c.name),
        description=func.coalesce(_GIVEN_DESCRIPTION, task_template.c.description),
        spec=func.coalesce(_GIVEN_SPEC, task_template.c.spec),
    )
)
"""What is not given, and so is None, stays as it is."""
DROP_TEMPLATES = (
    delete(task_template)
    .where(
        task_template.c.id.in_(bindparam("of_ids", expanding=True)),
        task_template.c.owner_uin == bindparam("of_owner"),
        task_template.c.region == bindparam("in_region"),
    )
    .returning(task_template.c.id)
)
