"""What is known of an attempt that is to run: its task, its environment, its node, its secrets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from sqlalchemy import Row, bindparam, select

from gateway.batch import datatypes
from gateway.batch.applications import docker_options
from gateway.batch.attempts import Attempt, parse_attempt
from gateway.batch.engines import Container, Engine, Launch, Limits, Mount
from gateway.batch.records import Node
from gateway.batch.secrets import Secrets, Vault, is_masked
from gateway.batch.staging.places import EnvStorage, Order, needs_staging, output_folders
from gateway.batch.storage import Keys
from gateway.batch.tables import compute_env, compute_node, job, task
from gateway.batch.validation import TIMEOUT_DEFAULT_S
from gateway.call import Value
from gateway.store import Conflict, Store, Tx

TASKS_MAX: Final = 10_000
SPECS_BYTES_MAX: Final = 64 * 2**20
SPEC_BYTES_MAX: Final = 2**20
NODES_PER_QUERY: Final = 500
GIB: Final = 2**30
TaskKey = tuple[str, int]
"""A job's id, and the task's position in it."""

TASK_AT = (
    select(task.c.spec, task.c.env_id, task.c.cpu, task.c.mem_gib, job.c.owner_uin)
    .join(job, job.c.id == task.c.job_id)
    .where(task.c.job_id == bindparam("job_id"), task.c.position == bindparam("position"))
)
ENV_AS_CREATED = select(compute_env.c.created).where(compute_env.c.id == bindparam("env_id"))
NODES_BUSY_WITH = select(
    compute_node.c.busy_with,
    compute_node.c.id,
    compute_node.c.instance_id,
    compute_node.c.cpu,
    compute_node.c.mem_gib,
).where(
    compute_node.c.env_id == bindparam("env_id"),
    compute_node.c.busy_with.in_(bindparam("attempt_ids", expanding=True)),
)


@dataclass(frozen=True, slots=True)
class TaskFacts:
    """What does not change of a task. node: an elastic one, of which only the size is known.
    owner_uin: the account whose job it is.

    needs_staging: whether anything must be there before its command can run. variables: the
    environment of its commands, but for what differs from instance to instance. stored_bytes: of
    what is in the database of all this.
    """

    task: datatypes.Task
    owner_uin: str
    env_id: str | None
    env: EnvStorage
    node: Node
    needs_staging: bool
    variables: Mapping[str, str]
    stored_bytes: int


class Assignment(Value, frozen=True):
    """One attempt, with all that was submitted and created for it, secrets apart.

    node: where it runs; without an id if it is an elastic one.
    """

    attempt: Attempt
    facts: TaskFacts
    node: Node

    @property
    def task(self) -> datatypes.Task:
        """The task as it was submitted, its secrets masked."""
        return self.facts.task

    @property
    def env(self) -> EnvStorage:
        """What the named environment brings; nothing for an elastic one."""
        return self.facts.env


class Assignments:
    """Reads what attempts need, and keeps what is known of their tasks.

    A task never changes. Of its environment, what it brings was fixed when it was created; that
    the rest of it may change (ModifyComputeEnv) is nothing to an attempt.

    At most TASKS_MAX are kept, and SPECS_BYTES_MAX of what is stored of them; one of more than
    SPEC_BYTES_MAX is read each time.
    """

    def __init__(self, store: Store, engine: Engine, vault: Vault, *, processes_max: int) -> None:
        """processes_max: how many processes one command may have."""
        self._store = store
        self._engine = engine
        self._vault = vault
        self._processes_max = processes_max
        self._facts: dict[TaskKey, TaskFacts] = {}
        self._bytes = 0

    async def read(self, attempts: Mapping[Attempt, Node | None]) -> list[Assignment]:
        """What is known of attempts, in their order. Raises Conflict if a task is gone.

        attempts: each with its node, or None if that must be looked up, too.
        """
        facts: dict[Attempt, TaskFacts] = {}
        of_task: dict[TaskKey, TaskFacts] = {}
        nodes: dict[Attempt, Node] = {}
        to_look_up: dict[str, list[Attempt]] = {}
        for attempt, node in attempts.items():
            key = _task_key(attempt)
            if key not in of_task:
                of_task[key] = self.find_facts(attempt) or await self._read_facts(attempt)
            found = facts[attempt] = of_task[key]
            if found.env_id is None:
                continue
            if node is None:
                to_look_up.setdefault(found.env_id, []).append(attempt)
            else:
                nodes[attempt] = node
        for env_id, lost in to_look_up.items():
            nodes |= await self._nodes(env_id, lost)
        return [
            Assignment(attempt, found, nodes.get(attempt, found.node))
            for attempt, found in facts.items()
        ]

    def find_facts(self, attempt: Attempt) -> TaskFacts | None:
        """What was read of an attempt's task before, unless it was too long ago."""
        return self._facts.get(_task_key(attempt))

    async def _read_facts(self, attempt: Attempt) -> TaskFacts:
        facts = await self._store.read_point(lambda tx: _facts_of(tx, attempt))
        self._forget(_task_key(attempt))  # who read it meanwhile
        if facts.stored_bytes <= SPEC_BYTES_MAX:
            room = SPECS_BYTES_MAX - facts.stored_bytes
            while self._bytes > room or len(self._facts) >= TASKS_MAX:
                self._forget(next(iter(self._facts)))
            self._facts[_task_key(attempt)] = facts
            self._bytes += facts.stored_bytes
        return facts

    def _forget(self, key: TaskKey) -> None:
        if key in self._facts:
            self._bytes -= self._facts.pop(key).stored_bytes

    async def _nodes(self, env_id: str, attempts: Sequence[Attempt]) -> Mapping[Attempt, Node]:
        """The nodes of an environment that have these attempts. An end that comes again finds its
        node given back, or gone: it is not there.
        """

        def read(tx: Tx) -> list[Row[Any]]:
            rows: list[Row[Any]] = []
            for begin in range(0, len(attempts), NODES_PER_QUERY):
                portion = [each.id for each in attempts[begin : begin + NODES_PER_QUERY]]
                keys = {"env_id": env_id, "attempt_ids": portion}
                rows += tx.execute(NODES_BUSY_WITH, keys).all()
            return rows

        rows = await self._store.read_list(read)
        return {parse_attempt(row.busy_with): Node._make(row[1:]) for row in rows}

    async def order(self, assignment: Assignment) -> Order:
        """What must be brought for an attempt, and with which keys.

        Raises StoreUnavailable; StagingFailed if its secrets cannot be read.
        """
        facts, node = assignment.facts, assignment.node
        own = env = Secrets()
        if facts.task.authentications or is_masked(facts.task.application.package_path or ""):
            own = await self._secrets(assignment)
        if facts.env.authentications and facts.env_id is not None:
            env_id = facts.env_id
            env = await self._store.read_point(lambda tx: self._vault.read(tx, env_id))
        return Order(
            task=facts.task,
            attempt=self._engine.attempt_path(assignment.attempt.folder),
            env=facts.env,
            node=self._engine.node_path(node.id) if node.id else None,
            keys=_keys(own),
            env_keys=_keys(env),
            package_path=own.package_path,
            owner_uin=facts.owner_uin,
        )

    async def launch(self, assignment: Assignment, *, mounts: Sequence[Mount] = ()) -> Launch:
        """The launch of an attempt that has all it needs.

        Raises StoreUnavailable; StagingFailed if its secrets cannot be read.
        """
        docker = assignment.task.application.docker
        container = None if docker is None else await self._container(assignment, docker)
        return self.launch_plainly(assignment, mounts=mounts, container=container)

    def launch_plainly(
        self,
        assignment: Assignment,
        *,
        mounts: Sequence[Mount] = (),
        container: Container | None = None,
    ) -> Launch:
        """The launch of an attempt that needs nothing more to be read."""
        spec, attempt, node = assignment.task, assignment.attempt, assignment.node
        number = {"BATCH_TASK_INSTANCE_INDEX": str(attempt.number)}
        return Launch(
            attempt_id=attempt.id,
            command=_command(spec.application, attempt.number),
            environment={**assignment.facts.variables, **number},
            folder=attempt.folder,
            timeout_s=TIMEOUT_DEFAULT_S if spec.timeout is None else spec.timeout,
            limits=Limits(node.cpu, self._mem_bytes(node), self._processes_max),
            mounts=tuple(mounts),
            container=container,
            has_files=assignment.facts.needs_staging,
            folders=output_folders(spec),
        )

    def _mem_bytes(self, node: Node) -> int:
        """The memory that a node really has: one larger than the engine has all of that."""
        return min(node.mem_gib, self._engine.mem_gib) * GIB

    async def _container(self, assignment: Assignment, docker: datatypes.Docker) -> Container:
        secrets = await self._secrets(assignment) if docker.password else Secrets()
        return Container(
            image=docker.image,
            server=docker.server or "",
            user=docker.user or "",
            password=secrets.docker_password,
            retries=docker.max_retry_count or 0,
            retry_s=docker.delay_on_retry or 0,
            options=docker_options(docker.docker_run_option or ""),
        )

    async def _secrets(self, assignment: Assignment) -> Secrets:
        attempt = assignment.attempt
        return await self._store.read_point(
            lambda tx: self._vault.read(tx, attempt.job_id, position=attempt.position)
        )


