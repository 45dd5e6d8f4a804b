"""The actions on the nodes of environments: give them up, attach and detach machines."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from gateway.batch import datatypes as wire
from gateway.batch.environments import attaching, termination
from gateway.batch.environments.requests import check_machines, check_together
from gateway.batch.naming import check_env_id
from gateway.batch.rules import Rules
from gateway.call import Call, Grant
from gateway.clock import Clock
from gateway.ids import NewId
from gateway.service import Empty, Operation
from gateway.store import Store


@dataclass(frozen=True, slots=True)
class NodeCalls:
    """The handlers of TerminateComputeNode and its like."""

    store: Store
    clock: Clock
    new_id: NewId
    rules: Rules

    @property
    def operations(self) -> Mapping[str, Operation]:
        """Every action on nodes."""
        return {
            "TerminateComputeNode": Operation(
                wire.TerminateComputeNodeRequest, self.terminate_node
            ),
            "TerminateComputeNodes": Operation(
                wire.TerminateComputeNodesRequest, self.terminate_nodes
            ),
            "AttachInstances": Operation(wire.AttachInstancesRequest, self.attach_instances),
            "DetachInstances": Operation(wire.DetachInstancesRequest, self.detach_instances),
        }

    async def terminate_node(
        self, call: Call, grant: Grant, request: wire.TerminateComputeNodeRequest
    ) -> Empty:
        """Give one node up."""
        return await self._terminate(call, grant, request.env_id, [request.compute_node_id])

    async def terminate_nodes(
        self, call: Call, grant: Grant, request: wire.TerminateComputeNodesRequest
    ) -> Empty:
        """Give several nodes up, all or none."""
        return await self._terminate(call, grant, request.env_id, request.compute_node_ids)

    async def _terminate(
        self, call: Call, grant: Grant, env_id: str, node_ids: Sequence[str]
    ) -> Empty:
        check_env_id(env_id)
        check_together(node_ids, name="ComputeNodeIds")
        await self.store.write(
            partial(
                termination.terminate_nodes,
                env_id=env_id,
                node_ids=node_ids,
                action=call.action,
                principal=grant.principal,
                region=call.region,
                now=self.clock(),
                new_id=self.new_id,
            )
        )
        return Empty()

    async def attach_instances(
        self, call: Call, grant: Grant, request: wire.AttachInstancesRequest
    ) -> Empty:
        """Make nodes of machines that the operator declared."""
        check_env_id(request.env_id)
        named = [each.instance_id for each in request.instances]
        check_machines(named, name="Instances")
        await self.store.write(
            partial(
                attaching.attach,
                request=request,
                machines=self.rules.catalogue.machines,
                principal=grant.principal,
                region=call.region,
                now=self.clock(),
                new_id=self.new_id,
            )
        )
        return Empty()

    async def detach_instances(
        self, call: Call, grant: Grant, request: wire.DetachInstancesRequest
    ) -> Empty:
        """Take machines out of an environment again."""
        check_env_id(request.env_id)
        check_machines(request.instance_ids, name="InstanceIds")
        await self.store.write(
            partial(
                attaching.detach,
                env_id=request.env_id,
                instance_ids=request.instance_ids,
                principal=grant.principal,
                region=call.region,
                now=self.clock(),
                new_id=self.new_id,
            )
        )
        return Empty()
