"""The Batch API on the wire: requests, answers and the objects in them.

Members are the API's, no more and no fewer, in its order. In what callers send, a member that was
left out is None or an empty list, and stays so: a job is given back as it was submitted, and the
defaults are the service's. In what is answered every member is present.
Source: BatchCompute API 2017-03-12, data types.
"""

# An empty list as a default is safe: msgspec makes a new one for each structure.
# ruff: noqa: RUF012

from collections.abc import Mapping
from typing import Any

from msgspec import field

from gateway.service import Int, Wire


class Placement(Wire):
    """Where a job or an environment runs. `HostId` and `RackId` are only ever answered."""

    zone: str
    project_id: Int | None = None
    host_ids: list[str] = []
    host_id: str | None = None
    dedicated_resource_pack_tenancy: str | None = None
    dedicated_resource_pack_ids: list[str] = []
    rack_id: str | None = None


class Docker(Wire):
    """The image an application runs in. DelayOnRetry: seconds."""

    image: str
    user: str | None = None
    password: str | None = None
    server: str | None = None
    max_retry_count: Int | None = None
    delay_on_retry: Int | None = None
    docker_run_option: str | None = None


class CommandLine(Wire):
    """One of several commands that run tightly coupled."""

    command: str


class Application(Wire):
    """What a task runs: `Command`, or `Commands`."""

    delivery_form: str
    command: str | None = None
    package_path: str | None = None
    docker: Docker | None = None
    commands: list[CommandLine] = []


class SystemDisk(Wire):
    """The first disk of a node. DiskSize: GiB."""

    disk_type: str | None = None
    disk_id: str | None = None
    disk_size: Int | None = None
    cdc_id: str | None = None
    disk_name: str | None = None
    encrypt: bool | None = None
    kms_key_id: str | None = None


class DataDisk(Wire):
    """A further disk of a node. DiskSize: GiB; ThroughputPerformance: MiB/s."""

    disk_size: Int
    disk_type: str | None = None
    disk_id: str | None = None
    delete_with_instance: bool | None = None
    snapshot_id: str | None = None
    encrypt: bool | None = None
    kms_key_id: str | None = None
    throughput_performance: Int | None = None
    cdc_id: str | None = None
    burst_performance: bool | None = None
    disk_name: str | None = None


class VirtualPrivateCloud(Wire):
    """The network a node is put into."""

    vpc_id: str
    subnet_id: str
    as_vpc_gateway: bool | None = None
    private_ip_addresses: list[str] = []
    ipv6_address_count: Int | None = None


class InternetAccessible(Wire):
    """How a node reaches the internet. InternetMaxBandwidthOut: Mbps."""

    internet_charge_type: str | None = None
    internet_max_bandwidth_out: Int | None = None
    public_ip_assigned: bool | None = None
    bandwidth_package_id: str | None = None
    internet_service_provider: str | None = None
    ipv4_address_type: str | None = field(default=None, name="IPv4AddressType")
    ipv6_address_type: str | None = field(default=None, name="IPv6AddressType")
    anti_ddos_package_id: str | None = field(default=None, name="AntiDDoSPackageId")


class LoginSettings(Wire):
    """How a person may log in to a node."""

    password: str | None = None
    key_ids: list[str] = []
    keep_image_login: str | None = None


class RunSecurityServiceEnabled(Wire):
    """Whether nodes run the security service."""

    enabled: bool | None = None


class RunMonitorServiceEnabled(Wire):
    """Whether nodes run the monitoring service."""

    enabled: bool | None = None


class RunAutomationServiceEnabled(Wire):
    """Whether nodes run the automation service."""

    enabled: bool | None = None


class EnhancedService(Wire):
    """The further services that nodes run."""

    security_service: RunSecurityServiceEnabled | None = None
    monitor_service: RunMonitorServiceEnabled | None = None
    automation_service: RunAutomationServiceEnabled | None = None


