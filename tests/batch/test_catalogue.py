"""The catalogue: what a file may say, and what the three actions answer from it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.batch.calls.catalogue import CatalogueCalls
from gateway.batch.catalogue import Catalogue, Machine, parse_catalogue, read_catalogue
from gateway.batch.instance_types import CHARGE_TYPES, Size
from gateway.batch.rules import Rules
from gateway.call import Call, Grant
from gateway.config import SettingsError
from gateway.errors import ApiError
from gateway.service import Service
from gateway.strict_toml import TomlRefused
from tests.batch.test_datatypes import EXAMPLES
from tests.support.batch import EVERYTHING, REGION, ROOT, START

VALUE = "InvalidParameterValue"
TYPES, CONFIGS = "DescribeAvailableCvmInstanceTypes", "DescribeCvmZoneInstanceConfigInfos"
OWN = """
[[image]]
id = "img-0custom1"
name = "Ubuntu 24.04"

[[image]]
id = "img-0custom2"
cloud_init = false

[[instance_type]]
name = "rack.big"
family = "rack"
cpu = 48
mem_gib = 192
zones = ["ap-guangzhou-3"]
charge_types = ["POSTPAID_BY_HOUR"]

[[instance_type]]
name = "S3.SMALL2"
family = "S3"
cpu = 2
mem_gib = 2

[[zone]]
id = "ap-guangzhou-3"

[[zone]]
id = "ap-guangzhou-2"
open = false

[[zone]]
id = "ap-beijing-1"

