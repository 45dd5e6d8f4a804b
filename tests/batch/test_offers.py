"""What an operator's list of instance types means for environments that are there already."""

from pathlib import Path
from typing import Any

import pytest

from gateway.batch.catalogue import Catalogue, parse_catalogue
from gateway.batch.rules import Rules
from gateway.store import Store
from tests.support.batch import Batch
from tests.support.environments import code_of, nodes_of
from tests.support.fake_engine import FakeEngine

pytestmark = pytest.mark.anyio
REFUSED = "InvalidParameterValue.InstanceType"
LISTED = parse_catalogue(
    """
[[instance_type]]
name = "edge.small"
family = "edge"
cpu = 1
mem_gib = 2
zones = ["ap-guangzhou-3"]

[[instance_type]]
name = "rack.big"
family = "rack"
cpu = 48
mem_gib = 192
charge_types = ["POSTPAID_BY_HOUR"]

[[instance_type]]
name = "rack.mid"
family = "rack"
cpu = 2
mem_gib = 8
""",
    where="catalogue.toml",
)


def under(store: Store, tmp_path: Path, *, catalogue: Catalogue) -> Batch:
    """The service with a catalogue, on what the others have stored."""
    return Batch(store, FakeEngine(tmp_path), folder=tmp_path, rules=Rules(catalogue=catalogue))


async def code(batch: Batch, env_id: str, **members: Any) -> str:
    return await code_of(batch, "ModifyComputeEnv", EnvId=env_id, **members)


async def test_an_environment_takes_only_types_that_are_offered_where_it_is(
    store: Store, tmp_path: Path
) -> None:
    batch = under(store, tmp_path, catalogue=LISTED)
    env_id = await batch.create_env(0, EnvData={"InstanceType": "rack.big"})
    for name in ("S1.SMALL1", "edge.small"):
        assert await code(batch, env_id, EnvData={"InstanceTypes": [name]}) == REFUSED
    await batch.call("ModifyComputeEnv", EnvId=env_id, EnvData={"InstanceTypes": ["rack.mid"]})
    spot = {"InstanceType": "rack.mid", "InstanceChargeType": "SPOTPAID"}
    env_id = await batch.create_env(0, EnvData=spot)
    assert await code(batch, env_id, EnvData={"InstanceTypes": ["rack.big"]}) == REFUSED


async def test_the_nodes_of_an_environment_are_those_offered_where_it_is(
    store: Store, tmp_path: Path
) -> None:
    batch = under(store, tmp_path, catalogue=LISTED)
    for data, cpu in [({}, 2), ({"Zones": ["ap-guangzhou-3"]}, 1)]:
        env_id = await batch.create_env(1, EnvData=data)
        await batch.call("ModifyComputeEnv", EnvId=env_id, DesiredComputeNodeCount=2)
        assert [node["Cpu"] for node in await nodes_of(batch, env_id)] == [cpu] * 2


@pytest.mark.parametrize("later", [LISTED, Catalogue()])
async def test_more_nodes_of_what_is_offered_no_longer_are_refused_and_fewer_are_not(
    store: Store, tmp_path: Path, later: Catalogue
) -> None:
    before = parse_catalogue(
        '[[instance_type]]\nname = "old.one"\nfamily = "old"\ncpu = 1\nmem_gib = 1\n',
        where="catalogue.toml",
    )
    data = {"InstanceType": "old.one"}
    env_id = await under(store, tmp_path, catalogue=before).create_env(1, EnvData=data)
    batch = under(store, tmp_path, catalogue=later)
    await batch.tend()
    assert await code(batch, env_id, DesiredComputeNodeCount=2) == REFUSED
    await batch.call("ModifyComputeEnv", EnvId=env_id, EnvName="other")
    await batch.call("ModifyComputeEnv", EnvId=env_id, DesiredComputeNodeCount=0)