class SpotMarketOptions(Wire):
    """What is bid for a spot node. MaxPrice: a decimal, as text."""

    max_price: str
    spot_instance_type: str | None = None


class InstanceMarketOptionsRequest(Wire):
    """The market nodes are bought on; only `spot` exists."""

    spot_options: SpotMarketOptions
    market_type: str | None = None


class InstanceTypeOptions(Wire):
    """Any instance type of this size. CPU: cores; Memory: GiB."""

    cpu: Int = field(name="CPU")
    memory: Int
    instance_categories: list[str] = []


class EnvData(Wire):
    """What the nodes of an environment are."""

    instance_type: str | None = None
    image_id: str | None = None
    system_disk: SystemDisk | None = None
    data_disks: list[DataDisk] = []
    virtual_private_cloud: VirtualPrivateCloud | None = None
    internet_accessible: InternetAccessible | None = None
    instance_name: str | None = None
    login_settings: LoginSettings | None = None
    security_group_ids: list[str] = []
    enhanced_service: EnhancedService | None = None
    instance_charge_type: str | None = None
    instance_market_options: InstanceMarketOptionsRequest | None = None
    instance_types: list[str] = []
    instance_type_options: InstanceTypeOptions | None = None
    zones: list[str] = []
    virtual_private_clouds: list[VirtualPrivateCloud] = []


class MountDataDisk(Wire):
    """Where a data disk is mounted."""

    local_path: str
    file_system_type: str | None = None


class AgentRunningMode(Wire):
    """Who runs the agent on Windows nodes."""

    scene: str
    user: str
    session: str


class AnonymousComputeEnv(Wire):
    """The nodes made for one task alone."""

    env_type: str | None = None
    env_data: EnvData | None = None
    mount_data_disks: list[MountDataDisk] = []
    agent_running_mode: AgentRunningMode | None = None


class RedirectInfo(Wire):
    """Where in remote storage the output of a command goes."""

    stdout_redirect_path: str | None = None
    stderr_redirect_path: str | None = None
    stdout_redirect_file_name: str | None = None
    stderr_redirect_file_name: str | None = None


class RedirectLocalInfo(Wire):
    """Where on the node the output of a command goes."""

    stdout_local_path: str | None = None
    stderr_local_path: str | None = None
    stdout_local_file_name: str | None = None
    stderr_local_file_name: str | None = None


class InputMapping(Wire):
    """A remote folder that is seen as a local one."""

    source_path: str
    destination_path: str
    mount_option_parameter: str | None = None
    mount_type: str | None = None


class OutputMappingOption(Wire):
    """Which folder of the node a container writes to."""

    workspace: str | None = None


class OutputMapping(Wire):
    """A local folder that is copied to a remote one at the end."""

    source_path: str
    destination_path: str
    output_mapping_option: OutputMappingOption | None = None


class OutputMappingConfig(Wire):
    """How outputs are copied. WorkerPartSize: MB."""

    scene: str
    worker_num: Int
    worker_part_size: Int


class EnvVar(Wire):
    """An environment variable of a command."""

    name: str
    value: str


class Authentication(Wire):
    """A key that opens remote storage."""

    scene: str
    secret_id: str
    secret_key: str


class Task(Wire):
    """A command and how often, where and how it runs. Timeout: seconds."""

    application: Application
    task_name: str | None = None
    task_instance_num: Int | None = None
    compute_env: AnonymousComputeEnv | None = None
    env_id: str | None = None
    redirect_info: RedirectInfo | None = None
    redirect_local_info: RedirectLocalInfo | None = None
    input_mappings: list[InputMapping] = []
    output_mappings: list[OutputMapping] = []
    output_mapping_configs: list[OutputMappingConfig] = []
    env_vars: list[EnvVar] = []
    authentications: list[Authentication] = []
    failed_action: str | None = None
    max_retry_count: Int | None = None
    timeout: Int | None = None
    max_concurrent_num: Int | None = None
    restart_compute_node: bool | None = None
    resource_max_retry_count: Int | None = None


