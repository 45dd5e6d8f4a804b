"""Which instances of a job start now, and on which nodes."""

from gateway.batch import statements as sql
from gateway.batch import tidings
from gateway.batch.attempts import Attempt
from gateway.batch.changes import JobChanges
from gateway.batch.records import Instance, Node, Task
from gateway.batch.states import OVER, State, Trigger, can
from gateway.events.names import EventName


def place(changes: JobChanges, slots: int) -> list[Attempt]:
    """Put runnable instances on nodes, at most `slots` of them; returns their attempts."""
    if changes.terminating or changes.state in OVER or slots <= 0:
        return []
    changes.save()
    placed: list[Attempt] = []
    keys = {"urgency": changes.job.priority, "since": changes.job.created_at}
    for position in changes.positions(sql.TASKS_TO_PLACE, **keys):
        if len(placed) >= slots:
            break
        changes.load_tasks([position])
        placed += _place_task(changes, changes.tasks[position], slots - len(placed))
    return placed


def _place_task(changes: JobChanges, task: Task, slots: int) -> list[Attempt]:
    parts = task.parts()
    if task.concurrent_max:
        slots = min(slots, task.concurrent_max - parts.starting - parts.running)
    slots = min(slots, parts.runnable)
    nodes = _nodes_for(changes, task, slots) if slots > 0 else []
    if not nodes:
        return []
    if can(changes.state, Trigger.PLACED):
        changes.move_job(Trigger.PLACED)
    if can(task.state, Trigger.PLACED):
        changes.move_task(task, Trigger.PLACED)
    waiting = changes.instances_in(task, {State.RUNNABLE}, most=len(nodes))
    return [
        _place_instance(changes, task, instance, node)
        for instance, node in zip(waiting, nodes, strict=False)
    ]


def _nodes_for(changes: JobChanges, task: Task, wanted: int) -> list[Node]:
    """Free nodes of the task's environment, or new elastic ones."""
    if task.env_id is not None:
        return changes.free_nodes(task.env_id, most=wanted)
    return [Node(changes.new_id("node"), changes.new_id("ins")) for _ in range(wanted)]


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
