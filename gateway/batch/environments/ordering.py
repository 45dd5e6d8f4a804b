"""Ordering nodes and giving them up: the rows, their activities, their events."""

from collections.abc import Iterable

from gateway.batch.environments.changes import EnvChanges
from gateway.batch.environments.records import (
    HERE,
    LEAVING,
    ActivityType,
    EnvNode,
    Fate,
    Origin,
)
from gateway.batch.instance_types import Size
from gateway.batch.states import NODE, ActivityTrigger, NodeState, NodeTrigger


def order_nodes(changes: EnvChanges, count: int, *, size: Size, image_id: str, cause: str) -> None:
    """Order nodes that are all alike; the keeper makes them."""
    for _ in range(count):
        node = new_node(
            changes,
            instance_id=changes.new_id("ins"),
            size=size,
            origin=Origin.BATCH_CREATED,
            address=HERE,
            image_id=image_id,
        )
        changes.begin(changes.add(node), ActivityType.CREATE, cause=cause)


def new_node(
    changes: EnvChanges,
    *,
    instance_id: str,
    size: Size,
    origin: Origin,
    address: str,
    image_id: str,
) -> EnvNode:
    """A node that is not ordered yet."""
    return EnvNode(
        id=changes.new_id("node"),
        env_id=changes.env.id,
        state=NodeState.PENDING,
        instance_id=instance_id,
        cpu=size.cpu,
        mem_gib=size.mem_gib,
        busy_with="",
        fate=Fate.NONE,
        origin=origin,
        failures=0,
        retry_at=None,
        reason="",
        address=address,
        image_id=image_id,
        created_at=changes.now,
        resource_created_at=None,
    )


def is_terminable(node: EnvNode) -> bool:
    """Whether a node is in a state in which it can be given up."""
    return (node.state, NodeTrigger.DROPPED) in NODE


def give_up(changes: EnvChanges, nodes: Iterable[EnvNode], *, cause: str) -> None:
    """Have nodes go that nothing runs on; the keeper clears what they leave, then they are gone."""
    for node in nodes:
        dropped = changes.move(
            node, NodeTrigger.DROPPED, fate=Fate.NONE, retry_at=None, reason=cause
        )
        changes.begin(dropped, LEAVING[node.origin], ActivityTrigger.BEGUN, cause=cause)
