"""Where things run: zones, and what a compute environment asks of its nodes. Pure."""

import math

from gateway import ids
from gateway.batch import datatypes
from gateway.batch.catalogue import CORES_MAX, MEM_MAX_GIB, Catalogue, region_of
from gateway.batch.hardware import check_hardware
from gateway.batch.instance_types import CATEGORY_WORDS, CHARGE_TYPES, DEFAULT, Size
from gateway.errors import InvalidParameter, InvalidParameterValue, InvalidZone

INSTANCE_TYPES_MAX = 10
ZONES_MAX = 10  # our limit
ENV_TYPES = ("MANAGED", "THPC_QUEUE")
_BUILT_IN = Catalogue()


def check_zone(zone: str, *, region: str, catalogue: Catalogue = _BUILT_IN) -> None:
    """Check that a zone exists, lies in the call's region, and is open.

    Raises as `check_zone_exists`, and InvalidParameterValue.UnavailableZone for a closed one.
    """
    check_zone_exists(zone, region=region, catalogue=catalogue)
    known = catalogue.zones.get(zone)
    if known is not None and not known.is_open:
        raise InvalidParameterValue(f"The zone `{zone}` is closed.", detail="UnavailableZone")


def check_zone_exists(zone: str, *, region: str, catalogue: Catalogue = _BUILT_IN) -> None:
    """Check that a zone exists and lies in the call's region.

    Why: two codes are documented. A name that is no zone's, or that the catalogue does not
    declare although it declares zones, is InvalidZone.MismatchRegion ("does not exist"); a zone of
    another region is InvalidParameterValue.InvalidZoneMismatchRegion.
    """
    its_region = region_of(zone)
    if not its_region:
        raise InvalidZone(f"The zone `{zone}` does not exist.", detail="MismatchRegion")
    if its_region != region:
        raise InvalidParameterValue(
            f"The zone `{zone}` is not in the region `{region}`.",
            detail="InvalidZoneMismatchRegion",
        )
    if catalogue.zones and zone not in catalogue.zones:
        raise InvalidZone(f"The zone `{zone}` does not exist.", detail="MismatchRegion")


def check_env_data(
    data: datatypes.EnvData | None,
    *,
    env_type: str | None,
    type_error: InvalidParameter | InvalidParameterValue | None = None,
    region: str = "",
    catalogue: Catalogue = _BUILT_IN,
) -> None:
    """Check what an environment asks of its nodes.

    type_error: what an unknown instance type is answered with. Why: the documented code is
    InvalidParameterValue.InstanceType for CreateComputeEnv, and not listed for SubmitJob, where
    InvalidParameter.CvmParameters is the nearest.
    region: where the nodes will be; "" for a template, whose zones are looked at when a job is
    made: no code for a zone is documented there.
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
    if len(data.zones) > ZONES_MAX:
        raise InvalidParameterValue(f"There are more than {ZONES_MAX} Zones.", detail="ComputeEnv")
    for zone in data.zones if region else ():
        check_zone(zone, region=region, catalogue=catalogue)
    _check_types(data, type_error=type_error, catalogue=catalogue)
    check_hardware(data)
    _check_market(data)


def _check_types(
    data: datatypes.EnvData,
    *,
    type_error: InvalidParameter | InvalidParameterValue | None,
    catalogue: Catalogue,
) -> None:
    types = data.instance_types or []
    if len(types) > INSTANCE_TYPES_MAX:
        raise InvalidParameterValue(
            f"There are more than {INSTANCE_TYPES_MAX} InstanceTypes.", detail="LimitExceeded"
        )
    if len(set(types)) != len(types):
        raise InvalidParameterValue("InstanceTypes repeats one.", detail="InstanceTypeDuplicate")
    for name in [data.instance_type, *types]:
        if name is not None and catalogue.find_size(name) is None:
            raise type_error or InvalidParameter(
                f"The instance type `{name}` does not exist.", detail="CvmParameters"
            )
    options = data.instance_type_options
    if options is None:
        return
    if not (1 <= options.cpu <= CORES_MAX and 1 <= options.memory <= MEM_MAX_GIB):
        raise InvalidParameterValue("InstanceTypeOptions are out of range.", detail="ComputeEnv")
    for word in options.instance_categories:
        if word not in CATEGORY_WORDS:
            raise InvalidParameterValue(
                f"The instance category `{word}` does not exist.", detail="ComputeEnv"
            )


def _check_market(data: datatypes.EnvData) -> None:
    """Check how nodes would be paid for: nothing here costs anything, but a cloud would refuse it.

    Why: InvalidParameterValue.NotFloat is documented without saying of what; the one number that
    is written as text is the price that is bid.
    """
    charge_type, market = data.instance_charge_type, data.instance_market_options
    if charge_type is not None and charge_type not in CHARGE_TYPES:
        raise InvalidParameter(
            f"InstanceChargeType `{charge_type}` is not one of {', '.join(CHARGE_TYPES)}.",
            detail="CvmParameters",
        )
    if market is None:
        return
    if market.market_type not in {None, "spot"}:
        raise InvalidParameter(
            f"MarketType `{market.market_type}` is not spot.", detail="CvmParameters"
        )
    if market.spot_options.spot_instance_type not in {None, "one-time"}:
        raise InvalidParameter("SpotInstanceType must be one-time.", detail="CvmParameters")
    if not _is_price(market.spot_options.max_price):
        raise InvalidParameterValue(
            f"MaxPrice `{market.spot_options.max_price}` is not a price.", detail="NotFloat"
        )


def _is_price(text: str) -> bool:
    try:
        price = float(text)
    except ValueError:
        return False
    return math.isfinite(price) and price >= 0


def node_size(data: datatypes.EnvData | None, *, catalogue: Catalogue = _BUILT_IN) -> Size:
    """How large the nodes of an environment are; of several types the first is taken."""
    if data is not None and data.instance_type_options is not None:
        options = data.instance_type_options
        return Size(cpu=options.cpu, mem_gib=options.memory)
    types = [data.instance_type, *(data.instance_types or [])] if data is not None else []
    name = next((name for name in types if name), DEFAULT)
    size = catalogue.find_size(name)
    if size is None:
        raise ValueError(f"the instance type {name} was not checked before it was stored")
    return size
