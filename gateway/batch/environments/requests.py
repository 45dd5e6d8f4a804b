"""What CreateComputeEnv, CreateCpmComputeEnv and ModifyComputeEnv accept. Pure.

Limits and codes: the API's own where documented; "our limit" where the vendor gives no number.
"""

import re
from collections.abc import Sequence

from gateway import ids
from gateway.batch import bare_metal, datatypes
from gateway.batch.catalogue import Catalogue
from gateway.batch.env_data import (
    INSTANCE_TYPES_MAX,
    check_env_data,
    check_zone,
    is_windows,
    refuse_env,
)
from gateway.batch.mappings import check_env_storage
from gateway.batch.members import check_choice, check_range, check_tags
from gateway.batch.notices import read_notifications
from gateway.batch.rules import Rules
from gateway.batch.validation import RETRIES_MAX
from gateway.errors import InvalidParameter, InvalidParameterValue, LimitExceeded

NAME_MAX = 60  # our limit
DESCRIPTION_MAX = 200  # our limit
NODES_MAX = 2_000
CPM_NODES_MAX = 500
TOGETHER_MAX = 100
"""How many nodes or machines one call may name."""
RETRIES_DEFAULT = 7
CPM = "CPM"
_CPM_ZONE = re.compile(r"(?P<region>[a-z]{2,}(?:-[a-z0-9]+)*-[a-z]+)-bls-[1-9][0-9]?")


def check_env(request: datatypes.CreateComputeEnvRequest, *, region: str, rules: Rules) -> None:
    """Check a CreateComputeEnv request. Raises the public error of the first thing wrong.

    rules: as they are in the zones that its nodes may be made in.
    """
    env = request.compute_env
    check_zone(request.placement.zone, region=region, catalogue=rules.catalogue)
    _check_texts(env.env_name, env.env_description)
    if env.desired_compute_node_count < 0:
        raise InvalidParameterValue("DesiredComputeNodeCount is negative.", detail="Negative")
    if env.desired_compute_node_count > NODES_MAX:
        raise LimitExceeded(f"An environment has at most {NODES_MAX} nodes.", detail="CpuQuota")
    check_env_data(
        env.env_data,
        env_type=env.env_type,
        refuse=refuse_env,
        region=region,
        catalogue=rules.catalogue,
    )
    on_windows = is_windows(env, catalogue=rules.catalogue)
    check_env_storage(env, xml_only=rules.xml_only, on_windows=on_windows)
    _check_upkeep(env)


def check_cpm_env(
    request: bare_metal.CreateCpmComputeEnvRequest, *, region: str, rules: Rules
) -> None:
    """Check a CreateCpmComputeEnv request. Raises the public error of the first thing wrong.

    Why so little of EnvDataCpm: what it says of disks, licences and addresses means nothing on
    this engine; it is kept as it came. A zone of another region, or one that no bare metal is in,
    is RegionNotSupportCpm, the one code there is for a place.
    """
    env = request.compute_env
    check_zone(request.placement.zone, region=region, catalogue=rules.catalogue)
    _check_texts(env.env_name, env.env_description)
    if env.desired_compute_node_count < 0:
        raise InvalidParameterValue("DesiredComputeNodeCount is negative.", detail="Negative")
    if env.desired_compute_node_count > CPM_NODES_MAX:
        raise InvalidParameterValue(
            f"A bare-metal environment has at most {CPM_NODES_MAX} nodes.", detail="LimitExceeded"
        )
    check_choice("EnvType", env.env_type, ("MANAGED",))
    for zone in env.env_data.zones:
        match = _CPM_ZONE.fullmatch(zone)
        if match is None or match["region"] != region:
            raise InvalidParameterValue(
                f"There is no bare metal in `{zone}` of the region `{region}`.",
                detail="RegionNotSupportCpm",
            )
    if env.env_data.os_type_id is not None and env.env_data.os_type_id <= 0:
        raise InvalidParameterValue(
            f"There is no OsTypeId `{env.env_data.os_type_id}`.", detail="OsTypeId"
        )
    image_id = env.env_data.image_id
    if image_id is not None and not ids.is_id(image_id, "img"):
        raise InvalidParameter(f"ImageId `{image_id}` is malformed.", detail="ImageIdMalformed")
    for name, several in (
        ("Zones", env.env_data.zones),
        ("VirtualPrivateClouds", env.env_data.virtual_private_clouds),
    ):
        if len(several) > 1:
            raise InvalidParameterValue(f"{name} names more than one.")
    mapped = datatypes.NamedComputeEnv(
        env_name=env.env_name,
        desired_compute_node_count=env.desired_compute_node_count,
        input_mappings=env.input_mappings,
        authentications=env.authentications,
    )
    check_env_storage(mapped, xml_only=rules.xml_only)
    _check_upkeep(env)