[[machine]]
id = "ins-rack0001"
cpu = 32
mem_gib = 128
address = "10.0.0.7"
"""


def parsed(text: str) -> Catalogue:
    return parse_catalogue(text, where="catalogue.toml")


async def answer(
    action: str, *filters: tuple[str, list[str]], text: str = "", region: str = REGION
) -> dict[str, Any]:
    service = Service(CatalogueCalls(Rules(parsed(text))).operations)
    written = [{"Name": name, "Values": values} for name, values in filters]
    params: Mapping[str, Any] = {"Filters": written} if filters else {}
    call = Call("r", "batch", "2017-03-12", action, region, params, "127.0.0.1", START)
    reply = await service(call, Grant(ROOT, EVERYTHING))
    members: dict[str, Any] = msgspec.json.decode(reply.members)
    return members


def large(*, types: int, zones: int, at: str = "") -> str:
    """A catalogue of so many types and zones. at: the TOML list of the zones of each type."""
    its_zones = f"zones = {at}\n" if at else ""
    return "".join(
        [
            f'[[instance_type]]\nname = "t{n}"\nfamily = "b"\ncpu = 1\nmem_gib = 1\n{its_zones}'
            for n in range(types)
        ]
        + [f'[[zone]]\nid = "ap-guangzhou-{n}"\n' for n in range(1, zones + 1)]
    )


def test_a_region_offers_no_more_than_one_answer_can_tell() -> None:
    parsed(large(types=80, zones=50))
    parsed(large(types=1_000, zones=99, at='["ap-guangzhou-1"]'))
    with pytest.raises(TomlRefused, match="in ap-guangzhou there are more than 4000"):
        parsed(large(types=81, zones=50))


async def types(*filters: tuple[str, list[str]], text: str = "") -> list[tuple[str, str]]:
    found = (await answer(TYPES, *filters, text=text))["InstanceTypeConfigSet"]
    return [(each["Zone"], each["InstanceType"]) for each in found]


def test_without_a_file_the_guides_images_and_the_known_families_are_there() -> None:
    catalogue = parsed("")
    assert catalogue == read_catalogue("")
    assert set(catalogue.images) == {"img-31tjrtph", "img-er9shcln", "img-pyqx34y1"}
    assert catalogue.machines == {}
    families = {each.family for each in catalogue.instance_types.values()}
    assert {"S1", "S2", "S3", "S4", "C2", "C3", "M2", "M3", "GN2", "SA5"} <= families


def test_a_file_adds_images_and_machines_and_takes_the_place_of_types_and_zones() -> None:
    catalogue = parsed(OWN)
    assert set(catalogue.images) == {*parsed("").images, "img-0custom1", "img-0custom2"}
    assert catalogue.why_not_made("img-0custom1") == ""
    assert "no cloud-init" in catalogue.why_not_made("img-0custom2")
    assert catalogue.machines == {"ins-rack0001": Machine("ins-rack0001", 32, 128, "10.0.0.7")}
    assert list(catalogue.instance_types) == ["rack.big", "S3.SMALL2"]
    assert catalogue.zones_of(REGION) == ("ap-guangzhou-3",)
    assert catalogue.zones_of("ap-shanghai") == ()


def test_a_declared_size_wins_and_a_type_of_the_cloud_is_known_unless_others_are_listed() -> None:
    catalogue = parsed(OWN)
    assert catalogue.find_size("rack.big") == Size(48, 192)
    assert catalogue.find_size("S3.SMALL2") == Size(2, 2)
    assert catalogue.find_size("S9.LARGE8") == Size(4, 8)
    assert catalogue.find_size("rack.small") is None
    assert catalogue.why_unknown("S3.SMALL2") == ""
    assert "not offered" in catalogue.why_unknown("S9.LARGE8")
    assert parsed("").why_unknown("S9.LARGE8") == ""
    assert "does not exist" in parsed("").why_unknown("rack.small")


IMAGE = '[[image]]\nid = "img-0custom1"\n'
TYPE = '[[instance_type]]\nname = "a"\nfamily = "b"\ncpu = 1\nmem_gib = 1\n'
MACHINE = '[[machine]]\nid = "ins-rack0001"\ncpu = 1\nmem_gib = 1\naddress = "10.0.0.7"\n'


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[[images]]", "`images` is unknown"),
        ("image = 1", r"must be written as \[\[image\]\]"),
        ("[[image", "catalogue.toml"),
        ("[[zone]]\n" * 1_001, r"more than 1000 \[\[zone\]\]"),
        (IMAGE + "colour = 'red'", "image 1: `colour` is unknown"),
        (IMAGE + IMAGE, "image 2: `id` img-0custom1 is there twice"),
        ('[[image]]\nid = "img-31tjrtph"', "is a public image's"),
        ('[[image]]\nid = "ubuntu"', "must be img- and eight"),
        (IMAGE + 'system = "bsd"', "`system` must be one of linux, windows"),
        (IMAGE + 'cloud_init = "yes"', "`cloud_init` must be true or false"),
        (TYPE + TYPE, "instance_type 2: `name` a is there twice"),
        (TYPE.replace("cpu = 1\n", ""), "`cpu` is missing"),
        (TYPE.replace("cpu = 1", "cpu = 0"), "`cpu` must be a whole number"),
        (TYPE.replace("mem_gib = 1", "mem_gib = 0.5"), "`mem_gib` must be a whole number"),
        (TYPE.replace('"a"', '"a b"'), "must be of letters"),
        (TYPE + 'zones = ["guangzhou"]', "is no zone's name"),
        (TYPE + 'zones = ["ap-guangzhou-1"]\n[[zone]]\nid = "ap-guangzhou-2"', r"no \[\[zone\]\]"),
        (TYPE + 'charge_types = ["PREPAID"]', "`charge_types` may hold"),
        (TYPE + 'category = "HUGE"', "`category` must be one of"),
        ('[[zone]]\nid = "moon"', "is no zone's name"),
        ('[[zone]]\nid = "ap-guangzhou-2"\n' * 2, "is there twice"),
        (MACHINE + MACHINE, "machine 2: `id` ins-rack0001 is there twice"),
        (MACHINE.replace("ins-rack0001", "rack1"), "must be ins- and eight"),
        (MACHINE.replace("10.0.0.7", "rack1"), "must be an IPv4 address"),
        (MACHINE.replace('address = "10.0.0.7"', ""), "`address` is missing"),
    ],
)
def test_a_file_with_anything_wrong_is_refused_as_a_whole(text: str, why: str) -> None:
    with pytest.raises(TomlRefused, match=why):
        parsed(text)


def test_a_file_that_cannot_be_used_is_an_error_of_the_settings(tmp_path: Path) -> None:
    file = tmp_path / "catalogue.toml"
    with pytest.raises(SettingsError, match="catalogue: "):
        read_catalogue(str(file))
    file.write_bytes(b"\xff")
    with pytest.raises(SettingsError, match="catalogue: "):
        read_catalogue(str(file))
    file.write_text("[[nothing]]")
    with pytest.raises(SettingsError, match=r"catalogue: catalogue\.toml: `nothing` is unknown"):
        read_catalogue(str(file))
    file.write_text(OWN)
    assert read_catalogue(str(file)) == parsed(OWN)


@pytest.mark.anyio
async def test_every_type_is_offered_in_every_zone_unless_it_is_declared_otherwise() -> None:
    catalogue = parsed("")
    zones = [f"ap-guangzhou-{number}" for number in (1, 2, 3, 4)]
    assert await types() == [(zone, name) for zone in zones for name in catalogue.instance_types]
    assert await types(text=OWN) == [
        ("ap-guangzhou-3", "rack.big"),
        ("ap-guangzhou-3", "S3.SMALL2"),
    ]


@pytest.mark.anyio
async def test_filters_are_anded_and_their_values_ored() -> None:
    both = ("ap-guangzhou-1", "ap-guangzhou-3")
    found = await types(("zone", list(both)), ("instance-family", ["GN2", "D1"]))
    assert {zone for zone, _ in found} == set(both)
    assert {name.partition(".")[0] for _, name in found} == {"GN2", "D1"}
    assert await types(("zone", ["ap-guangzhou-9"])) == []
    assert await types(("instance-family", ["GN2"]), ("instance-family", ["D1"])) == []


@pytest.mark.anyio
async def test_a_type_is_told_once_for_each_way_of_paying() -> None:
    narrow = ("instance-type", ["S1.SMALL1"]), ("zone", ["ap-guangzhou-1"])
    found = (await answer(CONFIGS, *narrow))["InstanceTypeQuotaSet"]
    assert [each["InstanceChargeType"] for each in found] == list(CHARGE_TYPES)
    [spot] = (await answer(CONFIGS, *narrow, ("instance-charge-type", ["SPOTPAID"])))[
        "InstanceTypeQuotaSet"
    ]
    assert (spot["Cpu"], spot["Memory"], spot["Status"]) == (1, 1, "SELL")
    own = (await answer(CONFIGS, ("instance-family", ["rack"]), text=OWN))["InstanceTypeQuotaSet"]
    assert [each["InstanceChargeType"] for each in own] == ["POSTPAID_BY_HOUR"]


@pytest.mark.anyio
async def test_the_categories_are_those_of_the_official_example() -> None:
    example = EXAMPLES["DescribeInstanceCategories"][0]["output"]
    found = (await answer("DescribeInstanceCategories"))["InstanceCategorySet"]
    assert all(str(name) in example for each in found for name in each["InstanceFamilySet"])
    assert [each["InstanceCategory"] for each in found] == [
        *("COMPUTE_3", "COMPUTE_2", "GENERAL_2", "GENERAL_3")
    ]
    own = (await answer("DescribeInstanceCategories", text=OWN))["InstanceCategorySet"]
    assert own == [{"InstanceCategory": "GENERAL_3", "InstanceFamilySet": ["S3"]}]


@pytest.mark.anyio
async def test_a_given_category_stays_whatever_others_of_the_family_have() -> None:
    given = TYPE + 'category = "GENERAL_2"\n'
    for others in (given + TYPE.replace('"a"', '"c"'), TYPE.replace('"a"', '"c"') + given):
        found = (await answer("DescribeInstanceCategories", text=others))["InstanceCategorySet"]
        assert found == [{"InstanceCategory": "GENERAL_2", "InstanceFamilySet": ["b"]}]
    both = given + TYPE.replace('"a"', '"c"') + 'category = "COMPUTE_3"\n'
    found = (await answer("DescribeInstanceCategories", text=both))["InstanceCategorySet"]
    assert [each["InstanceCategory"] for each in found] == ["COMPUTE_3", "GENERAL_2"]


def test_who_asks_for_an_image_that_is_not_there_is_told_those_of_which_nodes_can_be_made() -> None:
    told = parsed("").why_not_made("img-bd78fy2t")
    assert "There is no image img-bd78fy2t" in told
    assert "made from img-31tjrtph, img-pyqx34y1;" in told
    many = "".join(f'[[image]]\nid = "img-0000000{n}"\n' for n in range(6))
    told = parsed(many).why_not_made("img-bd78fy2t")
    assert "img-pyqx34y1, img-00000000, img-00000001, img-00000002 and 3 more;" in told


@pytest.mark.anyio
@pytest.mark.parametrize("action", [TYPES, CONFIGS])
@pytest.mark.parametrize(
    ("code", "name", "values"),
    [
        ("InvalidFilter", "colour", ["red"]),
        ("InvalidFilter", "", []),
        (f"{VALUE}.InvalidFilter", "zone", []),
        (f"{VALUE}.LimitExceeded", "instance-family", ["S1"] * 101),
        ("InvalidZone.MismatchRegion", "zone", ["moon"]),
        (f"{VALUE}.InvalidZoneMismatchRegion", "zone", ["ap-beijing-1"]),
        ("InvalidZone.MismatchRegion", "zone", ["ap-guangzhou-7"]),
    ],
)
async def test_a_wrong_filter_is_refused_with_its_public_code(
    action: str, code: str, name: str, values: list[str]
) -> None:
    with pytest.raises(ApiError) as caught:
        await answer(action, (name, values), text=OWN)
    assert caught.value.code == code


@pytest.mark.anyio
async def test_only_the_ways_of_paying_that_batch_has_can_be_asked_for() -> None:
    with pytest.raises(ApiError) as caught:
        await answer(CONFIGS, ("instance-charge-type", ["PREPAID"]))
    assert caught.value.code == f"{VALUE}.UnsupportedBatchInstanceChargeType"
    with pytest.raises(ApiError) as caught:
        await answer(TYPES, ("instance-charge-type", ["SPOTPAID"]))
    assert caught.value.code == "InvalidFilter"
