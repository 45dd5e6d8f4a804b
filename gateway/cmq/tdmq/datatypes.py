"""The wire types of the served `*Cmq*` actions of tdmq 2020-02-17. Times are in milliseconds."""

from msgspec import field

from gateway.service import Int, Wire


class Tag(Wire):
    """A tag of a topic or a queue."""

    tag_key: str
    tag_value: str


class Filter(Wire):
    """A condition on a list."""

    name: str
    values: list[str] = field(default_factory=list)


class CreateCmqTopicRequest(Wire):
    """Parameters of CreateCmqTopic."""

    topic_name: str
    max_msg_size: Int | None = None
    filter_type: Int | None = None
    msg_retention_seconds: Int | None = None
    trace: bool | None = None
    tags: list[Tag] | None = None


class CreateCmqTopicResponse(Wire):
    """Members of CreateCmqTopic."""

    topic_id: str


class TopicRequest(Wire):
    """Parameters of the actions on one topic."""

    topic_name: str


class ModifyCmqTopicAttributeRequest(Wire):
    """Parameters of ModifyCmqTopicAttribute."""

    topic_name: str
    max_msg_size: Int | None = None
    msg_retention_seconds: Int | None = None
    trace: bool | None = None


class CmqTopic(Wire):
    """One topic."""

    topic_id: str
    topic_name: str
    msg_retention_seconds: int
    max_msg_size: int
    qps: int
    filter_type: int
    create_time: int
    last_modify_time: int
    msg_count: int
    create_uin: int
    tags: list[Tag]
    trace: bool
    tenant_id: str
    namespace_name: str
    status: int
    broker_type: int
    subscription_count: int


class DescribeCmqTopicDetailResponse(Wire):
    """Members of DescribeCmqTopicDetail."""

    topic_describe: CmqTopic


class DescribeCmqTopicsRequest(Wire):
    """Parameters of DescribeCmqTopics."""

    offset: Int | None = None
    limit: Int | None = None
    topic_name: str | None = None
    topic_name_list: list[str] | None = None
    is_tag_filter: bool | None = None
    filters: list[Filter] | None = None


class DescribeCmqTopicsResponse(Wire):
    """Members of DescribeCmqTopics."""

    topic_list: list[CmqTopic]
    total_count: int


class QueueAttributes(Wire):
    """What a queue is made with, and what can be changed of it. Times are in seconds."""

    queue_name: str
    max_msg_heap_num: Int | None = None
    polling_wait_seconds: Int | None = None
    visibility_timeout: Int | None = None
    max_msg_size: Int | None = None
    msg_retention_seconds: Int | None = None
    rewind_seconds: Int | None = None
    transaction: Int | None = None
    first_query_interval: Int | None = None
    max_query_count: Int | None = None
    dead_letter_queue_name: str | None = None
    policy: Int | None = None
    max_receive_count: Int | None = None
    max_time_to_live: Int | None = None
    trace: bool | None = None
    retention_size_in_mb: Int | None = field(default=None, name="RetentionSizeInMB")


class CreateCmqQueueRequest(QueueAttributes):
    """Parameters of CreateCmqQueue."""

    tags: list[Tag] | None = None


class ModifyCmqQueueAttributeRequest(QueueAttributes):
    """Parameters of ModifyCmqQueueAttribute."""


class CreateCmqQueueResponse(Wire):
    """Members of CreateCmqQueue."""

    queue_id: str


class QueueRequest(Wire):
    """Parameters of the actions on one queue."""

    queue_name: str


class RewindCmqQueueRequest(Wire):
    """Parameters of RewindCmqQueue. `start_consume_time`: seconds or milliseconds since 1970."""

    queue_name: str
    start_consume_time: Int


class UnbindCmqDeadLetterRequest(Wire):
    """Parameters of UnbindCmqDeadLetter."""

    source_queue_name: str


class CmqDeadLetterSource(Wire):
    """A queue whose undeliverable messages a queue takes."""

    queue_id: str
    queue_name: str


class CmqDeadLetterPolicy(Wire):
    """Where undeliverable messages of a queue go."""

    dead_letter_queue: str
    policy: int
    max_time_to_live: int
    max_receive_count: int


class CmqTransactionPolicy(Wire):
    """How open transactions of a queue are asked after."""

    first_query_interval: int
    max_query_count: int