class Dependence(Wire):
    """`EndTask` waits for `StartTask`."""

    start_task: str
    end_task: str


class EventVar(Wire):
    """A pair that is repeated in every message about an event."""

    name: str
    value: str


class EventConfig(Wire):
    """An event to be told. EventVars is required by the SDKs, and left out by many callers."""

    event_name: str
    event_vars: list[EventVar] = []


class Notification(Wire):
    """The events a topic is told. TopicName: its name, not its id."""

    topic_name: str
    event_configs: list[EventConfig]


class Tag(Wire):
    """A label on a job, an environment or a template."""

    key: str
    value: str


class Job(Wire):
    """A job as it is submitted. Priority: 0 to 100, larger first."""

    tasks: list[Task]
    job_name: str | None = None
    job_description: str | None = None
    priority: Int | None = None
    dependences: list[Dependence] = []
    notifications: list[Notification] = []
    task_execution_depend_on: str | None = None
    state_if_create_cvm_failed: str | None = None
    tags: list[Tag] = []
    notification_target: str | None = None


class SubmitJobRequest(Wire):
    """What SubmitJob asks for."""

    placement: Placement
    job: Job
    client_token: str | None = None


class SubmitJobResponse(Wire):
    """What SubmitJob answers."""

    job_id: str


class DescribeJobRequest(Wire):
    """What DescribeJob asks for."""

    job_id: str


class TaskView(Wire):
    """A task in the answer of DescribeJob."""

    task_name: str
    task_state: str
    create_time: str
    end_time: str | None


class TaskMetrics(Wire):
    """How many tasks of a job are in each state."""

    submitted_count: Int = 0
    pending_count: Int = 0
    runnable_count: Int = 0
    starting_count: Int = 0
    running_count: Int = 0
    succeed_count: Int = 0
    failed_interrupted_count: Int = 0
    failed_count: Int = 0


class TaskInstanceMetrics(Wire):
    """How many task instances are in each state."""

    submitted_count: Int = 0
    pending_count: Int = 0
    runnable_count: Int = 0
    starting_count: Int = 0
    running_count: Int = 0
    succeed_count: Int = 0
    failed_interrupted_count: Int = 0
    failed_count: Int = 0


class DescribeJobResponse(Wire):
    """What DescribeJob answers."""

    job_id: str
    job_name: str
    zone: str
    priority: Int
    job_state: str
    create_time: str
    end_time: str | None
    task_set: list[TaskView]
    dependence_set: list[Dependence]
    task_metrics: TaskMetrics
    task_instance_metrics: TaskInstanceMetrics
    state_reason: str
    tags: list[Tag]
    next_action: str


class Filter(Wire):
    """A filter of a list: any of `Values` will do, every filter must."""

    name: str
    values: list[str]


class DescribeJobsRequest(Wire):
    """What DescribeJobs asks for."""

    job_ids: list[str] = []
    filters: list[Filter] = []
    offset: Int | None = None
    limit: Int | None = None


class JobView(Wire):
    """A job in the answer of DescribeJobs."""

    job_id: str
    job_name: str
    job_state: str
    priority: Int
    placement: Placement
    create_time: str
    end_time: str | None
    task_metrics: TaskMetrics
    tags: list[Tag]


class DescribeJobsResponse(Wire):
    """What DescribeJobs answers."""

    job_set: list[JobView]
    total_count: Int


class DescribeJobSubmitInfoRequest(Wire):
    """What DescribeJobSubmitInfo asks for."""

    job_id: str


class DescribeJobSubmitInfoResponse(Wire):
    """What DescribeJobSubmitInfo answers."""

    job_id: str
    job_name: str
    job_description: str
    priority: Int
    tasks: list[Task]
    dependences: list[Dependence]
    tags: list[Tag]


class DescribeTaskRequest(Wire):
    """What DescribeTask asks for."""

    job_id: str
    task_name: str
    offset: Int | None = None
    limit: Int | None = None
    filters: list[Filter] = []


