"""Which instances of a job start now, and on which nodes."""

from collections.abc import Sequence
from typing import NamedTuple

from gateway.batch import tidings
from gateway.batch.attempts import Attempt
from gateway.batch.catalogue import Catalogue
from gateway.batch.changes import JobChanges
from gateway.batch.node_waits import wait_before
from gateway.batch.records import Instance, Node, Task
from gateway.batch.slots import Room
from gateway.batch.states import OVER, State, Trigger, can
from gateway.batch.waiting_statements import TASKS_TO_PLACE
from gateway.events.names import EventName


class Placed(NamedTuple):
    """An attempt that has a node now, the memory that this counts for, and the job's account."""

    attempt: Attempt
    node: Node
    mem_gib: int
    owner_uin: str


def place(
    changes: JobChanges,
    room: Room,
    *,
    catalogue: Catalogue,
    sick: Sequence[str],
    is_only_task: bool = False,
) -> list[Placed]:
    """Put runnable instances on nodes as far as there is room, which they use up.

    sick: jobs that are left alone for now; the nodes that they wait for are not kept for them.
    is_only_task: whether one open task of this job is all that waits.
    """
    if changes.terminating or changes.state in OVER or room.places <= 0:
        return []
    placed: list[Placed] = []
    for task in _tasks_to_place(changes, room, sick=sick, is_only_task=is_only_task):
        if task.env_id is None and not _can_be_made(changes, task, catalogue=catalogue):
            continue
        wanted = _wanted(task)
        on_nodes = _place_task(changes, task, room, wanted=wanted)
        placed += on_nodes
        if room.places <= 0 or (task.env_id is None and len(on_nodes) < wanted):
            break  # what comes behind does not overtake a large one
    return placed


def _tasks_to_place(
    changes: JobChanges, room: Room, *, sick: Sequence[str], is_only_task: bool
) -> Sequence[Task]:
    """The tasks that may have something to place, in their order."""
    known = [*changes.tasks.values()]
    if is_only_task and len(known) == 1 and known[0].env_id is not None:
        return known  # for an elastic one it may not be time yet
    changes.save()
    keys = {
        "urgency": changes.job.priority,
        "since": changes.job.created_at,
        "moment": changes.now,
        "most": room.places,
        "sick": sick,
    }
    positions = changes.positions(TASKS_TO_PLACE, **keys)
    changes.load_tasks(positions)
    return [changes.tasks[position] for position in positions]


def _wanted(task: Task) -> int:
    parts = task.parts()
    if not task.concurrent_max:
        return parts.runnable
    return min(parts.runnable, task.concurrent_max - parts.starting - parts.running)


def _can_be_made(changes: JobChanges, task: Task, *, catalogue: Catalogue) -> bool:
    """Whether elastic nodes of a task can be made; if not, that is told, and tried again later.

    Why one try for all its instances: they all want the same node, and what is in the way of one
    is in the way of a hundred thousand.
    """
    retry_rules = task.retry_rules
    why = catalogue.why_not_made(retry_rules.image_id or None)
    if not why:
        if task.node_failures:
            task.node_failures, task.node_retry_at, task.node_reason = 0, None, ""
            changes.touch(task)
        return True
    task.node_failures += 1
    task.node_reason = why
    node_id = changes.new_id("node")
    for name in (EventName.COMPUTE_NODE_CREATION_FAILED, EventName.COMPUTE_NODE_DELETING):
        changes.tell(tidings.unmade_node_event(name, task, node_id=node_id))
    number = task.node_failures
    if changes.job.state_if_no_node == "RUNNABLE":
        task.node_retry_at = changes.now + wait_before(number)
    elif number % (retry_rules.node_retries_max + 1):
        task.node_retry_at = changes.now + wait_before(number % (retry_rules.node_retries_max + 1))
    else:
        changes.count_failed_run(task)
    changes.touch(task)
    return False


def _place_task(changes: JobChanges, task: Task, room: Room, *, wanted: int) -> list[Placed]:
    nodes = _nodes_for(changes, task, room, wanted=wanted) if wanted > 0 else []
    if not nodes:
        return []
    if can(changes.state, Trigger.PLACED):
        changes.move_job(Trigger.PLACED)
    if can(task.state, Trigger.PLACED):
        changes.move_task(task, Trigger.PLACED)
    waiting = changes.instances_in(task, {State.RUNNABLE}, most=len(nodes))
    placed = []
    for instance, node in zip(waiting, nodes, strict=False):
        taken = room.take(1, mem_gib=node.mem_gib)
        attempt = _place_instance(changes, task, instance, node)
        placed.append(Placed(attempt, node, taken.mem_gib, changes.job.owner_uin))
    return placed


def _nodes_for(changes: JobChanges, task: Task, room: Room, *, wanted: int) -> list[Node]:
    """Free nodes of the task's environment, or new elastic ones, for which there is room."""
    if task.env_id is None:
        return [
            Node(changes.new_id("node"), changes.new_id("ins"), task.cpu, task.mem_gib)
            for _ in range(min(wanted, room.fits(task.mem_gib)))
        ]
    found = changes.free_nodes(task.env_id, most=min(wanted, room.places))
    left = room.mem_gib
    for index, node in enumerate(found):
        left -= room.size(node.mem_gib)
        if left < 0:
            return found[:index]
    return found


def _place_instance(changes: JobChanges, task: Task, instance: Instance, node: Node) -> Attempt:
    after = changes.move(
        instance,
        Trigger.PLACED,
        attempt=instance.attempt + 1,
        node_id=node.id,
        node_instance_id=node.instance_id,
        launched_at=changes.now,
        running_at=None,
        exit_code=None,
        cause=None,
        reason="",
    )
    if task.env_id is None:
        created = EventName.COMPUTE_NODE_CREATED
        changes.tell(tidings.elastic_node_event(created, task, after))
    else:
        changes.occupy(node, after)
    return after.latest
