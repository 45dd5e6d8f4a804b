"""BatchCompute 2017-03-12: what each action is decided on.

Why: CreateCpmComputeEnv left the SDKs in 2025, but the user guide's table names it and policies
do too, so it stays here. The four read actions without an id are not in that table: a policy
must carry resource `*` for them, DescribeJobMonitorData included, although it names a job.

DescribeEvents is our own: to open the stream of events, see `stream.py`. It is a list, so that
whoever may see the events of one job may open it; who may see environments alone names them.
"""

from dataclasses import replace

from gateway.catalog.actions import Table, codes

_batch = Table(
    "batch",
    "2017-03-12",
    source="Batch user guide, Cloud Access Management; BatchCompute API 2017-03-12, error codes",
    errors=codes("""
AttachInstances: InternalError InternalError.CallCvm InvalidParameter.EnvIdMalformed
  InvalidParameterValue.InstanceIdDuplicated ResourceNotFound.ComputeEnv UnsupportedOperation
  UnsupportedOperation.InstancesNotAllowToAttach
CreateComputeEnv: InternalError InternalError.CallCam InternalError.CallCvm
  InternalError.CallTagAPI InvalidParameter.CvmParameters InvalidParameter.EnvDescriptionTooLong
  InvalidParameter.EnvNameTooLong InvalidParameter.ImageIdMalformed
  InvalidParameter.InvalidParameterCombination InvalidParameter.NotificationEventNameDuplicate
  InvalidParameter.NotificationTopicName InvalidParameter.NotificationTopicNameTooLong
  InvalidParameterValue.ComputeEnv InvalidParameterValue.InstanceType
  InvalidParameterValue.InvalidDataTypeAny InvalidParameterValue.InvalidZoneMismatchRegion
  InvalidParameterValue.LocalPath InvalidParameterValue.Negative
  InvalidParameterValue.RemoteStoragePath InvalidParameterValue.RemoteStorageSchemeType
  InvalidParameterValue.UnavailableZone InvalidZone.MismatchRegion LimitExceeded.ComputeEnvQuota
  LimitExceeded.CpuQuota UnauthorizedOperation.UserNotAllowedToUseBatch
CreateCpmComputeEnv: InternalError InternalError.CallCpmAPI InternalError.CpmResponseDataEmpty
  InvalidParameter.EnvDescriptionTooLong InvalidParameter.EnvNameTooLong
  InvalidParameter.NotificationEventNameDuplicate InvalidParameter.NotificationTopicName
  InvalidParameter.NotificationTopicNameTooLong InvalidParameterValue.LimitExceeded
  InvalidParameterValue.OsTypeId InvalidParameterValue.RegionNotSupportCpm
  UnauthorizedOperation.UserNotAllowedToUseBatch
CreateTaskTemplate: AllowedOneAttributeInEnvIdAndComputeEnv InternalError InternalError.CallTagAPI
  InvalidParameter.CvmParameters InvalidParameter.EnvIdMalformed InvalidParameter.ImageIdMalformed
  InvalidParameter.TaskName InvalidParameter.TaskNameTooLong InvalidParameter.TaskTemplateName
  InvalidParameter.TaskTemplateNameTooLong InvalidParameterValue.ComputeEnv
  InvalidParameterValue.DependenceNotFoundTaskName InvalidParameterValue.DependenceUnfeasible
  InvalidParameterValue.InvalidDataTypeAny InvalidParameterValue.LocalPath
  InvalidParameterValue.MaxRetryCount InvalidParameterValue.Negative
  InvalidParameterValue.RemoteStoragePath InvalidParameterValue.RemoteStorageSchemeType
  LimitExceeded.TaskTemplateQuota
DeleteComputeEnv: InternalError InvalidParameter.EnvIdMalformed ResourceNotFound.ComputeEnv
  UnsupportedOperation UnsupportedOperation.AcceptOtherRequest
  UnsupportedOperation.ComputeEnvAcceptOtherRequest UnsupportedOperation.ComputeEnvOperation
  UnsupportedOperation.ComputeNodeForbidTerminate
DeleteJob: InternalError InternalError.CallTagAPI InvalidParameter.JobIdMalformed ResourceInUse.Job
  ResourceNotFound.Job UnsupportedOperation
DeleteTaskTemplates: InternalError InvalidParameter.TaskTemplateIdMalformed
  ResourceNotFound.TaskTemplate
DescribeAvailableCvmInstanceTypes: InternalError InternalError.CallCam InternalError.CallCvm
  InvalidFilter InvalidParameterValue InvalidParameterValue.InvalidFilter
  InvalidParameterValue.InvalidZoneMismatchRegion InvalidParameterValue.LimitExceeded
  InvalidZone.MismatchRegion
DescribeComputeEnv: InternalError InvalidParameter.EnvIdMalformed ResourceNotFound.ComputeEnv
DescribeComputeEnvActivities: InternalError InvalidParameter.ComputeNodeIdMalformed
  InvalidParameter.EnvIdMalformed ResourceNotFound.ComputeEnv UnknownParameter
DescribeComputeEnvCreateInfo: InvalidParameter.EnvIdMalformed ResourceNotFound.ComputeEnv
DescribeComputeEnvCreateInfos: InvalidParameter.EnvIdMalformed
  InvalidParameter.InvalidParameterCombination InvalidParameterValue InvalidZone.MismatchRegion
  UnknownParameter
DescribeComputeEnvs: InternalError InvalidFilter InvalidParameter.EnvIdMalformed
  InvalidParameter.InvalidParameterCombination InvalidParameterValue
  InvalidParameterValue.InvalidFilter InvalidParameterValue.ResourceType InvalidZone.MismatchRegion
  UnknownParameter
DescribeCvmZoneInstanceConfigInfos: InternalError InternalError.CallCam InternalError.CallCvm
  InvalidFilter InvalidParameterValue InvalidParameterValue.InvalidFilter
  InvalidParameterValue.InvalidZoneMismatchRegion InvalidParameterValue.LimitExceeded
  InvalidParameterValue.UnsupportedBatchInstanceChargeType InvalidZone.MismatchRegion
DescribeInstanceCategories: InternalError UnsupportedOperation
DescribeJob: InternalError InvalidParameter.JobIdMalformed ResourceNotFound.Job
DescribeJobMonitorData: InternalError InvalidParameter.JobIdMalformed ResourceNotFound.Job
DescribeJobSubmitInfo: InternalError InvalidParameter.JobIdMalformed ResourceNotFound.Job
DescribeJobs: InternalError InvalidFilter InvalidParameter.InvalidParameterCombination
  InvalidParameter.JobIdMalformed InvalidParameterValue InvalidParameterValue.InvalidFilter
  InvalidParameterValue.LimitExceeded InvalidZone.MismatchRegion UnknownParameter
DescribeTask: InternalError InvalidParameter.JobIdMalformed ResourceNotFound.Task
DescribeTaskLogs: InternalError InvalidParameter.JobIdMalformed InvalidParameter.TaskName
  InvalidParameter.TaskNameTooLong InvalidParameterValue InvalidParameterValue.Negative
  ResourceNotFound.Job ResourceNotFound.Task ResourceNotFound.TaskInstance UnknownParameter
DescribeTaskTemplates: InternalError InvalidParameter.InvalidParameterCombination
  InvalidParameter.TaskTemplateIdMalformed InvalidParameterValue UnknownParameter
DetachInstances: InternalError InternalError.CallCvm InvalidParameter.EnvIdMalformed
  InvalidParameterValue.InstanceIdDuplicated ResourceNotFound.ComputeEnv UnknownParameter
  UnsupportedOperation
ModifyComputeEnv: InternalError InternalError.CallCpmAPI InvalidParameter.EnvDescriptionTooLong
  InvalidParameter.EnvIdMalformed InvalidParameter.EnvNameTooLong
  InvalidParameterValue.InstanceType InvalidParameterValue.InstanceTypeDuplicate
  InvalidParameterValue.InstanceTypesEmpty InvalidParameterValue.LimitExceeded
  InvalidParameterValue.Negative LimitExceeded.CpuQuota ResourceNotFound.ComputeEnv
  UnsupportedOperation.AcceptOtherRequest UnsupportedOperation.ComputeEnvAcceptOtherRequest
  UnsupportedOperation.ComputeNodeForbidTerminate
  UnsupportedOperation.NotEnoughComputeNodesToTerminate
ModifyTaskTemplate: AllowedOneAttributeInEnvIdAndComputeEnv InternalError
  InvalidParameter.CvmParameters InvalidParameter.TaskName InvalidParameter.TaskNameTooLong
  InvalidParameter.TaskTemplateDescriptionTooLong InvalidParameter.TaskTemplateIdMalformed
  InvalidParameter.TaskTemplateName InvalidParameter.TaskTemplateNameTooLong
  InvalidParameterAtLeastOneAttribute InvalidParameterValue.ComputeEnv
  InvalidParameterValue.DependenceNotFoundTaskName InvalidParameterValue.DependenceUnfeasible
  InvalidParameterValue.LocalPath InvalidParameterValue.MaxRetryCount
  InvalidParameterValue.Negative InvalidParameterValue.RemoteStoragePath
  InvalidParameterValue.RemoteStorageSchemeType ResourceNotFound.TaskTemplate
RetryJobs: InternalError InvalidParameter.JobIdMalformed ResourceNotFound.Job UnsupportedOperation
SubmitJob: AllowedOneAttributeInEnvIdAndComputeEnv InternalError InternalError.CallCam
  InternalError.CallCvm InternalError.CallTagAPI InvalidParameter.CvmParameters
  InvalidParameter.EnvIdMalformed InvalidParameter.ImageIdMalformed
  InvalidParameter.InvalidParameterCombination InvalidParameter.JobDescriptionTooLong
  InvalidParameter.JobNameTooLong InvalidParameter.NotificationEventNameDuplicate
  InvalidParameter.NotificationTopicName InvalidParameter.NotificationTopicNameTooLong
  InvalidParameter.TaskName InvalidParameter.TaskNameTooLong InvalidParameterValue.ComputeEnv
  InvalidParameterValue.DependenceNotFoundTaskName InvalidParameterValue.DependenceUnfeasible
  InvalidParameterValue.InstanceTypeDuplicate InvalidParameterValue.InvalidDataTypeAny
  InvalidParameterValue.InvalidZoneMismatchRegion InvalidParameterValue.LimitExceeded
  InvalidParameterValue.LocalPath InvalidParameterValue.MaxRetryCount
  InvalidParameterValue.Negative InvalidParameterValue.NotFloat
  InvalidParameterValue.RemoteStoragePath InvalidParameterValue.RemoteStorageSchemeType
  InvalidParameterValue.TaskInstanceNum InvalidParameterValue.UnavailableZone
  InvalidZone.MismatchRegion LimitExceeded.JobQuota ResourceNotFound.ComputeEnv
  UnauthorizedOperation.UserNotAllowedToUseBatch
TerminateComputeNode: InvalidParameter.ComputeNodeIdMalformed InvalidParameter.EnvIdMalformed
  ResourceNotFound.ComputeEnv ResourceNotFound.ComputeNode UnsupportedOperation.AcceptOtherRequest
  UnsupportedOperation.ComputeEnvAcceptOtherRequest UnsupportedOperation.ComputeEnvOperation
  UnsupportedOperation.ComputeNodeForbidTerminate UnsupportedOperation.ComputeNodeIsTerminating
TerminateComputeNodes: InvalidParameter.ComputeNodeIdMalformed InvalidParameter.EnvIdMalformed
  ResourceNotFound.ComputeEnv ResourceNotFound.ComputeNode UnsupportedOperation
  UnsupportedOperation.AcceptOtherRequest UnsupportedOperation.ComputeEnvAcceptOtherRequest
  UnsupportedOperation.ComputeNodeForbidTerminate UnsupportedOperation.ComputeNodeIsTerminating
TerminateJob: InternalError InvalidParameter.JobIdMalformed ResourceInUse.Job ResourceNotFound.Job
  UnsupportedOperation UnsupportedOperation.TerminateOperationWithEnvId
TerminateTaskInstance: InternalError InvalidParameter.JobIdMalformed ResourceNotFound.TaskInstance
  UnsupportedOperation.TerminateOperationWithEnvId
"""),
)

