"""Why something waits, in words for whoever asks. Pure.

Why something failed is said by `outcomes.reason_of`, and stored with the instance.
"""

from dataclasses import dataclass
from datetime import datetime

from gateway.batch.engines import Cause
from gateway.batch.outcomes import WORDS
from gateway.batch.slots import Load
from gateway.batch.states import FINAL, WAITING, State
from gateway.clock import wire_time

TERMINATING = "It is being terminated on request."
TAKEN_UP = "It was submitted a moment ago and is taken up next."
STARTING = "What it needs is being made ready: its node, package, image and files."
NAMED_MAX = 3
"""How many of the tasks that one waits for are named."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """How much the engine runs at once, and how much of that is in use. owner_uin: who asks."""

    attempts: int
    mem_gib: int
    load: Load
    owner_uin: str


@dataclass(frozen=True, slots=True)
class EnvNodes:
    """How many nodes an environment has, of these run, and of these run nothing.

    mem_gib: of the largest that runs nothing. kept: how many are held by instances that failed
    and keep their node. reason: why one of those that do not run does not.
    """

    env_id: str
    total: int
    running: int
    idle: int
    reason: str
    mem_gib: int = 0
    kept: int = 0


@dataclass(frozen=True, slots=True)
class Standing:
    """How a task stands whose instances wait; the members are those of its row.

    busy: how many of its instances run. nodes: of its environment; None for elastic ones.
    waits_for: the names of the first tasks that are to finish before it.
    """

    state: State
    doom: str
    blockers: int
    busy: int
    concurrent_max: int
    node_failures: int
    node_retry_at: datetime | None
    node_reason: str
    mem_gib: int
    nodes: EnvNodes | None
    waits_for: tuple[str, ...] = ()


def why_task_waits(task: Standing, *, capacity: Capacity) -> str:
    """Say why a task's instances have not been started; "" if it is over."""
    if task.state in FINAL:
        return ""
    mem_gib = task.mem_gib if task.nodes is None else task.nodes.mem_gib
    return _why_not_ready(task) or _why_no_node(task) or _why_no_room(mem_gib, capacity=capacity)


def _why_not_ready(task: Standing) -> str:
    if task.doom:
        return f"It is about to fail: {WORDS[Cause(task.doom)]}"
    if task.state in WAITING and task.blockers:
        return f"It waits for {task.blockers} task(s) that it depends on{_named(task)}."
    if 0 < task.concurrent_max <= task.busy:
        return f"As many instances run as MaxConcurrentNum allows: {task.concurrent_max}."
    return ""


def _named(task: Standing) -> str:
    if not task.waits_for:
        return ""
    more = ", …" if task.blockers > len(task.waits_for) else ""
    return ": " + ", ".join(f"`{name}`" for name in task.waits_for) + more


def _why_no_node(task: Standing) -> str:
    if task.nodes is not None:
        return _why_none_is_free(task.nodes)
    if not task.node_failures:
        return ""
    words = f"Its node could not be made: {task.node_reason}"
    if task.node_retry_at is None:
        return words
    return f"{words} The next try is at {wire_time(task.node_retry_at)}."


def _why_none_is_free(nodes: EnvNodes) -> str:
    if nodes.idle:
        return ""
    if nodes.running:
        words = f"No node of the environment {nodes.env_id} is free: all {nodes.running} are in use"
        if not nodes.kept:
            return f"{words}."
        return (
            f"{words}, {nodes.kept} of them by instances that are FAILED_INTERRUPTED and keep"
            " their node until they are terminated."
        )
    if not nodes.total:
        return f"The environment {nodes.env_id} has no node."
    why = nodes.reason or f"{nodes.total} are being made."
    return f"The environment {nodes.env_id} has no running node: {why}"


def _why_no_room(mem_gib: int, *, capacity: Capacity) -> str:
    """mem_gib: of the node that is wanted."""
    load = capacity.load
    own_places, own_gib = load.used.get(capacity.owner_uin, (0, 0))
    if load.attempts >= capacity.attempts:
        return (
            f"It waits for capacity: the engine runs {capacity.attempts} task instances at once"
            f"{_others_have(load.attempts - own_places, of=load.attempts)}."
        )
    free_gib = max(0, capacity.mem_gib - load.mem_gib)
    if load.attempts and min(mem_gib, capacity.mem_gib) > free_gib:
        others = _others_have(load.mem_gib - own_gib, of=load.mem_gib)
        return (
            f"It waits for memory: its node has {mem_gib} GiB, and {free_gib} of the engine's"
            f" {capacity.mem_gib} GiB are free{others}."
        )
    return (
        "It waits for its turn: what is more urgent, or older, of this account is started first;"
        " accounts take turns."
    )


def _others_have(number: int, *, of: int) -> str:
    """Say that other accounts have what is waited for, and not which: nobody is told of another."""
    if number <= 0:
        return ""
    return f"; other accounts have {'all that' if number >= of else 'some of what'} is in use"
