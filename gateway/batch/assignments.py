"""What is known of an attempt that is to run: its task, its environment, its node, its secrets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from sqlalchemy import Row, bindparam, select

from gateway.batch import datatypes
from gateway.batch.applications import docker_options
from gateway.batch.attempts import Attempt
from gateway.batch.engines import Container, Engine, Launch, Limits, Mount
from gateway.batch.secrets import Secrets, Vault
from gateway.batch.staging.places import EnvStorage, Order, needs_staging
from gateway.batch.storage import Keys
from gateway.batch.tables import compute_env, compute_node, task
from gateway.batch.validation import TIMEOUT_DEFAULT_S
from gateway.store import Conflict, Store, Tx

TASKS_MAX: Final = 10_000
NODES_PER_QUERY: Final = 500
GIB: Final = 2**30

TASK_AT = select(task.c.spec, task.c.env_id, task.c.cpu, task.c.mem_gib).where(
    task.c.job_id == bindparam("job_id"), task.c.position == bindparam("position")
)
ENV_AS_CREATED = select(compute_env.c.created).where(compute_env.c.id == bindparam("env_id"))
NODES_BUSY_WITH = select(
    compute_node.c.busy_with, compute_node.c.id, compute_node.c.cpu, compute_node.c.mem_gib
).where(
    compute_node.c.env_id == bindparam("env_id"),
    compute_node.c.busy_with.in_(bindparam("attempt_ids", expanding=True)),
)


@dataclass(frozen=True, slots=True)
class Node:
    """Where an attempt runs. id: of a node that stays; "" for an elastic one."""

    id: str
    cpu: int
    mem_gib: int


@dataclass(frozen=True, slots=True)
class Known:
    """What does not change of a task. node: the size of its elastic nodes. needs_staging: whether
    anything must be there before its command can run.
    """

    task: datatypes.Task
    env_id: str | None
    env: EnvStorage
    node: Node
    needs_staging: bool


@dataclass(frozen=True, slots=True)
class Assignment:
    """One attempt, with all that was submitted and created for it, secrets apart."""

    attempt: Attempt
    known: Known
    node: Node

    @property
    def task(self) -> datatypes.Task:
        """The task as it was submitted, its secrets masked."""
        return self.known.task

    @property
    def env(self) -> EnvStorage:
        """What the named environment brings; nothing for an elastic one."""
        return self.known.env


class Assignments:
    """Reads what attempts need. Tasks and environments never change in this, so they are kept."""

    def __init__(self, store: Store, engine: Engine, vault: Vault, *, processes_max: int) -> None:
        """processes_max: how many processes one command may have."""
        self._store = store
        self._engine = engine
        self._vault = vault
        self._processes_max = processes_max
        self._known: dict[tuple[str, int], Known] = {}

    async def read(self, attempts: Sequence[Attempt]) -> list[Assignment]:
        """What is known of attempts, in their order. Raises Conflict if a task is gone."""
        known = {}
        on_env: dict[str, list[str]] = {}
        for attempt in attempts:
            found = known[attempt] = await self._know(attempt)
            if found.env_id is not None:
                on_env.setdefault(found.env_id, []).append(attempt.id)
        nodes: dict[str, Node] = {}
        for env_id, attempt_ids in on_env.items():
            nodes |= await self._nodes(env_id, attempt_ids)
        return [
            Assignment(attempt, found, nodes.get(attempt.id, found.node))
            for attempt, found in known.items()
        ]

    def find_known(self, attempt: Attempt) -> Known | None:
        """What was read of an attempt's task before, unless it was too long ago."""
        return self._known.get((attempt.job_id, attempt.position))

    async def _know(self, attempt: Attempt) -> Known:
        key = attempt.job_id, attempt.position
        if key not in self._known:
            known = await self._store.read_point(lambda tx: _read_known(tx, attempt))
            while len(self._known) >= TASKS_MAX:
                del self._known[next(iter(self._known))]
            self._known[key] = known
        return self._known[key]

    async def _nodes(self, env_id: str, attempt_ids: Sequence[str]) -> Mapping[str, Node]:
        """The nodes of an environment that have these attempts. An end that comes again finds its
        node given back, or gone: it is not there.
        """

        def read(tx: Tx) -> list[Row[Any]]:
            rows: list[Row[Any]] = []
            for begin in range(0, len(attempt_ids), NODES_PER_QUERY):
                portion = list(attempt_ids[begin : begin + NODES_PER_QUERY])
                keys = {"env_id": env_id, "attempt_ids": portion}
                rows += tx.execute(NODES_BUSY_WITH, keys).all()
            return rows

        rows = await self._store.read_list(read)
        return {row.busy_with: Node(row.id, row.cpu, row.mem_gib) for row in rows}

    async def order(self, assignment: Assignment) -> Order:
        """What must be brought for an attempt, and with which keys.

        Raises StoreUnavailable; StagingFailed if its secrets cannot be read.
        """
        known, node = assignment.known, assignment.node
        own = env = Secrets()
        if known.task.authentications:
            own = await self._secrets(assignment)
        if known.env.authentications and known.env_id is not None:
            env_id = known.env_id
            env = await self._store.read_point(lambda tx: self._vault.read(tx, env_id))
        return Order(
            task=known.task,
            attempt=self._engine.attempt_path(assignment.attempt.folder),
            env=known.env,
            node=self._engine.node_path(node.id) if node.id else None,
            keys=_keys(own),
            env_keys=_keys(env),
        )

    async def launch(self, assignment: Assignment, *, mounts: Sequence[Mount] = ()) -> Launch:
        """The launch of an attempt that has all it needs.

        Raises StoreUnavailable; StagingFailed if its secrets cannot be read.
        """
        spec, attempt, node = assignment.task, assignment.attempt, assignment.node
        variables = {variable.name: variable.value for variable in spec.env_vars}
        return Launch(
            attempt_id=attempt.id,
            command=_command(spec.application, attempt.number),
            environment={
                **variables,
                "BATCH_JOB_ID": attempt.job_id,
                "BATCH_TASK_NAME": spec.task_name or "",
                "BATCH_TASK_INSTANCE_NUM": str(spec.task_instance_num or 1),
                "BATCH_TASK_INSTANCE_INDEX": str(attempt.number),
            },
            folder=attempt.folder,
            timeout_s=TIMEOUT_DEFAULT_S if spec.timeout is None else spec.timeout,
            limits=Limits(node.cpu, node.mem_gib * GIB, self._processes_max),
            mounts=tuple(mounts),
            container=await self._container(assignment),
        )

    async def _container(self, assignment: Assignment) -> Container | None:
        docker = assignment.task.application.docker
        if docker is None:
            return None
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


def _read_known(tx: Tx, attempt: Attempt) -> Known:
    keys = {"job_id": attempt.job_id, "position": attempt.position}
    row = tx.execute(TASK_AT, keys).first()
    if row is None:
        raise Conflict(f"the task of {attempt.id} is gone")
    created = None
    if row.env_id is not None:
        created = tx.execute(ENV_AS_CREATED, {"env_id": row.env_id}).scalar_one_or_none()
    spec = msgspec.json.decode(row.spec, type=datatypes.Task)
    env = msgspec.json.decode(created, type=EnvStorage) if created else EnvStorage()
    return Known(
        task=spec,
        env_id=row.env_id,
        env=env,
        node=Node("", row.cpu, row.mem_gib),
        needs_staging=needs_staging(spec, env),
    )


def _command(application: datatypes.Application, number: int) -> str:
    """The command of one instance. `Commands` has one for each."""
    if application.commands:
        return application.commands[number].command
    return application.command or ""


def _keys(secrets: Secrets) -> Keys | None:
    """The keys to remote storage; the only Scene there is is COS."""
    found = next(iter(secrets.authentications), None)
    return None if found is None else Keys(found.secret_id, found.secret_key)