_ENV = "computeenv/${EnvId}"
_JOB = "job/${JobId}"
_TEMPLATE = "tasktemplate/${TaskTemplateId}"


def _topics(within: str) -> tuple[str, ...]:
    """The topics that a job or an environment asks to be told on, in every accepted spelling."""
    return tuple(
        f"tdmq:topic/${{{within}.{notifications}[].{topic_name}}}"
        for notifications in ("Notifications", "notifications")
        for topic_name in ("TopicName", "topic_name")
    )


ACTIONS = (
    _batch.write("AttachInstances", _ENV),
    replace(
        _batch.write("CreateComputeEnv", "computeenv/*", deny_only=_topics("ComputeEnv")),
        deny_only_action="tdmq:PublishCmqMsg",
    ),
    _batch.write("CreateCpmComputeEnv", "computeenv/*"),
    _batch.write("CreateTaskTemplate", "tasktemplate/*"),
    _batch.write("DeleteComputeEnv", _ENV),
    _batch.write("DeleteJob", _JOB),
    _batch.write("DeleteTaskTemplates", "tasktemplate/${TaskTemplateIds[]}"),
    _batch.read("DescribeAvailableCvmInstanceTypes", "*"),
    _batch.read("DescribeComputeEnv", _ENV),
    _batch.read("DescribeComputeEnvActivities", _ENV),
    _batch.read("DescribeComputeEnvCreateInfo", _ENV),
    _batch.read("DescribeComputeEnvCreateInfos", "computeenv/${EnvIds[]}", is_list=True),
    _batch.read("DescribeComputeEnvs", "computeenv/${EnvIds[]}", is_list=True),
    _batch.read("DescribeCvmZoneInstanceConfigInfos", "*"),
    _batch.read("DescribeEvents", "job/${JobId[]} | computeenv/${EnvId[]}", is_list=True),
    _batch.read("DescribeInstanceCategories", "*"),
    _batch.read("DescribeJob", _JOB),
    _batch.read("DescribeJobMonitorData", "*", deny_only=(_JOB,)),
    _batch.read("DescribeJobSubmitInfo", _JOB),
    _batch.read("DescribeJobs", "job/${JobIds[]}", is_list=True),
    _batch.read("DescribeTask", _JOB),
    _batch.read("DescribeTaskLogs", _JOB),
    _batch.read("DescribeTaskTemplates", "tasktemplate/${TaskTemplateIds[]}", is_list=True),
    _batch.write("DetachInstances", _ENV),
    _batch.write("ModifyComputeEnv", _ENV),
    _batch.write("ModifyTaskTemplate", _TEMPLATE),
    _batch.write("RetryJobs", "job/${JobIds[]}"),
    replace(
        _batch.write(
            "SubmitJob",
            "job/*",
            deny_only=("computeenv/${Job.Tasks[].EnvId}", *_topics("Job")),
        ),
        deny_only_action="tdmq:PublishCmqMsg",
    ),
    _batch.write("TerminateComputeNode", _ENV),
    _batch.write("TerminateComputeNodes", _ENV),
    _batch.write("TerminateJob", _JOB),
    _batch.write("TerminateTaskInstance", _JOB),
)
