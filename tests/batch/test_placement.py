"""Zones, and how large the nodes of an environment are."""

from typing import Any

import pytest

from gateway.batch.catalogue import parse_catalogue
from gateway.batch.datatypes import EnvData, SubmitJobRequest
from gateway.batch.instance_types import Size
from gateway.batch.placement import check_env_data, check_zone, check_zone_exists, node_size
from gateway.batch.rules import Rules
from gateway.batch.validation import check_task, plan_job
from gateway.errors import ApiError
from gateway.service import decode
from tests.support.batch import REGION, ZONE, a_job, a_task

DECLARED = parse_catalogue(
    """
[[zone]]
id = "ap-guangzhou-2"

[[zone]]
id = "ap-guangzhou-3"
open = false

[[instance_type]]
name = "rack.big"
family = "rack"
cpu = 48
mem_gib = 192
""",
    where="catalogue.toml",
)


def env_data(**members: Any) -> EnvData:
    return decode(members, EnvData)


def test_where_zones_are_declared_no_other_exists_and_a_closed_one_takes_nothing() -> None:
    check_zone(ZONE, region=REGION, catalogue=DECLARED)
    check_zone_exists("ap-guangzhou-3", region=REGION, catalogue=DECLARED)
    for zone, code in [
        ("ap-guangzhou-3", "InvalidParameterValue.UnavailableZone"),
        ("ap-guangzhou-4", "InvalidZone.MismatchRegion"),
        ("ap-beijing-1", "InvalidParameterValue.InvalidZoneMismatchRegion"),
        ("moon", "InvalidZone.MismatchRegion"),
    ]:
        with pytest.raises(ApiError) as caught:
            check_zone(zone, region=REGION, catalogue=DECLARED)
        assert caught.value.code == code


def test_every_zone_that_nodes_may_be_made_in_is_looked_at() -> None:
    check_env_data(env_data(Zones=[ZONE]), env_type=None, region=REGION, catalogue=DECLARED)
    zones = env_data(Zones=[ZONE, "ap-guangzhou-3"])
    with pytest.raises(ApiError) as caught:
        check_env_data(zones, env_type=None, region=REGION, catalogue=DECLARED)
    assert caught.value.code == "InvalidParameterValue.UnavailableZone"


def test_the_zones_of_a_template_are_looked_at_when_a_job_is_made() -> None:
    written = a_task(ComputeEnv={"EnvData": {"Zones": ["moon"]}})
    request = decode({"Placement": {"Zone": ZONE}, "Job": a_job(written)}, SubmitJobRequest)
    check_task(request.job.tasks[0])
    with pytest.raises(ApiError) as caught:
        plan_job(request, region=REGION)
    assert caught.value.code == "InvalidZone.MismatchRegion"


@pytest.mark.parametrize(
    ("members", "size"),
    [
        ({}, Size(1, 1)),
        ({"InstanceType": "S2.MEDIUM4"}, Size(2, 4)),
        ({"InstanceTypes": ["S5.LARGE8", "S2.MEDIUM4"]}, Size(4, 8)),
        ({"InstanceTypeOptions": {"CPU": 3, "Memory": 5}}, Size(3, 5)),
        ({"InstanceType": "rack.big"}, Size(48, 192)),
    ],
)
def test_a_node_is_as_large_as_what_was_asked_for(members: dict[str, Any], size: Size) -> None:
    assert node_size(env_data(**members), catalogue=DECLARED) == size
    task = a_task(ComputeEnv={"EnvData": members})
    request = decode({"Placement": {"Zone": ZONE}, "Job": a_job(task)}, SubmitJobRequest)
    plan = plan_job(request, region=REGION, rules=Rules(DECLARED))
    assert plan.tasks[0].size == size


def test_an_operators_own_type_exists_only_where_it_is_declared() -> None:
    check_env_data(env_data(InstanceType="rack.big"), env_type=None, catalogue=DECLARED)
    with pytest.raises(ApiError) as caught:
        check_env_data(env_data(InstanceType="rack.big"), env_type=None)
    assert caught.value.code == "InvalidParameter.CvmParameters"


@pytest.mark.parametrize("price", ["0", "1", "0.08", "1e-3"])
def test_a_bid_is_any_price(price: str) -> None:
    options = {"MarketType": "spot", "SpotOptions": {"MaxPrice": price}}
    data = env_data(InstanceChargeType="SPOTPAID", InstanceMarketOptions=options)
    check_env_data(data, env_type="MANAGED")