class TaskInstanceView(Wire):
    """A task instance in the answer of DescribeTask. ExitCode: null before there is one."""

    task_instance_index: Int
    task_instance_state: str
    exit_code: Int | None
    state_reason: str
    compute_node_instance_id: str
    create_time: str
    launch_time: str | None
    running_time: str | None
    end_time: str | None
    redirect_info: RedirectInfo
    state_detailed_reason: str


class DescribeTaskResponse(Wire):
    """What DescribeTask answers."""

    job_id: str
    task_name: str
    task_state: str
    create_time: str
    end_time: str | None
    task_instance_total_count: Int
    task_instance_set: list[TaskInstanceView]
    task_instance_metrics: TaskInstanceMetrics


class DescribeTaskLogsRequest(Wire):
    """What DescribeTaskLogs asks for."""

    job_id: str
    task_name: str
    task_instance_indexes: list[Int] = []
    offset: Int | None = None
    limit: Int | None = None


class TaskInstanceLog(Wire):
    """The output of a task instance: data URLs in base64, of at most 2,048 bytes each."""

    task_instance_index: Int
    stdout_log: str
    stderr_log: str
    stdout_redirect_path: str
    stderr_redirect_path: str
    stdout_redirect_file_name: str
    stderr_redirect_file_name: str


class DescribeTaskLogsResponse(Wire):
    """What DescribeTaskLogs answers."""

    total_count: Int
    task_instance_log_set: list[TaskInstanceLog]


class Dimension(Wire):
    """What a metric is about, the disk for one."""

    name: str
    value: str


class DescribeJobMonitorDataRequest(Wire):
    """What DescribeJobMonitorData asks for. Times are in UTC, such as 2018-06-15T14:43:17Z."""

    job_id: str
    task_name: str
    task_instance_index: Int
    metric_name: str
    start_time: str | None = None
    end_time: str | None = None
    dimensions: list[Dimension] = []


class DataPointView(Wire):
    """A curve: seconds since 1970, and what was measured then; None where nothing was."""

    timestamps: list[Int]
    values: list[float | None]


class DescribeJobMonitorDataResponse(Wire):
    """What DescribeJobMonitorData answers. period: seconds between two points."""

    period: Int
    data_points: DataPointView


class TerminateJobRequest(Wire):
    """What TerminateJob asks for."""

    job_id: str


class RetryJobsRequest(Wire):
    """What RetryJobs asks for."""

    job_ids: list[str]


class TerminateTaskInstanceRequest(Wire):
    """What TerminateTaskInstance asks for. TaskInstanceIndex: from 0."""

    job_id: str
    task_name: str
    task_instance_index: Int


class DeleteJobRequest(Wire):
    """What DeleteJob asks for."""

    job_id: str


class NamedComputeEnv(Wire):
    """An environment as it is created."""

    env_name: str
    desired_compute_node_count: Int
    env_description: str | None = None
    env_type: str | None = None
    env_data: EnvData | None = None
    mount_data_disks: list[MountDataDisk] = []
    authentications: list[Authentication] = []
    input_mappings: list[InputMapping] = []
    agent_running_mode: AgentRunningMode | None = None
    notifications: list[Notification] = []
    action_if_compute_node_inactive: str | None = None
    resource_max_retry_count: Int | None = None
    tags: list[Tag] = []
    notification_target: str | None = None


class CreateComputeEnvRequest(Wire):
    """What CreateComputeEnv asks for."""

    compute_env: NamedComputeEnv
    placement: Placement
    client_token: str | None = None


class CreateComputeEnvResponse(Wire):
    """What CreateComputeEnv answers."""

    env_id: str


class DescribeComputeEnvRequest(Wire):
    """What DescribeComputeEnv asks for."""

    env_id: str


class ComputeNode(Wire):
    """A node of an environment. Mem: GiB; ResourceCreatedTime: null before that."""

    compute_node_id: str
    compute_node_instance_id: str
    compute_node_state: str
    cpu: Int
    mem: Int
    resource_created_time: str | None
    task_instance_num_available: Int
    agent_version: str
    private_ip_addresses: list[str]
    public_ip_addresses: list[str]
    resource_type: str
    resource_origin: str


