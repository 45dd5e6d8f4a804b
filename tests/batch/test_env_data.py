"""Zones, and how large the nodes of an environment are."""

from typing import Any

import pytest

from gateway.batch.catalogue import Catalogue, parse_catalogue
from gateway.batch.datatypes import CreateComputeEnvRequest, EnvData, SubmitJobRequest, Task
from gateway.batch.env_data import check_env_data, check_zone, check_zone_exists, node_size
from gateway.batch.environments.requests import check_env
from gateway.batch.instance_types import Size
from gateway.batch.rules import Rules
from gateway.batch.validation import check_task, plan_job
from gateway.errors import ApiError
from gateway.service import decode
from tests.support.batch import DEFAULT_RULES, REGION, ZONE, a_job, a_task

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


ZONED = """
[[instance_type]]
name = "edge.small"
family = "edge"
cpu = 1
mem_gib = 2
zones = ["ap-guangzhou-3"]
charge_types = ["POSTPAID_BY_HOUR"]
"""
LISTED = parse_catalogue(
    ZONED
    + """
[[instance_type]]
name = "rack.big"
family = "rack"
cpu = 48
mem_gib = 192
charge_types = ["POSTPAID_BY_HOUR"]
category = "COMPUTE_3"

[[instance_type]]
name = "rack.mid"
family = "rack"
cpu = 2
mem_gib = 8
category = "GENERAL_2"
""",
    where="catalogue.toml",
)


def planned_size(members: dict[str, Any], *, catalogue: Catalogue, zone: str = ZONE) -> Size:
    task = a_task(ComputeEnv={"EnvData": members})
    request = decode({"Placement": {"Zone": zone}, "Job": a_job(task)}, SubmitJobRequest)
    return plan_job(request, region=REGION, rules=Rules(catalogue)).tasks[0].size


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
    check_task(request.job.tasks[0], rules=DEFAULT_RULES)
    with pytest.raises(ApiError) as caught:
        plan_job(request, region=REGION, rules=DEFAULT_RULES)
    assert caught.value.code == "InvalidZone.MismatchRegion"


@pytest.mark.parametrize(
    ("members", "size"),
    [
        ({}, Size(1, 1)),
        ({"InstanceType": "S2.MEDIUM4"}, Size(2, 4)),
        ({"InstanceTypes": ["S5.LARGE8", "S2.MEDIUM4"]}, Size(4, 8)),
        ({"InstanceTypeOptions": {"CPU": 3, "Memory": 5}}, Size(3, 5)),
    ],
)
def test_a_node_is_as_large_as_what_was_asked_for(members: dict[str, Any], size: Size) -> None:
    assert node_size(env_data(**members), catalogue=Catalogue()) == size
    assert planned_size(members, catalogue=Catalogue()) == size


@pytest.mark.parametrize(
    ("members", "zone", "size"),
    [
        ({}, ZONE, Size(2, 8)),
        ({}, "ap-guangzhou-3", Size(1, 2)),
        ({"Zones": ["ap-guangzhou-3"]}, ZONE, Size(1, 2)),
        ({"InstanceChargeType": "SPOTPAID"}, "ap-guangzhou-3", Size(2, 8)),
        ({"InstanceType": "rack.big"}, ZONE, Size(48, 192)),
        ({"InstanceTypes": ["edge.small", "rack.big", "rack.mid"]}, ZONE, Size(48, 192)),
        ({"InstanceTypeOptions": {"CPU": 1, "Memory": 3}}, "ap-guangzhou-3", Size(2, 8)),
        ({"InstanceTypeOptions": {"CPU": 3, "Memory": 3}}, ZONE, Size(48, 192)),
        (
            {"InstanceTypeOptions": {"CPU": 1, "Memory": 1, "InstanceCategories": ["COMPUTE"]}},
            ZONE,
            Size(48, 192),
        ),
    ],
)
def test_from_a_list_of_types_the_first_or_smallest_that_can_be_had_is_taken(
    members: dict[str, Any], zone: str, size: Size
) -> None:
    assert planned_size(members, catalogue=LISTED, zone=zone) == size