def _check_upkeep(env: datatypes.NamedComputeEnv | bare_metal.NamedCpmComputeEnv) -> None:
    check_choice("ActionIfComputeNodeInactive", env.action_if_compute_node_inactive, ("RECREATE",))
    check_range("ResourceMaxRetryCount", env.resource_max_retry_count, most=RETRIES_MAX)
    check_tags(env.tags)
    read_notifications(env.notifications, target=env.notification_target)


def check_modification(request: datatypes.ModifyComputeEnvRequest, *, rules: Rules) -> None:
    """Check a ModifyComputeEnv request, as far as that goes without the environment."""
    _check_texts(request.env_name, request.env_description)
    wanted = request.desired_compute_node_count
    if wanted is not None and wanted < 0:
        raise InvalidParameterValue("DesiredComputeNodeCount is negative.", detail="Negative")
    if request.env_data is not None:
        _check_types(request.env_data.instance_types, catalogue=rules.catalogue)


def check_wanted(wanted: int, *, resource_type: str) -> None:
    """Refuse more nodes than an environment of this kind may have."""
    most = CPM_NODES_MAX if resource_type == CPM else NODES_MAX
    if wanted > most:
        raise InvalidParameterValue(
            f"DesiredComputeNodeCount `{wanted}` is over {most}.", detail="LimitExceeded"
        )


def check_together(named: Sequence[str], *, name: str) -> None:
    """Refuse a call that names nothing, or too much."""
    if not 0 < len(named) <= TOGETHER_MAX:
        raise InvalidParameterValue(f"{name} must name from 1 to {TOGETHER_MAX}.")


def check_machines(instance_ids: Sequence[str], *, name: str) -> None:
    """Refuse none, too many, or one machine twice."""
    check_together(instance_ids, name=name)
    if len(set(instance_ids)) != len(instance_ids):
        raise InvalidParameterValue("An instance is named twice.", detail="InstanceIdDuplicated")


def _check_texts(name: str | None, description: str | None) -> None:
    """An absent one is fine: it stays as it is, or is empty."""
    if name is not None and not 0 < len(name) <= NAME_MAX:
        raise InvalidParameter(
            f"EnvName has not 1 to {NAME_MAX} characters.", detail="EnvNameTooLong"
        )
    if len(description or "") > DESCRIPTION_MAX:
        raise InvalidParameter(
            f"EnvDescription is longer than {DESCRIPTION_MAX} characters.",
            detail="EnvDescriptionTooLong",
        )


def _check_types(types: Sequence[str], *, catalogue: Catalogue) -> None:
    if not types:
        raise InvalidParameterValue("InstanceTypes is empty.", detail="InstanceTypesEmpty")
    if len(types) > INSTANCE_TYPES_MAX:
        raise InvalidParameterValue(
            f"There are more than {INSTANCE_TYPES_MAX} InstanceTypes.", detail="LimitExceeded"
        )
    if len(set(types)) != len(types):
        raise InvalidParameterValue("InstanceTypes repeats one.", detail="InstanceTypeDuplicate")
    for name in types:
        if why := catalogue.why_unknown(name):
            raise refuse_env(why)