class ComputeNodeMetrics(Wire):
    """How many nodes of an environment are in each state."""

    submitted_count: Int = 0
    creating_count: Int = 0
    creation_failed_count: Int = 0
    created_count: Int = 0
    running_count: Int = 0
    deleting_count: Int = 0
    abnormal_count: Int = 0


class DescribeComputeEnvResponse(Wire):
    """What DescribeComputeEnv answers."""

    env_id: str
    env_name: str
    placement: Placement
    create_time: str
    compute_node_set: list[ComputeNode]
    compute_node_metrics: ComputeNodeMetrics
    desired_compute_node_count: Int
    env_type: str
    resource_type: str
    next_action: str
    attached_compute_node_count: Int
    tags: list[Tag]


class DescribeComputeEnvsRequest(Wire):
    """What DescribeComputeEnvs asks for."""

    env_ids: list[str] = []
    filters: list[Filter] = []
    offset: Int | None = None
    limit: Int | None = None


class ComputeEnvView(Wire):
    """An environment in the answer of DescribeComputeEnvs."""

    env_id: str
    env_name: str
    placement: Placement
    create_time: str
    compute_node_metrics: ComputeNodeMetrics
    env_type: str
    desired_compute_node_count: Int
    resource_type: str
    next_action: str
    attached_compute_node_count: Int
    tags: list[Tag]


class DescribeComputeEnvsResponse(Wire):
    """What DescribeComputeEnvs answers."""

    compute_env_set: list[ComputeEnvView]
    total_count: Int


class DeleteComputeEnvRequest(Wire):
    """What DeleteComputeEnv asks for."""

    env_id: str


class TerminateComputeNodeRequest(Wire):
    """What TerminateComputeNode asks for."""

    env_id: str
    compute_node_id: str


class TerminateComputeNodesRequest(Wire):
    """What TerminateComputeNodes asks for."""

    env_id: str
    compute_node_ids: list[str]


class ComputeEnvData(Wire):
    """What ModifyComputeEnv may change of the nodes that are made later."""

    instance_types: list[str]


class ModifyComputeEnvRequest(Wire):
    """What ModifyComputeEnv asks for: what is None stays as it is."""

    env_id: str
    desired_compute_node_count: Int | None = None
    env_name: str | None = None
    env_description: str | None = None
    env_data: ComputeEnvData | None = None


class DescribeComputeEnvActivitiesRequest(Wire):
    """What DescribeComputeEnvActivities asks for; the API has one filter where lists have some."""

    env_id: str
    offset: Int | None = None
    limit: Int | None = None
    filters: list[Filter] = []


class Activity(Wire):
    """Something that was done to a node. EndTime: null before that."""

    activity_id: str
    compute_node_id: str
    compute_node_activity_type: str
    env_id: str
    cause: str
    activity_state: str
    state_reason: str
    start_time: str
    end_time: str | None
    instance_id: str


class DescribeComputeEnvActivitiesResponse(Wire):
    """What DescribeComputeEnvActivities answers."""

    activity_set: list[Activity]
    total_count: Int


class DescribeComputeEnvCreateInfoRequest(Wire):
    """What DescribeComputeEnvCreateInfo asks for."""

    env_id: str


class ComputeEnvCreateInfo(Wire):
    """What an environment was asked to be."""

    env_id: str
    env_name: str
    env_description: str
    env_type: str
    env_data: EnvData
    mount_data_disks: list[MountDataDisk]
    input_mappings: list[InputMapping]
    authentications: list[Authentication]
    notifications: list[Notification]
    desired_compute_node_count: Int
    tags: list[Tag]


class DescribeComputeEnvCreateInfosRequest(Wire):
    """What DescribeComputeEnvCreateInfos asks for."""

    env_ids: list[str] = []
    filters: list[Filter] = []
    offset: Int | None = None
    limit: Int | None = None


