"""What an environment was asked to be: its `ComputeEnv` as it is kept, of either kind. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from msgspec.structs import replace

from gateway.batch import bare_metal, datatypes
from gateway.batch.catalogue import Catalogue
from gateway.batch.env_data import node_size
from gateway.batch.environments.requests import CPM, RETRIES_DEFAULT
from gateway.batch.instance_types import Size
from gateway.batch.secrets import Secrets

CVM = "CVM"
CPM_SIZE = Size(cpu=32, mem_gib=128)
"""How large a bare-metal node is whose type does not say so: no source gives their sizes."""
AnyEnv = datatypes.NamedComputeEnv | bare_metal.NamedCpmComputeEnv


@dataclass(frozen=True, slots=True)
class EnvPlan:
    """One environment to be made. action: who asks for it."""

    spec: AnyEnv
    placement: datatypes.Placement
    env_type: str
    resource_type: str
    action: str


def plan_env(request: datatypes.CreateComputeEnvRequest) -> EnvPlan:
    """What a checked CreateComputeEnv asks for."""
    return EnvPlan(
        spec=request.compute_env,
        placement=request.placement,
        env_type=request.compute_env.env_type or "MANAGED",
        resource_type=CVM,
        action="CreateComputeEnv",
    )


def plan_cpm_env(request: bare_metal.CreateCpmComputeEnvRequest) -> EnvPlan:
    """What a checked CreateCpmComputeEnv asks for.

    Why it is served although the vendor's SDKs lost it: the user guide's table of actions has it,
    and policies name it. Its nodes are this engine's, like those of every other environment.
    """
    return EnvPlan(
        spec=request.compute_env,
        placement=request.placement,
        env_type="MANAGED",
        resource_type=CPM,
        action="CreateCpmComputeEnv",
    )


def read_spec(column: bytes, *, resource_type: str) -> AnyEnv:
    """What `created` holds of an environment of this kind."""
    if resource_type == CPM:
        return msgspec.json.decode(column, type=bare_metal.NamedCpmComputeEnv)
    return msgspec.json.decode(column, type=datatypes.NamedComputeEnv)


def secrets_of(spec: AnyEnv) -> Secrets | None:
    """What it brings that nobody may see again; None for nothing."""
    keys = spec.authentications
    return Secrets(authentications=keys) if keys else None


def size_of(spec: AnyEnv, *, catalogue: Catalogue) -> Size:
    """How large the next node is; of several types the first is taken."""
    if isinstance(spec, datatypes.NamedComputeEnv):
        return node_size(spec.env_data, catalogue=catalogue)
    sizes = map(catalogue.find_size, spec.env_data.instance_types)
    return next((size for size in sizes if size is not None), CPM_SIZE)


def image_of(spec: AnyEnv) -> str:
    """The image the next node is made from; "" for the default one."""
    return (spec.env_data.image_id if spec.env_data is not None else None) or ""


def retries_of(spec: AnyEnv) -> int:
    """How often a node is made again, see ResourceMaxRetryCount."""
    given = spec.resource_max_retry_count
    return RETRIES_DEFAULT if given is None else given


def with_types(spec: AnyEnv, types: Sequence[str]) -> AnyEnv:
    """The same, with other instance types for the nodes that are ordered from now on."""
    if isinstance(spec, bare_metal.NamedCpmComputeEnv):
        return replace(spec, env_data=replace(spec.env_data, instance_types=list(types)))
    data = replace(
        spec.env_data or datatypes.EnvData(),
        instance_type=None,
        instance_type_options=None,
        instance_types=list(types),
    )
    return replace(spec, env_data=data)


def as_env_data(spec: AnyEnv) -> datatypes.EnvData:
    """What DescribeComputeEnvCreateInfo shows: of bare metal the members that both kinds have."""
    if isinstance(spec, datatypes.NamedComputeEnv):
        return spec.env_data or datatypes.EnvData()
    data = spec.env_data
    return datatypes.EnvData(
        image_id=data.image_id,
        instance_types=data.instance_types,
        zones=data.zones,
        virtual_private_clouds=data.virtual_private_clouds,
        login_settings=datatypes.LoginSettings(password=data.password),
    )
