"""Where things run: zones, and what a compute environment asks of its nodes. Pure."""

import math
from collections.abc import Callable, Sequence

from gateway import ids
from gateway.batch import datatypes
from gateway.batch.catalogue import CORES_MAX, MEM_MAX_GIB, Catalogue, region_of
from gateway.batch.hardware import check_hardware
from gateway.batch.instance_types import CATEGORY_WORDS, CHARGE_TYPES, DEFAULT, Size, is_meant
from gateway.errors import ApiError, InvalidParameter, InvalidParameterValue, InvalidZone

INSTANCE_TYPES_MAX = 10
ZONES_MAX = 10  # our limit
ENV_TYPES = ("MANAGED", "THPC_QUEUE")
DEFAULT_SIZE = Size(cpu=1, mem_gib=1)
"""What is told of a task's nodes that are an environment's, and have a size of their own."""
Refusal = Callable[[str], ApiError]
"""Makes the error that answers who asks for nodes there are none of; given the words.

Why two: the documented code is InvalidParameterValue.InstanceType for CreateComputeEnv and
ModifyComputeEnv, and not listed for SubmitJob, where InvalidParameter.CvmParameters is the nearest.
"""


def refuse_job(words: str) -> ApiError:
    """The error for a job or template."""
    return InvalidParameter(words, detail="CvmParameters")


def refuse_env(words: str) -> ApiError:
    """The error for an environment."""
    return InvalidParameterValue(words, detail="InstanceType")


def zones_of(data: datatypes.EnvData | None, *, zone: str) -> Sequence[str]:
    """Where nodes may be made. zone: that of the call's Placement, if the data names none."""
    return data.zones if data is not None and data.zones else [zone]


def is_windows(
    env: datatypes.AnonymousComputeEnv | datatypes.NamedComputeEnv | None, *, catalogue: Catalogue
) -> bool:
    """Whether the nodes would be of Windows: by their image, or by how they run, if it is unknown.

    Without any image they are of the default one, which is Linux.
    """
    if env is None or env.env_data is None or not env.env_data.image_id:
        return False
    image = catalogue.images.get(env.env_data.image_id)
    return env.agent_running_mode is not None if image is None else image.system == "windows"


def check_zone(zone: str, *, region: str, catalogue: Catalogue) -> None:
    """Check that a zone exists, lies in the call's region, and is open.

    Raises as `check_zone_exists`, and InvalidParameterValue.UnavailableZone for a closed one.
    """
    check_zone_exists(zone, region=region, catalogue=catalogue)
    known = catalogue.zones.get(zone)
    if known is not None and not known.is_open:
        raise InvalidParameterValue(f"The zone `{zone}` is closed.", detail="UnavailableZone")


def check_zone_exists(zone: str, *, region: str, catalogue: Catalogue) -> None:
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
    refuse: Refusal = refuse_job,
    region: str = "",
    catalogue: Catalogue,
) -> None:
    """Check what an environment asks of its nodes.

    refuse: see `Refusal`. region: where the nodes will be; "" for a template, whose zones are
    looked at when a job is made: no code for a zone is documented there.
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
    _check_types(data)
    check_hardware(data)
    _check_market(data)
    check_offer(data, refuse=refuse, catalogue=catalogue)


def check_offer(data: datatypes.EnvData, *, refuse: Refusal, catalogue: Catalogue) -> None:
    """Refuse nodes that are not on offer; of several types one must be, and all must be known."""
    names = _types_named(data)
    for name in names:
        if why := catalogue.why_unknown(name):
            raise refuse(why)
    if find_node_size(data, catalogue=catalogue) is not None:
        return
    charge_type = _charge_type(data)
    if names:
        raise refuse(catalogue.why_not_offered(names[0], charge_type=charge_type))
    raise refuse(f"No instance type{_wish(data)} is offered as {charge_type}{_where(catalogue)}.")


def _wish(data: datatypes.EnvData) -> str:
    options = data.instance_type_options
    if options is None:
        return ""
    kinds = " or ".join(options.instance_categories)
    of = f" of {kinds}" if kinds else ""
    return f"{of} with at least {options.cpu} cores and {options.memory} GiB"


def _where(catalogue: Catalogue) -> str:
    return f" in {', '.join(sorted(catalogue.near))}" if catalogue.near else ""


def _types_named(data: datatypes.EnvData) -> list[str]:
    return [name for name in (data.instance_type, *data.instance_types) if name]


def _charge_type(data: datatypes.EnvData) -> str:
    return data.instance_charge_type or CHARGE_TYPES[0]


def _check_types(data: datatypes.EnvData) -> None:
    types = data.instance_types or []
    if len(types) > INSTANCE_TYPES_MAX:
        raise InvalidParameterValue(
            f"There are more than {INSTANCE_TYPES_MAX} InstanceTypes.", detail="LimitExceeded"
        )
    if len(set(types)) != len(types):
        raise InvalidParameterValue("InstanceTypes repeats one.", detail="InstanceTypeDuplicate")
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


def node_size(data: datatypes.EnvData | None, *, catalogue: Catalogue) -> Size:
    """How large the nodes are that checked data asks for. None: those of a named environment."""
    if data is None:
        return DEFAULT_SIZE
    size = find_node_size(data, catalogue=catalogue)
    if size is None:
        raise ValueError("what is asked of the nodes was not checked before it was stored")
    return size


def find_node_size(data: datatypes.EnvData, *, catalogue: Catalogue) -> Size | None:
    """How large the nodes are; None if there are none on offer.

    Of several types the first that can be had is taken. From an operator's list InstanceTypeOptions
    take the smallest type that has as much; who names no type at all gets the smallest.
    """
    options, names = data.instance_type_options, _types_named(data)
    if catalogue.listed is None:
        if options is not None:
            return Size(cpu=options.cpu, mem_gib=options.memory)
        return catalogue.find_size(names[0] if names else DEFAULT)
    charge_type = _charge_type(data)
    for name in names:
        if not catalogue.why_not_offered(name, charge_type=charge_type):
            return catalogue.find_size(name)
    if names:
        return None
    return next(
        (
            each.size
            for each in catalogue.offered(charge_type=charge_type)
            if options is None
            or (
                each.size.cpu >= options.cpu
                and each.size.mem_gib >= options.memory
                and is_meant(each.category, options.instance_categories)
            )
        ),
        None,
    )
