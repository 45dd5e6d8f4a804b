"""Giving up nodes by name, as transactions."""

from collections.abc import Sequence
from datetime import datetime

from gateway.batch.environments import ENVIRONMENTS
from gateway.batch.environments import statements as sql
from gateway.batch.environments.changes import open_own_env
from gateway.batch.environments.ordering import give_up, is_terminable
from gateway.batch.environments.records import EnvNode, Origin
from gateway.batch.naming import check_node_id
from gateway.batch.states import NodeState
from gateway.call import Principal
from gateway.errors import ResourceNotFound, UnsupportedOperation
from gateway.ids import NewId
from gateway.store import Tx


def terminate_nodes(
    tx: Tx,
    env_id: str,
    node_ids: Sequence[str],
    *,
    action: str,
    principal: Principal,
    region: str,
    now: datetime,
    new_id: NewId,
) -> None:
    """Give nodes up, all of them or none; the wanted number of nodes falls with them.

    action: who asks. Why the number falls: a node given up on purpose must not be made again.
    """
    for node_id in node_ids:
        check_node_id(node_id)
    changes = open_own_env(tx, env_id, principal=principal, region=region, now=now, new_id=new_id)
    nodes = {node.id: node for node in changes.nodes()}
    chosen = []
    for node_id in node_ids:
        if node_id not in nodes:
            raise ResourceNotFound(f"The node `{node_id}` does not exist.", detail="ComputeNode")
        node = nodes[node_id]
        _check_terminable(node)
        if node in chosen:
            raise UnsupportedOperation(
                f"The node `{node_id}` is named twice; it can be terminated once.",
                detail="ComputeNodeIsTerminating",
            )
        chosen.append(node)
    had: int = changes.env.desired_count
    wanted = max(0, had - len(chosen))
    cause = f"{action}: decrease the capacity from {had} to {wanted}"
    give_up(changes, chosen, cause=cause)
    tx.execute(sql.SET_DESIRED, {"of_env": env_id, "wanted": wanted})
    changes.close()
    tx.wake(ENVIRONMENTS)


def _check_terminable(node: EnvNode) -> None:
    if node.state is NodeState.DELETING:
        raise UnsupportedOperation(
            f"The node `{node.id}` is being terminated already.",
            detail="ComputeNodeIsTerminating",
        )
    if not is_terminable(node) or node.busy_with:
        raise UnsupportedOperation(
            f"The node `{node.id}` is busy or being made, and cannot be terminated now.",
            detail="ComputeNodeForbidTerminate",
        )
    if node.origin is Origin.USER_ATTACHED:
        raise UnsupportedOperation(
            f"The machine of the node `{node.id}` is yours; use DetachInstances.",
            detail="ComputeNodeForbidTerminate",
        )
