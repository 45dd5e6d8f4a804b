"""The actions on compute environments: make, show, change and remove them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy import Row

from gateway.batch import bare_metal, jobs
from gateway.batch import datatypes as wire
from gateway.batch.abilities import check_env_abilities
from gateway.batch.engines import Engine
from gateway.batch.env_data import zones_of
from gateway.batch.environments import creation, reading
from gateway.batch.environments.offers import rules_for_change
from gateway.batch.environments.requests import check_cpm_env, check_env, check_modification
from gateway.batch.environments.specs import EnvPlan, plan_cpm_env, plan_env
from gateway.batch.lists import (
    ENV_CREATE_INFO_LIST,
    ENV_LIST,
    Listed,
    check_combination,
    check_filters,
    list_resources,
    read_page,
)
from gateway.batch.naming import check_env_id
from gateway.batch.rules import Rules
from gateway.batch.secrets import Vault
from gateway.call import Call, Grant
from gateway.clock import Clock
from gateway.ids import NewId
from gateway.service import Empty, Operation
from gateway.store import Store, Tx

Infos = wire.DescribeComputeEnvCreateInfosRequest


@dataclass(frozen=True, slots=True)
class EnvironmentCalls:
    """The handlers of CreateComputeEnv and what follows it. Those on nodes: see `NodeCalls`."""

    store: Store
    engine: Engine
    topic_exists: jobs.TopicExists
    clock: Clock
    new_id: NewId
    vault: Vault
    rules: Rules

    @property
    def operations(self) -> Mapping[str, Operation]:
        """Every action on an environment."""
        return {
            "CreateComputeEnv": Operation(
                wire.CreateComputeEnvRequest, self.create_env, wire.prepare_create_compute_env
            ),
            "CreateCpmComputeEnv": Operation(
                bare_metal.CreateCpmComputeEnvRequest,
                self.create_cpm_env,
                wire.prepare_create_compute_env,
            ),
            "DescribeComputeEnv": Operation(wire.DescribeComputeEnvRequest, self.describe_env),
            "DescribeComputeEnvs": Operation(
                wire.DescribeComputeEnvsRequest, self.describe_envs, wire.prepare_filters
            ),
            "DescribeComputeEnvCreateInfo": Operation(
                wire.DescribeComputeEnvCreateInfoRequest, self.describe_create_info
            ),
            "DescribeComputeEnvCreateInfos": Operation(
                Infos, self.describe_create_infos, wire.prepare_filters
            ),
            "DescribeComputeEnvActivities": Operation(
                wire.DescribeComputeEnvActivitiesRequest,
                self.describe_activities,
                wire.prepare_filters,
            ),
            "ModifyComputeEnv": Operation(wire.ModifyComputeEnvRequest, self.modify_env),
            "DeleteComputeEnv": Operation(wire.DeleteComputeEnvRequest, self.delete_env),
        }

    async def create_env(
        self, call: Call, grant: Grant, request: wire.CreateComputeEnvRequest
    ) -> wire.CreateComputeEnvResponse:
        """Store an environment; its nodes are made from here on."""
        zones = zones_of(request.compute_env.env_data, zone=request.placement.zone)
        rules = self.rules.at(zones)
        check_env(request, region=call.region, rules=rules)
        made = await self._create(call, grant, request, plan=plan_env(request), rules=rules)
        return wire.CreateComputeEnvResponse(env_id=made)

    async def create_cpm_env(
        self, call: Call, grant: Grant, request: bare_metal.CreateCpmComputeEnvRequest
    ) -> bare_metal.CreateCpmComputeEnvResponse:
        """Store a bare-metal environment; its nodes are made from here on."""
        check_cpm_env(request, region=call.region, rules=self.rules)
        plan = plan_cpm_env(request)
        made = await self._create(call, grant, request, plan=plan, rules=self.rules)
        return bare_metal.CreateCpmComputeEnvResponse(env_id=made)

    async def _create(
        self,
        call: Call,
        grant: Grant,
        request: wire.CreateComputeEnvRequest | bare_metal.CreateCpmComputeEnvRequest,
        *,
        plan: EnvPlan,
        rules: Rules,
    ) -> str:
        check_env_abilities(plan.spec, self.engine.missing)

        def create(tx: Tx) -> str:
            make = partial(
                creation.create_env,
                tx,
                plan,
                principal=grant.principal,
                region=call.region,
                topic_exists=self.topic_exists,
                rules=rules,
                vault=self.vault,
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
                vault=self.vault,
                now=self.clock(),
            )

        return await self.store.write(create)

    async def describe_env(
        self, call: Call, grant: Grant, request: wire.DescribeComputeEnvRequest
    ) -> wire.DescribeComputeEnvResponse:
        """One environment with its nodes."""
        check_env_id(request.env_id)

        def read(tx: Tx) -> wire.DescribeComputeEnvResponse:
            row = creation.get_env(
                tx, request.env_id, principal=grant.principal, region=call.region
            )
            return reading.describe_env(tx, row)

        return await self.store.read_list(read)

    async def describe_envs(
        self, call: Call, grant: Grant, request: wire.DescribeComputeEnvsRequest
    ) -> wire.DescribeComputeEnvsResponse:
        """The environments the caller may describe."""

        def read(tx: Tx) -> wire.DescribeComputeEnvsResponse:
            rows, total = self._list(tx, ENV_LIST, call, grant, request=request)
            return wire.DescribeComputeEnvsResponse(
                compute_env_set=reading.env_views(tx, rows), total_count=total
            )

        _check_list(request)
        return await self.store.read_list(read)

    async def describe_create_info(
        self, call: Call, grant: Grant, request: wire.DescribeComputeEnvCreateInfoRequest
    ) -> wire.ComputeEnvCreateInfo:
        """What one environment was asked to be."""
        check_env_id(request.env_id)

        def read(tx: Tx) -> wire.ComputeEnvCreateInfo:
            row = creation.get_env(
                tx, request.env_id, principal=grant.principal, region=call.region
            )
            [info] = reading.create_infos(tx, [row])
            return info

        return await self.store.read_list(read)

    async def describe_create_infos(
        self, call: Call, grant: Grant, request: Infos
    ) -> wire.DescribeComputeEnvCreateInfosResponse:
        """What the environments that the caller may describe were asked to be."""

        def read(tx: Tx) -> wire.DescribeComputeEnvCreateInfosResponse:
            rows, total = self._list(tx, ENV_CREATE_INFO_LIST, call, grant, request=request)
            return wire.DescribeComputeEnvCreateInfosResponse(
                total_count=total, compute_env_create_info_set=reading.create_infos(tx, rows)
            )

        _check_list(request)
        return await self.store.read_list(read)

    def _list(
        self,
        tx: Tx,
        listed: Listed,
        call: Call,
        grant: Grant,
        *,
        request: wire.DescribeComputeEnvsRequest | Infos,
    ) -> tuple[list[Row[Any]], int]:
        return list_resources(
            tx,
            listed,
            principal=grant.principal,
            region=call.region,
            ids=request.env_ids,
            filters=request.filters,
            scope=grant.scope,
            page=read_page(request.offset, request.limit, default=20, most=100),
        )

    async def describe_activities(
        self, call: Call, grant: Grant, request: wire.DescribeComputeEnvActivitiesRequest
    ) -> wire.DescribeComputeEnvActivitiesResponse:
        """What was done to the nodes of an environment."""
        check_env_id(request.env_id)
        check_filters(request.filters, {reading.NODE_FILTER})
        reading.check_activity_filters(request.filters)
        page = read_page(request.offset, request.limit, default=20, most=100)

        def read(tx: Tx) -> wire.DescribeComputeEnvActivitiesResponse:
            creation.get_env(tx, request.env_id, principal=grant.principal, region=call.region)
            return reading.list_activities(tx, request.env_id, filters=request.filters, page=page)

        return await self.store.read_list(read)

    async def modify_env(
        self, call: Call, grant: Grant, request: wire.ModifyComputeEnvRequest
    ) -> Empty:
        """Change an environment; nodes come and go from here on."""
        check_env_id(request.env_id)
        check_modification(request, rules=self.rules)

        def modify(tx: Tx) -> None:
            principal, region = grant.principal, call.region
            env = creation.get_env(tx, request.env_id, principal=principal, region=region)
            creation.modify_env(
                tx,
                request,
                principal=principal,
                region=region,
                rules=rules_for_change(request, env, rules=self.rules),
                now=self.clock(),
                new_id=self.new_id,
            )

        await self.store.write(modify)
        return Empty()

    async def delete_env(
        self, call: Call, grant: Grant, request: wire.DeleteComputeEnvRequest
    ) -> Empty:
        """Remove an environment without nodes."""
        check_env_id(request.env_id)
        await self.store.write(
            partial(
                creation.delete_env,
                env_id=request.env_id,
                principal=grant.principal,
                region=call.region,
                now=self.clock(),
                new_id=self.new_id,
            )
        )
        return Empty()


def _check_list(request: wire.DescribeComputeEnvsRequest | Infos) -> None:
    for env_id in request.env_ids:
        check_env_id(env_id)
    check_combination(request.env_ids, request.filters, name="EnvIds")
