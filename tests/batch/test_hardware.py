"""What describes a cloud's machine: what CVM would take, and what it would refuse."""

from typing import Any

import pytest

from gateway.batch.catalogue import Catalogue
from gateway.batch.datatypes import EnvData
from gateway.batch.env_data import check_env_data
from gateway.batch.hardware import DATA_DISKS, INTERNET_CHARGE_TYPES, SYSTEM_DISKS
from gateway.errors import ApiError
from gateway.service import decode

NETWORK = {"VpcId": "vpc-1xnwrxw2", "SubnetId": "subnet-23syenxk"}


def check(**members: Any) -> None:
    check_env_data(decode(members, EnvData), env_type=None, catalogue=Catalogue())


@pytest.mark.parametrize(
    "members",
    [
        *[{"SystemDisk": {"DiskType": each, "DiskSize": 50}} for each in SYSTEM_DISKS],
        *[{"DataDisks": [{"DiskType": each, "DiskSize": 10}]} for each in DATA_DISKS],
        {"SystemDisk": {"DiskSize": 0}},
        {"SystemDisk": {"DiskSize": 2_048}},
        {"DataDisks": [{"DiskSize": 0}, {"DiskSize": 32_000}]},
        *[{"InternetAccessible": {"InternetChargeType": each}} for each in INTERNET_CHARGE_TYPES],
        {"VirtualPrivateCloud": NETWORK},
        {"VirtualPrivateCloud": {"VpcId": "DEFAULT", "SubnetId": "DEFAULT"}},
        {"VirtualPrivateClouds": [NETWORK, NETWORK]},
        {"SecurityGroupIds": ["sg-1234t1"]},
        {"LoginSettings": {"Password": "B1habcd5678"}},
        {"LoginSettings": {"KeyIds": ["skey-5smhp2tr"], "KeepImageLogin": "FALSE"}},
        {"LoginSettings": {"KeepImageLogin": "True"}},
        {"InstanceName": "x" * 128},
    ],
    ids=str,
)
def test_what_the_cloud_would_take_is_taken(members: dict[str, Any]) -> None:
    check(**members)


@pytest.mark.parametrize(
    ("members", "named"),
    [
        ({"SystemDisk": {"DiskType": "FLOPPY"}}, "SystemDisk.DiskType"),
        ({"SystemDisk": {"DiskType": "LOCAL_NVME"}}, "SystemDisk.DiskType"),
        ({"SystemDisk": {"DiskSize": 19}}, "SystemDisk.DiskSize"),
        ({"SystemDisk": {"DiskSize": 2_049}}, "SystemDisk.DiskSize"),
        ({"DataDisks": [{"DiskSize": 10, "DiskType": "cloud_ssd"}]}, "DataDisks.DiskType"),
        ({"DataDisks": [{"DiskSize": 15}]}, "DataDisks.DiskSize"),
        ({"DataDisks": [{"DiskSize": 32_010}]}, "DataDisks.DiskSize"),
        ({"InternetAccessible": {"InternetChargeType": "FREE"}}, "InternetChargeType"),
        ({"VirtualPrivateCloud": {**NETWORK, "VpcId": "net-1"}}, "VpcId"),
        ({"VirtualPrivateCloud": {**NETWORK, "VpcId": "DEFAULT"}}, "VpcId"),
        ({"VirtualPrivateClouds": [{**NETWORK, "SubnetId": "subnet-"}]}, "SubnetId"),
        ({"VirtualPrivateClouds": [NETWORK] * 101}, "VirtualPrivateClouds"),
        ({"SecurityGroupIds": ["sg-1", "../../etc"]}, "SecurityGroupIds"),
        ({"SecurityGroupIds": ["sg-1"] * 101}, "SecurityGroupIds"),
        ({"LoginSettings": {"KeepImageLogin": "MAYBE"}}, "KeepImageLogin"),
        ({"LoginSettings": {"KeyIds": ["Qa123"]}}, "KeyIds"),
        ({"LoginSettings": {"Password": "B1habcd5678", "KeyIds": ["skey-1"]}}, "Password"),
        ({"LoginSettings": {"Password": "B1habcd5678", "KeepImageLogin": "TRUE"}}, "Password"),
        ({"InstanceName": "x" * 129}, "InstanceName"),
        ({"InstanceName": "a\x00b"}, "InstanceName"),
    ],
    ids=str,
)
def test_what_the_cloud_would_refuse_is_refused_by_its_name(
    members: dict[str, Any], named: str
) -> None:
    with pytest.raises(ApiError) as caught:
        check(**members)
    assert caught.value.code == "InvalidParameter.CvmParameters"
    assert named in str(caught.value)
    assert "B1habcd5678" not in str(caught.value)