class CmqQueue(Wire):
    """One queue."""

    queue_id: str
    queue_name: str
    qps: int
    bps: int
    max_delay_seconds: int
    max_msg_heap_num: int
    polling_wait_seconds: int
    msg_retention_seconds: int
    visibility_timeout: int
    max_msg_size: int
    rewind_seconds: int
    create_time: int
    last_modify_time: int
    active_msg_num: int
    inactive_msg_num: int
    delay_msg_num: int
    rewind_msg_num: int
    min_msg_time: int
    transaction: bool
    dead_letter_source: list[CmqDeadLetterSource]
    dead_letter_policy: CmqDeadLetterPolicy | None
    transaction_policy: CmqTransactionPolicy | None
    create_uin: int
    tags: list[Tag]
    trace: bool
    tenant_id: str
    namespace_name: str
    status: int
    max_unacked_msg_num: int
    max_msg_backlog_size: int
    retention_size_in_mb: int = field(name="RetentionSizeInMB")


class DescribeCmqQueueDetailResponse(Wire):
    """Members of DescribeCmqQueueDetail."""

    queue_describe: CmqQueue


class DescribeCmqQueuesRequest(Wire):
    """Parameters of DescribeCmqQueues."""

    offset: Int | None = None
    limit: Int | None = None
    queue_name: str | None = None
    queue_name_list: list[str] | None = None
    is_tag_filter: bool | None = None
    filters: list[Filter] | None = None


class DescribeCmqQueuesResponse(Wire):
    """Members of DescribeCmqQueues."""

    total_count: int
    queue_list: list[CmqQueue]


class CreateCmqSubscribeRequest(Wire):
    """Parameters of CreateCmqSubscribe."""

    topic_name: str
    subscription_name: str
    protocol: str
    endpoint: str
    notify_strategy: str | None = None
    filter_tag: list[str] | None = None
    binding_key: list[str] | None = None
    notify_content_format: str | None = None


class CreateCmqSubscribeResponse(Wire):
    """Members of CreateCmqSubscribe."""

    subscription_id: str


class SubscriptionRequest(Wire):
    """Parameters of the actions on one subscription."""

    topic_name: str
    subscription_name: str


class ModifyCmqSubscriptionAttributeRequest(Wire):
    """Parameters of ModifyCmqSubscriptionAttribute. CreateCmqSubscribe has `FilterTag` instead."""

    topic_name: str
    subscription_name: str
    notify_strategy: str | None = None
    notify_content_format: str | None = None
    filter_tags: list[str] | None = None
    binding_key: list[str] | None = None


class SubscriptionSecretResponse(Wire):
    """Members of the two actions on a subscription's secret, which are our own.

    `Secret`: what pushes over HTTP are signed with. `OldSecretUntil`: until when they are signed
    with the one before, too, in milliseconds since 1970; 0 if they are not.
    """

    secret: str
    old_secret_until: int


class CmqSubscription(Wire):
    """One subscription."""

    subscription_name: str
    subscription_id: str
    topic_owner: int
    msg_count: int
    last_modify_time: int
    create_time: int
    binding_key: list[str]
    endpoint: str
    filter_tags: list[str]
    protocol: str
    notify_strategy: str
    notify_content_format: str
    topic_name: str


class DescribeCmqSubscriptionDetailRequest(Wire):
    """Parameters of DescribeCmqSubscriptionDetail."""

    topic_name: str | None = None
    offset: Int | None = None
    limit: Int | None = None
    subscription_name: str | None = None
    queue_name: str | None = None
    query_type: str | None = None


class DescribeCmqSubscriptionDetailResponse(Wire):
    """Members of DescribeCmqSubscriptionDetail."""

    total_count: int
    subscription_set: list[CmqSubscription]


class SendCmqMsgRequest(Wire):
    """Parameters of SendCmqMsg."""

    queue_name: str
    msg_content: str
    delay_seconds: Int = 0


class PublishCmqMsgRequest(Wire):
    """Parameters of PublishCmqMsg."""

    topic_name: str
    msg_content: str
    msg_tag: list[str] | None = None


class MessageResponse(Wire):
    """Members of SendCmqMsg and PublishCmqMsg."""

    result: bool
    msg_id: str
