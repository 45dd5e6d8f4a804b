"""Machines of the operator's as nodes, as transactions: attach and detach."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from gateway import ids
from gateway.batch import datatypes
from gateway.batch.catalogue import Machine
from gateway.batch.environments import ENVIRONMENTS
from gateway.batch.environments import statements as sql
from gateway.batch.environments.changes import open_own_env
from gateway.batch.environments.ordering import give_up, is_terminable, new_node
from gateway.batch.environments.records import ActivityType, Origin
from gateway.batch.environments.requests import CPM, NODES_MAX
from gateway.batch.instance_types import Size
from gateway.call import Principal
from gateway.errors import InvalidParameter, UnsupportedOperation
from gateway.ids import NewId
from gateway.store import Tx


def attach(
    tx: Tx,
    request: datatypes.AttachInstancesRequest,
    *,
    machines: Mapping[str, Machine],
    principal: Principal,
    region: str,
    now: datetime,
    new_id: NewId,
) -> None:
    """Make nodes of machines, all or none. machines: those the operator declared, by id.

    The wanted number of nodes does not count them. Raises
    UnsupportedOperation.InstancesNotAllowToAttach for a machine that is not declared, or belongs
    to an environment already. LoginSettings are not kept: nobody logs in to a node here.
    """
    changes = open_own_env(
        tx, request.env_id, principal=principal, region=region, now=now, new_id=new_id
    )
    if changes.env.resource_type == CPM:
        raise UnsupportedOperation("Machines cannot be attached to a bare-metal environment.")
    have: int = tx.execute(sql.COUNT_NODES, {"env_id": request.env_id}).scalar_one()
    if have + len(request.instances) > NODES_MAX:
        raise UnsupportedOperation(f"An environment has at most {NODES_MAX} nodes.")
    nodes = []
    for each in request.instances:
        if each.image_id is not None and not ids.is_id(each.image_id, "img"):
            raise InvalidParameter(
                f"ImageId `{each.image_id}` is malformed.", detail="ImageIdMalformed"
            )
        machine = machines.get(each.instance_id)
        if machine is None:
            raise _not_allowed(f"There is no machine `{each.instance_id}` that may be attached.")
        node = new_node(
            changes,
            instance_id=machine.id,
            size=Size(cpu=machine.cpu, mem_gib=machine.mem_gib),
            origin=Origin.USER_ATTACHED,
            address=machine.address,
            image_id=each.image_id or "",
        )
        nodes.append(changes.add(node))
    cause = f"AttachInstances: attach {len(nodes)} instance(s)"
    for node in sorted(
        nodes, key=lambda node: node.instance_id
    ):  # two callers never wait crosswise
        changes.begin(node, ActivityType.ATTACH, cause=cause)
        if not changes.write_attached(node):
            where = _place_of(tx, node.instance_id, principal=principal)
            raise _not_allowed(f"The machine `{node.instance_id}` is attached already{where}.")
    changes.close()
    tx.wake(ENVIRONMENTS)


def _place_of(tx: Tx, instance_id: str, *, principal: Principal) -> str:
    """Say where a machine is attached, if the environment is of the caller's account."""
    keys = {"instance_id": instance_id, "owner_uin": principal.owner_uin}
    env_id = tx.execute(sql.ENV_WITH_MACHINE, keys).scalar_one_or_none()
    return "" if env_id is None else f" to the environment `{env_id}`"


def _not_allowed(message: str) -> UnsupportedOperation:
    return UnsupportedOperation(message, detail="InstancesNotAllowToAttach")


def detach(
    tx: Tx,
    env_id: str,
    instance_ids: Sequence[str],
    *,
    principal: Principal,
    region: str,
    now: datetime,
    new_id: NewId,
) -> None:
    """Take machines out of an environment again, all or none.

    Raises UnsupportedOperation for a machine that is not in it, that Batch made, that is busy, or
    that is not there yet or any more: the only code that is documented for them.
    """
    changes = open_own_env(tx, env_id, principal=principal, region=region, now=now, new_id=new_id)
    nodes = {node.instance_id: node for node in changes.nodes()}
    chosen = []
    for instance_id in instance_ids:
        node = nodes.get(instance_id)
        if node is None:
            raise UnsupportedOperation(f"The instance `{instance_id}` is not in `{env_id}`.")
        if node.origin is Origin.BATCH_CREATED:
            raise UnsupportedOperation(
                f"The instance `{instance_id}` was created by Batch; terminate its node instead."
            )
        if node.busy_with or not is_terminable(node):
            raise UnsupportedOperation(
                f"The instance `{instance_id}` is {'busy' if node.busy_with else node.state.value}."
            )
        chosen.append(node)
    give_up(changes, chosen, cause=f"DetachInstances: detach {len(chosen)} instance(s)")
    changes.close()
    tx.wake(ENVIRONMENTS)
