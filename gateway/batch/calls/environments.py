"""The actions on compute environments and their nodes."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from gateway.batch import datatypes as wire
from gateway.batch import environments, jobs, reads
from gateway.batch.lists import ENVS, check_combination, list_resources, read_page
from gateway.batch.naming import check_env_id
from gateway.call import Call, Grant
from gateway.clock import Clock
from gateway.errors import InvalidParameterValue
from gateway.ids import NewId
from gateway.service import Empty, Operation
from gateway.store import Store, Tx


@dataclass(frozen=True, slots=True)
class EnvironmentCalls:
    """The handlers of CreateComputeEnv and what follows it."""

    store: Store
    topic_exists: jobs.TopicExists
    clock: Clock
    new_id: NewId

    @property
    def operations(self) -> Mapping[str, Operation]:
        """Every action on an environment."""
        return {
            "CreateComputeEnv": Operation(
                wire.CreateComputeEnvRequest, self.create_env, wire.prepare_create_compute_env
            ),
            "DescribeComputeEnv": Operation(wire.DescribeComputeEnvRequest, self.describe_env),
            "DescribeComputeEnvs": Operation(
                wire.DescribeComputeEnvsRequest, self.describe_envs, wire.prepare_filters
            ),
            "DeleteComputeEnv": Operation(wire.DeleteComputeEnvRequest, self.delete_env),
            "TerminateComputeNode": Operation(
                wire.TerminateComputeNodeRequest, self.terminate_node
            ),
            "TerminateComputeNodes": Operation(
                wire.TerminateComputeNodesRequest, self.terminate_nodes
            ),
        }

    async def create_env(
        self, call: Call, grant: Grant, request: wire.CreateComputeEnvRequest
    ) -> wire.CreateComputeEnvResponse:
        """Store an environment; its nodes are made from here on."""
        environments.check_env(request, region=call.region)

        def create(tx: Tx) -> str:
            make = partial(
                environments.create_env,
                tx,
                request,
                principal=grant.principal,
                region=call.region,
                topic_exists=self.topic_exists,
                now=self.clock(),
                new_id=self.new_id,
            )
            return jobs.once(
                tx,
                make,
                token=request.client_token,
                request=request,
                action=call.action,
                principal=grant.principal,
                region=call.region,
                now=self.clock(),
            )

        return wire.CreateComputeEnvResponse(env_id=await self.store.write(create))

    async def describe_env(
        self, call: Call, grant: Grant, request: wire.DescribeComputeEnvRequest
    ) -> wire.DescribeComputeEnvResponse:
        """One environment with its nodes."""
        check_env_id(request.env_id)

        def read(tx: Tx) -> wire.DescribeComputeEnvResponse:
            row = environments.get_env(
                tx, request.env_id, principal=grant.principal, region=call.region
            )
            return reads.describe_env(tx, row)

        return await self.store.read_list(read)

    async def describe_envs(
        self, call: Call, grant: Grant, request: wire.DescribeComputeEnvsRequest
    ) -> wire.DescribeComputeEnvsResponse:
        """The environments the caller may describe."""
        for env_id in request.env_ids:
            check_env_id(env_id)
        check_combination(request.env_ids, request.filters, name="EnvIds")
        page = read_page(request.offset, request.limit, default=20, most=100)

        def read(tx: Tx) -> wire.DescribeComputeEnvsResponse:
            rows, total = list_resources(
                tx,
                ENVS,
                principal=grant.principal,
                region=call.region,
                ids=request.env_ids,
                filters=request.filters,
                scope=grant.scope,
                page=page,
            )
            return wire.DescribeComputeEnvsResponse(
                compute_env_set=reads.env_views(tx, rows), total_count=total
            )

        return await self.store.read_list(read)

    async def delete_env(
        self, call: Call, grant: Grant, request: wire.DeleteComputeEnvRequest
    ) -> Empty:
        """Remove an environment without nodes."""
        check_env_id(request.env_id)
        await self.store.write(
            partial(
                environments.delete_env,
                env_id=request.env_id,
                principal=grant.principal,
                region=call.region,
                now=self.clock(),
            )
        )
        return Empty()

    async def terminate_node(
        self, call: Call, grant: Grant, request: wire.TerminateComputeNodeRequest
    ) -> Empty:
        """Give one node up."""
        return await self._terminate_nodes(call, grant, request.env_id, [request.compute_node_id])

    async def terminate_nodes(
        self, call: Call, grant: Grant, request: wire.TerminateComputeNodesRequest
    ) -> Empty:
        """Give several nodes up, all or none."""
        return await self._terminate_nodes(call, grant, request.env_id, request.compute_node_ids)

    async def _terminate_nodes(
        self, call: Call, grant: Grant, env_id: str, node_ids: list[str]
    ) -> Empty:
        check_env_id(env_id)
        if not 0 < len(node_ids) <= 100:  # noqa: PLR2004  # the API's limit
            raise InvalidParameterValue("ComputeNodeIds must name from 1 to 100 nodes.")
        await self.store.write(
            partial(
                environments.terminate_nodes,
                env_id=env_id,
                node_ids=node_ids,
                principal=grant.principal,
                region=call.region,
                now=self.clock(),
            )
        )
        return Empty()