UNOFFERED = [
    ({"InstanceType": "S1.SMALL1"}, "`S1.SMALL1` is not offered"),
    ({"InstanceTypes": ["rack.mid", "S1.SMALL1"]}, "`S1.SMALL1` is not offered"),
    ({"InstanceType": "edge.small"}, f"`edge.small` is not offered in {ZONE}"),
    ({"InstanceTypes": ["edge.small"]}, f"`edge.small` is not offered in {ZONE}"),
    ({"InstanceType": "rack.big", "InstanceChargeType": "SPOTPAID"}, "POSTPAID_BY_HOUR only"),
    ({"InstanceTypeOptions": {"CPU": 49, "Memory": 13}}, "at least 49 cores and 13 GiB"),
    (
        {"InstanceTypeOptions": {"CPU": 3, "Memory": 1, "InstanceCategories": ["GENERAL"]}},
        "No instance type of GENERAL",
    ),
]


@pytest.mark.parametrize(("members", "words"), UNOFFERED)
def test_a_node_that_no_listed_type_makes_is_refused(members: dict[str, Any], words: str) -> None:
    with pytest.raises(ApiError, match=words) as caught:
        planned_size(members, catalogue=LISTED)
    assert caught.value.code == "InvalidParameter.CvmParameters"
    env = {"EnvName": "e", "DesiredComputeNodeCount": 1, "EnvData": members}
    request = decode({"Placement": {"Zone": ZONE}, "ComputeEnv": env}, CreateComputeEnvRequest)
    with pytest.raises(ApiError, match=words) as caught:
        check_env(request, region=REGION, rules=Rules(LISTED).at([ZONE]))
    assert caught.value.code == "InvalidParameterValue.InstanceType"


def test_a_zone_without_any_listed_type_takes_no_node() -> None:
    nowhere = parse_catalogue(ZONED, where="catalogue.toml")
    with pytest.raises(ApiError, match="No instance type is offered as POSTPAID_BY_HOUR in"):
        planned_size({}, catalogue=nowhere)


def test_the_types_of_a_template_are_looked_at_but_not_where_they_are() -> None:
    def template(**data: Any) -> Task:
        return decode(a_task(ComputeEnv={"EnvData": data}), Task)

    check_task(template(InstanceType="edge.small"), rules=Rules(LISTED))
    for data in ({"InstanceType": "S1.SMALL1"}, {"InstanceTypeOptions": {"CPU": 49, "Memory": 1}}):
        with pytest.raises(ApiError) as caught:
            check_task(template(**data), rules=Rules(LISTED))
        assert caught.value.code == "InvalidParameter.CvmParameters"


def test_a_task_on_an_environment_needs_no_type_of_its_own() -> None:
    task = a_task(EnvId="env-00000000")
    request = decode({"Placement": {"Zone": ZONE}, "Job": a_job(task)}, SubmitJobRequest)
    nowhere = parse_catalogue(ZONED, where="catalogue.toml")
    assert plan_job(request, region=REGION, rules=Rules(nowhere)).tasks[0].size == Size(1, 1)


def test_an_operators_own_type_exists_only_where_it_is_declared() -> None:
    check_env_data(env_data(InstanceType="rack.big"), env_type=None, catalogue=DECLARED)
    with pytest.raises(ApiError) as caught:
        check_env_data(env_data(InstanceType="rack.big"), env_type=None, catalogue=Catalogue())
    assert caught.value.code == "InvalidParameter.CvmParameters"


@pytest.mark.parametrize("price", ["0", "1", "0.08", "1e-3"])
def test_a_bid_is_any_price(price: str) -> None:
    options = {"MarketType": "spot", "SpotOptions": {"MaxPrice": price}}
    data = env_data(InstanceChargeType="SPOTPAID", InstanceMarketOptions=options)
    check_env_data(data, env_type="MANAGED", catalogue=Catalogue())
