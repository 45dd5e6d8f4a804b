"""Where things run: zones, and what a compute environment asks of its nodes. Pure."""

import re

import msgspec

from gateway import ids
from gateway.batch import datatypes
from gateway.batch.instance_types import DEFAULT, Size, find_size
from gateway.errors import InvalidParameter, InvalidParameterValue, InvalidZone

INSTANCE_TYPES_MAX = 10
CORES_MAX = 1_024  # our limit
MEM_MAX_GIB = 65_536  # our limit
ENV_TYPES = ("MANAGED", "THPC_QUEUE")
_ZONE = re.compile(r"(?P<region>[a-z]{2,}(?:-[a-z0-9]+)+)-[1-9][0-9]?")


def check_zone(zone: str, *, region: str) -> None:
    """Check that a zone exists, as far as its name tells, and lies in the call's region.

    Why: two codes are documented. A name that is no zone's is InvalidZone.MismatchRegion ("does
    not exist"); a zone of another region is InvalidParameterValue.InvalidZoneMismatchRegion.
    """
    match = _ZONE.fullmatch(zone)
    if match is None:
        raise InvalidZone(f"The zone `{zone}` does not exist.", detail="MismatchRegion")
    if match["region"] != region:
        raise InvalidParameterValue(
            f"The zone `{zone}` is not in the region `{region}`.",
            detail="InvalidZoneMismatchRegion",
        )


def check_env_data(
    data: datatypes.EnvData | None,
    *,
    env_type: str | None,
    type_error: InvalidParameter | InvalidParameterValue | None = None,
) -> None:
    """Check what an environment asks of its nodes.

    type_error: what an unknown instance type is answered with. Why: the documented code is
    InvalidParameterValue.InstanceType for CreateComputeEnv, and not listed for SubmitJob, where
    InvalidParameter.CvmParameters is the nearest.
    """
    if data is None:
        raise InvalidParameterValue("ComputeEnv needs `EnvData`.", detail="ComputeEnv")
    if env_type is not None and env_type.upper() not in ENV_TYPES:
        raise InvalidParameterValue(f"EnvType `{env_type}` is unknown.", detail="ComputeEnv")
    if data.image_id is not None and not ids.is_id(data.image_id, "img"):
        raise InvalidParameter(
            f"ImageId `{data.image_id}` is malformed.", detail="ImageIdMalformed"
        )
    named = [data.instance_type, data.instance_types or None, data.instance_type_options]
    if sum(value is not None for value in named) > 1:
        raise InvalidParameter(
            "Only one of InstanceType, InstanceTypes and InstanceTypeOptions may be given.",
            detail="InvalidParameterCombination",
        )
    places = [data.virtual_private_cloud, data.zones or None, data.virtual_private_clouds or None]
    if sum(value is not None for value in places) > 1:
        raise InvalidParameter(
            "Only one of VirtualPrivateCloud, Zones and VirtualPrivateClouds may be given.",
            detail="InvalidParameterCombination",
        )
    _check_types(data, type_error=type_error)


def _check_types(
    data: datatypes.EnvData, *, type_error: InvalidParameter | InvalidParameterValue | None
) -> None:
    types = data.instance_types or []
    if len(types) > INSTANCE_TYPES_MAX:
        raise InvalidParameterValue(
            f"There are more than {INSTANCE_TYPES_MAX} InstanceTypes.", detail="LimitExceeded"
        )
    if len(set(types)) != len(types):
        raise InvalidParameterValue("InstanceTypes repeats one.", detail="InstanceTypeDuplicate")
    for name in [data.instance_type, *types]:
        if name is not None and find_size(name) is None:
            raise type_error or InvalidParameter(
                f"The instance type `{name}` does not exist.", detail="CvmParameters"
            )
    options = data.instance_type_options
    if options is not None and not (
        1 <= options.cpu <= CORES_MAX and 1 <= options.memory <= MEM_MAX_GIB
    ):
        raise InvalidParameterValue("InstanceTypeOptions are out of range.", detail="ComputeEnv")


def node_size(data: datatypes.EnvData | None) -> Size:
    """How large the nodes of an environment are; of several types the first is taken."""
    if data is not None and data.instance_type_options is not None:
        options = data.instance_type_options
        return Size(cpu=options.cpu, mem_gib=options.memory)
    types = [data.instance_type, *(data.instance_types or [])] if data is not None else []
    name = next((name for name in types if name), DEFAULT)
    size = find_size(name)
    if size is None:
        raise ValueError(f"the instance type {name} was not checked before it was stored")
    return size


def mask_passwords(
    env: datatypes.AnonymousComputeEnv | None,
) -> datatypes.AnonymousComputeEnv | None:
    """The same environment without its login password, which has no use here and is not kept."""
    if env is None or env.env_data is None:
        return env
    return msgspec.structs.replace(env, env_data=mask_password(env.env_data))


def mask_password(data: datatypes.EnvData) -> datatypes.EnvData:
    """The same EnvData with its login password blotted out."""
    login = data.login_settings
    if login is None or login.password is None:
        return data
    masked = msgspec.structs.replace(login, password="*" * 8)
    return msgspec.structs.replace(data, login_settings=masked)