class DescribeComputeEnvCreateInfosResponse(Wire):
    """What DescribeComputeEnvCreateInfos answers."""

    total_count: Int
    compute_env_create_info_set: list[ComputeEnvCreateInfo]


class Instance(Wire):
    """A machine to be attached. Its system is set up anew from the image."""

    instance_id: str
    image_id: str | None = None
    login_settings: LoginSettings | None = None


class AttachInstancesRequest(Wire):
    """What AttachInstances asks for."""

    env_id: str
    instances: list[Instance]


class DetachInstancesRequest(Wire):
    """What DetachInstances asks for."""

    env_id: str
    instance_ids: list[str]


class CreateTaskTemplateRequest(Wire):
    """What CreateTaskTemplate asks for."""

    task_template_name: str
    task_template_info: Task
    task_template_description: str | None = None
    tags: list[Tag] = []


class CreateTaskTemplateResponse(Wire):
    """What CreateTaskTemplate answers."""

    task_template_id: str


class DescribeTaskTemplatesRequest(Wire):
    """What DescribeTaskTemplates asks for."""

    task_template_ids: list[str] = []
    filters: list[Filter] = []
    offset: Int | None = None
    limit: Int | None = None


class TaskTemplateView(Wire):
    """A task template in the answer of DescribeTaskTemplates."""

    task_template_id: str
    task_template_name: str
    task_template_description: str
    task_template_info: Task
    create_time: str
    tags: list[Tag]


class DescribeTaskTemplatesResponse(Wire):
    """What DescribeTaskTemplates answers."""

    task_template_set: list[TaskTemplateView]
    total_count: Int


class ModifyTaskTemplateRequest(Wire):
    """What ModifyTaskTemplate asks for: what is None stays as it is."""

    task_template_id: str
    task_template_name: str | None = None
    task_template_description: str | None = None
    task_template_info: Task | None = None


class DeleteTaskTemplatesRequest(Wire):
    """What DeleteTaskTemplates asks for."""

    task_template_ids: list[str]


class DescribeAvailableCvmInstanceTypesRequest(Wire):
    """What DescribeAvailableCvmInstanceTypes asks for."""

    filters: list[Filter] = []


class InstanceTypeConfig(Wire):
    """An instance type in one zone. Mem: GiB; Cpu: cores."""

    mem: Int
    cpu: Int
    instance_type: str
    zone: str
    instance_family: str


class DescribeAvailableCvmInstanceTypesResponse(Wire):
    """What DescribeAvailableCvmInstanceTypes answers."""

    instance_type_config_set: list[InstanceTypeConfig]


class DescribeCvmZoneInstanceConfigInfosRequest(Wire):
    """What DescribeCvmZoneInstanceConfigInfos asks for."""

    filters: list[Filter] = []


class StorageBlock(Wire):
    """The local hard disks of an instance type. Sizes: GiB."""

    type: str
    min_size: Int
    max_size: Int


class Externals(Wire):
    """What else is known of an instance type."""

    release_address: bool | None = None
    unsupport_networks: list[str] = []
    storage_block_attr: StorageBlock | None = None


class LocalDiskType(Wire):
    """A local disk that an instance type may have. Sizes: GiB."""

    type: str
    partition_type: str
    min_size: Int
    max_size: Int
    required: str


class ItemPrice(Wire):
    """What an instance costs: here nothing."""

    unit_price: float = 0.0
    charge_unit: str = "HOUR"
    original_price: float = 0.0
    discount_price: float = 0.0
    discount: float = 0.0
    unit_price_discount: float = 0.0
    unit_price_second_step: float = 0.0
    unit_price_discount_second_step: float = 0.0
    unit_price_third_step: float = 0.0
    unit_price_discount_third_step: float = 0.0
    original_price_three_year: float = 0.0
    discount_price_three_year: float = 0.0
    discount_three_year: float = 0.0
    original_price_five_year: float = 0.0
    discount_price_five_year: float = 0.0
    discount_five_year: float = 0.0
    original_price_one_year: float = 0.0
    discount_price_one_year: float = 0.0
    discount_one_year: float = 0.0


