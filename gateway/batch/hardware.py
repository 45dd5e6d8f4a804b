"""What a cloud's machine is described by: checked, kept, given back; it means nothing here. Pure.

Source: the words and forms that CVM documents for RunInstances. A value that the cloud would
refuse is refused here, so that what ran against this service runs there.
"""

import re

from gateway.batch import datatypes
from gateway.batch.members import check_range
from gateway.errors import InvalidParameter

DISKS_MAX = 20
SYSTEM_DISK_GIB = (20, 2_048)
DATA_DISK_GIB = (10, 32_000)
DATA_DISK_STEP_GIB = 10
BANDWIDTH_MAX_MBPS = 1_048_576  # our limit
NAME_MAX = 128
LIST_MAX = 100  # our limit, of groups, keys and networks
_BOTH_DISKS = (
    "LOCAL_BASIC",
    "LOCAL_SSD",
    "CLOUD_BASIC",
    "CLOUD_SSD",
    "CLOUD_PREMIUM",
    "CLOUD_BSSD",
    "CLOUD_HSSD",
    "CLOUD_TSSD",
)
SYSTEM_DISKS = _BOTH_DISKS
DATA_DISKS = (*_BOTH_DISKS, "LOCAL_NVME", "LOCAL_PRO")
INTERNET_CHARGE_TYPES = (
    "BANDWIDTH_PREPAID",
    "TRAFFIC_POSTPAID_BY_HOUR",
    "BANDWIDTH_POSTPAID_BY_HOUR",
    "BANDWIDTH_PACKAGE",
)
KEEP_IMAGE_LOGIN = ("TRUE", "FALSE")
DEFAULT_NETWORK = "DEFAULT"
"""As both VpcId and SubnetId: the network that a cloud account has from the start."""


def check_hardware(data: datatypes.EnvData) -> None:
    """Check the disks, network, name and login of nodes.

    Raises InvalidParameter.CvmParameters, and InvalidParameterValue.Negative for a size below 0.
    """
    name = data.instance_name
    if name is not None and (len(name) > NAME_MAX or not name.isprintable()):
        raise _refused(f"InstanceName has more than {NAME_MAX} characters, or a control character.")
    _check_disks(data)
    _check_network(data)
    _check_ids("SecurityGroupIds", data.security_group_ids, prefix="sg")
    if data.login_settings is not None:
        _check_login(data.login_settings)


def _check_disks(data: datatypes.EnvData) -> None:
    if data.system_disk is not None:
        disk = data.system_disk
        _check_choice("SystemDisk.DiskType", disk.disk_type, SYSTEM_DISKS)
        _check_size("SystemDisk.DiskSize", disk.disk_size, span=SYSTEM_DISK_GIB)
    if len(data.data_disks) > DISKS_MAX:
        raise _refused(f"There are more than {DISKS_MAX} DataDisks.")
    for each in data.data_disks:
        _check_choice("DataDisks.DiskType", each.disk_type, DATA_DISKS)
        _check_size(
            "DataDisks.DiskSize", each.disk_size, span=DATA_DISK_GIB, step=DATA_DISK_STEP_GIB
        )


def _check_size(name: str, gib: int | None, *, span: tuple[int, int], step: int = 1) -> None:
    """Check the size of a disk. 0 is the default: the cloud's own size, or no data disk."""
    least, most = span
    if gib is None or gib == 0:
        return
    if gib > 0 and (not least <= gib <= most or gib % step):
        words = f" in steps of {step}" if step > 1 else ""
        raise _refused(f"{name} `{gib}` is not from {least} to {most} GiB{words}.")
    check_range(name, gib, most=most)


def _check_network(data: datatypes.EnvData) -> None:
    internet = data.internet_accessible
    if internet is not None:
        _check_choice("InternetChargeType", internet.internet_charge_type, INTERNET_CHARGE_TYPES)
        bandwidth = internet.internet_max_bandwidth_out
        check_range("InternetMaxBandwidthOut", bandwidth, most=BANDWIDTH_MAX_MBPS)
    networks = list(data.virtual_private_clouds)
    if len(networks) > LIST_MAX:
        raise _refused(f"There are more than {LIST_MAX} VirtualPrivateClouds.")
    if data.virtual_private_cloud is not None:
        networks.append(data.virtual_private_cloud)
    for each in networks:
        if each.vpc_id == each.subnet_id == DEFAULT_NETWORK:
            continue
        _check_ids("VpcId", [each.vpc_id], prefix="vpc")
        _check_ids("SubnetId", [each.subnet_id], prefix="subnet")


def _check_login(login: datatypes.LoginSettings) -> None:
    """A password, a key, or what the image has: one of them. The vendor's example writes `True`."""
    kept = login.keep_image_login
    _check_choice("KeepImageLogin", None if kept is None else kept.upper(), KEEP_IMAGE_LOGIN)
    _check_ids("KeyIds", login.key_ids, prefix="skey")
    keeps = kept is not None and kept.upper() == KEEP_IMAGE_LOGIN[0]
    if sum((bool(login.password), bool(login.key_ids), keeps)) > 1:
        raise _refused("Only one of Password, KeyIds and KeepImageLogin TRUE may be given.")


def _check_choice(name: str, value: str | None, choices: tuple[str, ...]) -> None:
    if value is not None and value not in choices:
        raise _refused(f"{name} `{value}` is not one of {', '.join(choices)}.")


def _check_ids(name: str, values: list[str], *, prefix: str) -> None:
    """Why any length: the vendor's own examples have ids of six and of eight characters."""
    if len(values) > LIST_MAX:
        raise _refused(f"There are more than {LIST_MAX} {name}.")
    for value in values:
        if not re.fullmatch(rf"{prefix}-[a-z0-9]{{1,32}}", value):
            raise _refused(f"{name} `{value}` is malformed: it is written `{prefix}-…`.")


def _refused(message: str) -> InvalidParameter:
    return InvalidParameter(message, detail="CvmParameters")
