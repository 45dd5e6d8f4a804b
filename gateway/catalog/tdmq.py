"""TDMQ 2020-02-17, the CMQ part: what each action is decided on.

Why: the vendor's CAM page puts CreateCmqSubscribe on the topic, so a policy written from it works;
besides, an explicit deny on the subscription, or on the queue that a subscription with Protocol
`queue` or `amqp` fills, holds: on the broker, too, it may be one that others read from or fill, and
an account calls both by one name. Creating a topic or a queue needs resource `*`, as on that page,
and an explicit deny on the name it would get holds; so does one on the queue that shall take a
queue's dead letters, which its senders then fill. The lists of topics and queues show what their
caller may see; subscriptions are a property of the topic, or the queue, they are asked for, and
shown to whoever may describe that, but for those that are explicitly denied by their own names.
What is done to a subscription is decided on the subscription, and an explicit deny on its topic
holds: a subscription carries no tags, so that a deny by a tag can only be written on the topic,
and whoever is kept from a topic is not meant to read, sign or stop what it tells.

RevealCmqSubscriptionSecret and RotateCmqSubscriptionSecret are our own: what an HTTP subscriber
verifies its pushes with. The first only looks, and is a write all the same: whoever may read is
not meant to be able to sign, and each time it is shown must be on record before it is.
"""

from dataclasses import replace

from gateway.catalog.actions import Table, codes

_tdmq = Table(
    "tdmq",
    "2020-02-17",
    source="TDMQ for CMQ, Access Management; TDMQ API 2020-02-17, error codes",
    errors=codes("""
ClearCmqQueue: FailedOperation ResourceNotFound ResourceUnavailable
ClearCmqSubscriptionFilterTags: FailedOperation
CreateCmqQueue: FailedOperation FailedOperation.CreateCluster FailedOperation.CreateTopic
  FailedOperation.SetRetentionPolicy FailedOperation.SetTTL InternalError.BrokerService
  ResourceInUse ResourceInUse.Queue ResourceNotFound.Environment ResourceUnavailable
  ResourceUnavailable.CreateFailed ResourceUnavailable.FundRequired UnsupportedOperation
CreateCmqSubscribe: FailedOperation FailedOperation.CreateSubscription FailedOperation.CreateTopic
  ResourceInUse ResourceInUse.Subscription ResourceUnavailable ResourceUnavailable.FundRequired
CreateCmqTopic: FailedOperation FailedOperation.CreateCluster FailedOperation.CreateTopic
  FailedOperation.SetRetentionPolicy FailedOperation.SetTTL InternalError.BrokerService
  LimitExceeded.Topics ResourceInUse ResourceInUse.Topic ResourceNotFound.Environment
  ResourceUnavailable ResourceUnavailable.CreateFailed ResourceUnavailable.FundRequired
DeleteCmqQueue: FailedOperation FailedOperation.DeleteCluster FailedOperation.DeleteTopics
  ResourceNotFound ResourceUnavailable
DeleteCmqSubscribe: FailedOperation FailedOperation.DeleteSubscriptions
  FailedOperation.DeleteTopics ResourceNotFound ResourceNotFound.Topic ResourceUnavailable
DeleteCmqTopic: FailedOperation FailedOperation.DeleteCluster ResourceNotFound.Topic
  ResourceUnavailable
DescribeCmqQueueDetail: FailedOperation ResourceNotFound
DescribeCmqQueues: FailedOperation ResourceUnavailable
DescribeCmqSubscriptionDetail: FailedOperation.CmqBackendError ResourceNotFound.Topic
DescribeCmqTopicDetail: FailedOperation FailedOperation.CmqBackendError ResourceNotFound
  ResourceNotFound.Topic ResourceUnavailable
DescribeCmqTopics: FailedOperation FailedOperation.CmqBackendError
ModifyCmqQueueAttribute: FailedOperation FailedOperation.SetRetentionPolicy FailedOperation.SetTTL
  InternalError.BrokerService ResourceNotFound ResourceNotFound.Environment
  ResourceUnavailable.FundRequired
ModifyCmqSubscriptionAttribute: FailedOperation
ModifyCmqTopicAttribute: FailedOperation ResourceNotFound.Topic
PublishCmqMsg: FailedOperation ResourceNotFound
RewindCmqQueue: FailedOperation ResourceUnavailable
SendCmqMsg: FailedOperation ResourceNotFound ResourceUnavailable
UnbindCmqDeadLetter: FailedOperation
"""),
)

_QUEUE = "queue/${QueueName}"
_TOPIC = "topic/${TopicName}"
_SUBSCRIPTION = "subscription/${TopicName}/${SubscriptionName}"
_FILLED = tuple(f"queue/${{Endpoint}} when Protocol={name}" for name in ("queue", "amqp"))
_DEAD_LETTERS = "queue/${DeadLetterQueueName}"

ACTIONS = (
    _tdmq.write("ClearCmqQueue", _QUEUE),
    _tdmq.write("ClearCmqSubscriptionFilterTags", _SUBSCRIPTION, deny_only=(_TOPIC,)),
    _tdmq.write("CreateCmqQueue", "*", deny_only=(_QUEUE, _DEAD_LETTERS)),
    _tdmq.write("CreateCmqSubscribe", _TOPIC, deny_only=(_SUBSCRIPTION, *_FILLED)),
    _tdmq.write("CreateCmqTopic", "*", deny_only=(_TOPIC,)),
    _tdmq.write("DeleteCmqQueue", _QUEUE),
    _tdmq.write("DeleteCmqSubscribe", _SUBSCRIPTION, deny_only=(_TOPIC,)),
    _tdmq.write("DeleteCmqTopic", _TOPIC),
    _tdmq.read("DescribeCmqQueueDetail", _QUEUE),
    _tdmq.read("DescribeCmqQueues", "queue/${QueueNameList[]}", is_list=True),
    replace(
        _tdmq.read("DescribeCmqSubscriptionDetail", "topic/${TopicName} | queue/${QueueName}"),
        parts="subscription",
    ),
    _tdmq.read("DescribeCmqTopicDetail", _TOPIC),
    _tdmq.read("DescribeCmqTopics", "topic/${TopicNameList[]}", is_list=True),
    _tdmq.write("ModifyCmqQueueAttribute", _QUEUE, deny_only=(_DEAD_LETTERS,)),
    _tdmq.write("ModifyCmqSubscriptionAttribute", _SUBSCRIPTION, deny_only=(_TOPIC,)),
    _tdmq.write("ModifyCmqTopicAttribute", _TOPIC),
    _tdmq.write("PublishCmqMsg", _TOPIC),
    _tdmq.write("RevealCmqSubscriptionSecret", _SUBSCRIPTION, deny_only=(_TOPIC,)),
    _tdmq.write("RewindCmqQueue", _QUEUE),
    _tdmq.write("RotateCmqSubscriptionSecret", _SUBSCRIPTION, deny_only=(_TOPIC,)),
    _tdmq.write("SendCmqMsg", _QUEUE),
    _tdmq.write("UnbindCmqDeadLetter", "queue/${SourceQueueName}"),
)