def _facts_of(tx: Tx, attempt: Attempt) -> TaskFacts:
    keys = {"job_id": attempt.job_id, "position": attempt.position}
    row = tx.execute(TASK_AT, keys).first()
    if row is None:
        raise Conflict(f"the task of {attempt.id} is gone")
    created = None
    if row.env_id is not None:
        created = tx.execute(ENV_AS_CREATED, {"env_id": row.env_id}).scalar_one_or_none()
    spec = msgspec.json.decode(row.spec, type=datatypes.Task)
    env = msgspec.json.decode(created, type=EnvStorage) if created else EnvStorage()
    return TaskFacts(
        task=spec,
        owner_uin=row.owner_uin,
        env_id=row.env_id,
        env=env,
        node=Node("", "", row.cpu, row.mem_gib),
        needs_staging=needs_staging(spec, env),
        variables={
            **{variable.name: variable.value for variable in spec.env_vars},
            "BATCH_JOB_ID": attempt.job_id,
            "BATCH_TASK_NAME": spec.task_name or "",
            "BATCH_TASK_INSTANCE_NUM": str(spec.task_instance_num or 1),
        },
        stored_bytes=len(row.spec) + len(created or b""),
    )


def _task_key(attempt: Attempt) -> TaskKey:
    return attempt.job_id, attempt.position


def _command(application: datatypes.Application, number: int) -> str:
    """The command of one instance. `Commands` has one for each."""
    if application.commands:
        return application.commands[number].command
    return application.command or ""


def _keys(secrets: Secrets) -> Keys | None:
    """The keys to remote storage; the only Scene there is is COS."""
    found = next(iter(secrets.authentications), None)
    return None if found is None else Keys(found.secret_id, found.secret_key)