class InstanceTypeQuotaItem(Wire):
    """An instance type in one zone under one way of paying. Memory: GiB; InstanceBandwidth: Gbps.

    What would describe a cloud's hardware is 0 or empty.
    """

    zone: str
    instance_type: str
    instance_charge_type: str
    network_card: Int
    externals: Externals
    cpu: Int
    memory: Int
    instance_family: str
    type_name: str
    local_disk_type_list: list[LocalDiskType]
    status: str
    price: ItemPrice
    sold_out_reason: str
    instance_bandwidth: float
    instance_pps: Int
    storage_block_amount: Int
    cpu_type: str
    gpu: Int
    fpga: Int
    remark: str
    gpu_count: float
    frequency: str
    status_category: str


class DescribeCvmZoneInstanceConfigInfosResponse(Wire):
    """What DescribeCvmZoneInstanceConfigInfos answers."""

    instance_type_quota_set: list[InstanceTypeQuotaItem]


class InstanceCategoryItem(Wire):
    """A category of instance types, and its families."""

    instance_category: str
    instance_family_set: list[str]


class DescribeInstanceCategoriesRequest(Wire):
    """What DescribeInstanceCategories asks for: nothing."""


class DescribeInstanceCategoriesResponse(Wire):
    """What DescribeInstanceCategories answers."""

    instance_category_set: list[InstanceCategoryItem]


_OLD_SPELLINGS: tuple[Mapping[str, str], ...] = (
    {"notifications": "Notifications"},
    {"topic_name": "TopicName", "event_configs": "EventConfigs"},
    {"event_name": "EventName", "event_vars": "EventVars"},
    {"name": "Name", "value": "Value"},
)
_INNER = ("Notifications", "EventConfigs", "EventVars")
"""Level by level: how the user guide's event page spells members, and which one goes deeper."""


def prepare_submit_job(params: Mapping[str, Any]) -> Mapping[str, Any]:
    """Rewrite the older forms of `Job.Notifications`; leave what is not understood as it is."""
    return _prepare_notifications(params, within="Job")


def prepare_create_compute_env(params: Mapping[str, Any]) -> Mapping[str, Any]:
    """Rewrite the older forms of `ComputeEnv.Notifications`; leave the rest as it is."""
    return _prepare_notifications(params, within="ComputeEnv")


def prepare_filters(params: Mapping[str, Any]) -> Mapping[str, Any]:
    """Make a list of `Filters` given as one object."""
    return {**params, "Filters": _as_list(params["Filters"])} if "Filters" in params else params


def _prepare_notifications(params: Mapping[str, Any], *, within: str) -> Mapping[str, Any]:
    """Rewrite the notifications of the object `within`.

    Why: SDKs before March 2022 sent one object where a list is asked for today, and the user
    guide's example, which the official command line drops unseen, is in snake case.
    """
    return {**params, within: _rewrite(params[within], level=0)} if within in params else params


def _rewrite(value: Any, *, level: int) -> Any:
    """Spell the members of an object as the API does. One given in both ways is left twice."""
    if not isinstance(value, Mapping):
        return value
    renamed = dict(value)
    for old, new in _OLD_SPELLINGS[level].items():
        if old in renamed and new not in renamed:
            renamed[new] = renamed.pop(old)
    inner = _INNER[level] if level < len(_INNER) else None
    if inner in renamed:
        elements = _as_list(renamed[inner]) if level == 0 else renamed[inner]
        if isinstance(elements, list):
            elements = [_rewrite(element, level=level + 1) for element in elements]
        renamed[inner] = elements
    return renamed


def _as_list(value: Any) -> Any:
    """A list of one for an object; anything else unchanged."""
    return [value] if isinstance(value, Mapping) else value
