"""Bare metal on the wire: what CreateCpmComputeEnv asked for before it left the official SDKs.

Source: BatchCompute API 2017-03-12 as the Go SDK had it until April 2025.
"""

# An empty list as a default is safe: msgspec makes a new one for each structure.
# ruff: noqa: RUF012

from gateway.batch.datatypes import (
    Authentication,
    InputMapping,
    Notification,
    Placement,
    Tag,
    VirtualPrivateCloud,
)
from gateway.service import Int, Wire


class EnvDataCpm(Wire):
    """What a bare-metal environment asks of its nodes. SysRootSpace, SysDataSpace: GiB."""

    zones: list[str] = []
    instance_types: list[str] = []
    time_unit: str | None = None
    time_span: Int | None = None
    raid_id: Int | None = None
    os_type_id: Int | None = None
    virtual_private_clouds: list[VirtualPrivateCloud] = []
    need_security_agent: Int | None = None
    need_monitor_agent: Int | None = None
    auto_renew_flag: Int | None = None
    is_zoning: Int | None = None
    file_system: str | None = None
    password: str | None = None
    apply_eip: Int | None = None
    eip_pay_mode: str | None = None
    eip_bandwidth: Int | None = None
    image_id: str | None = None
    sys_root_space: Int | None = None
    sys_data_space: Int | None = None
    hyper_threading: Int | None = None
    lan_ips: list[str] = []


class NamedCpmComputeEnv(Wire):
    """A bare-metal environment as it is created."""

    env_name: str
    env_data: EnvDataCpm
    desired_compute_node_count: Int
    env_description: str | None = None
    env_type: str | None = None
    authentications: list[Authentication] = []
    input_mappings: list[InputMapping] = []
    notifications: list[Notification] = []
    action_if_compute_node_inactive: str | None = None
    resource_max_retry_count: Int | None = None
    tags: list[Tag] = []
    notification_target: str | None = None


class CreateCpmComputeEnvRequest(Wire):
    """What CreateCpmComputeEnv asks for; it left the official SDKs in April 2025."""

    compute_env: NamedCpmComputeEnv
    placement: Placement
    client_token: str | None = None


class CreateCpmComputeEnvResponse(Wire):
    """What CreateCpmComputeEnv answers."""

    env_id: str
