"""CMQ: the two actions of API 2019-03-04, and the classic data API of 2017.

Why: one object has one name in policies, so a classic call is decided on the tdmq resource and,
where API 3.0 has the same action, under its name. Receiving and deleting messages exist only
here and keep their own names under tdmq (the vendor's CAM page lists `tdmq:BatchReceiveMessage`).
A deny that old policies carry on `cmqqueue` or `cmqtopic` names holds too; those names end in the
uin of whoever created the object, which the call does not tell: the root account is put there.
What is done to a subscription is refused to who is denied it on the topic, by either name.
The lists show what their caller may see, as the lists of tdmq do.
The errors of the classic API are pairs of numbers, not codes: the room that serves it has them.
"""

from dataclasses import replace

from gateway.catalog.actions import Access, Action, Table

CLASSIC = "classic"
"""Stands for the version in calls of the classic data API, which has none."""

_cmq = Table("cmq", "2019-03-04", source="CMQ API 2019-03-04", errors={})
_classic = Table("cmq", CLASSIC, source="CMQ data API 2017, HTTP; CMQ, Set Permissions", errors={})

_QUEUE = "queue/${queueName}"
_TOPIC = "topic/${topicName}"
_EVERY_QUEUE, _EVERY_TOPIC = "queue/*", "topic/*"
_SUBSCRIPTION = "subscription/${topicName}/${subscriptionName}"
_OLD_QUEUE = "cmqqueue:queueName/uin/${owner}/${queueName}"
_OLD_TOPIC = "cmqtopic:topicName/uin/${owner}/${topicName}"
_FILLED = tuple(
    f"{queue}/${{endpoint}} when protocol={name}"
    for queue in ("queue", "cmqqueue:queueName/uin/${owner}")
    for name in ("queue", "amqp")
)


def _queue(
    name: str, policy_name: str, *, access: Access = Access.WRITE, resource: str = _QUEUE
) -> Action:
    """A classic action on a queue. policy_name: the action in policies, without `tdmq:`."""
    denied = (_OLD_QUEUE,) if resource == _QUEUE else (_QUEUE, _OLD_QUEUE)
    return replace(
        _classic.write(name, resource, deny_only=denied),
        access=access,
        is_list=resource == _EVERY_QUEUE,
        policy_action=f"tdmq:{policy_name}",
        deny_only_action=f"cmqqueue:{name}",
    )


def _topic(
    name: str,
    policy_name: str,
    *,
    access: Access = Access.WRITE,
    resource: str = _TOPIC,
    deny_only: tuple[str, ...] = (),
    parts: str = "",
) -> Action:
    """A classic action on a topic. policy_name: the action in policies, without `tdmq:`."""
    denied = (_OLD_TOPIC,) if resource == _TOPIC else (_TOPIC, _OLD_TOPIC)
    return replace(
        _classic.write(name, resource, deny_only=(*deny_only, *denied)),
        access=access,
        is_list=resource == _EVERY_TOPIC,
        parts=parts,
        policy_action=f"tdmq:{policy_name}",
        deny_only_action=f"cmqtopic:{name}",
    )


_READ = Access.READ

ACTIONS = (
    _cmq.read("DescribeQueueDetail", "*"),
    _cmq.read("DescribeTopicDetail", "*"),
    _queue("CreateQueue", "CreateCmqQueue", resource="*"),
    _queue("ListQueue", "DescribeCmqQueues", access=_READ, resource=_EVERY_QUEUE),
    _queue("GetQueueAttributes", "DescribeCmqQueueDetail", access=_READ),
    _queue("SetQueueAttributes", "ModifyCmqQueueAttribute"),
    _queue("DeleteQueue", "DeleteCmqQueue"),
    _queue("RewindQueue", "RewindCmqQueue"),
    _queue("SendMessage", "SendCmqMsg"),
    _queue("BatchSendMessage", "SendCmqMsg"),
    _queue("ReceiveMessage", "ReceiveMessage"),
    _queue("BatchReceiveMessage", "BatchReceiveMessage"),
    _queue("DeleteMessage", "DeleteMessage"),
    _queue("BatchDeleteMessage", "BatchDeleteMessage"),
    _topic("CreateTopic", "CreateCmqTopic", resource="*"),
    _topic("ListTopic", "DescribeCmqTopics", access=_READ, resource=_EVERY_TOPIC),
    _topic("GetTopicAttributes", "DescribeCmqTopicDetail", access=_READ),
    _topic("SetTopicAttributes", "ModifyCmqTopicAttribute"),
    _topic("DeleteTopic", "DeleteCmqTopic"),
    _topic("PublishMessage", "PublishCmqMsg"),
    _topic("BatchPublishMessage", "PublishCmqMsg"),
    _topic("Subscribe", "CreateCmqSubscribe", deny_only=(_SUBSCRIPTION, *_FILLED)),
    _topic("Unsubscribe", "DeleteCmqSubscribe", resource=_SUBSCRIPTION),
    _topic("ClearSubscriptionFilterTags", "ClearCmqSubscriptionFilterTags", resource=_SUBSCRIPTION),
    _topic(
        "ListSubscriptionByTopic",
        "DescribeCmqSubscriptionDetail",
        access=_READ,
        parts="subscription",
    ),
    _topic(
        "GetSubscriptionAttributes",
        "DescribeCmqSubscriptionDetail",
        access=_READ,
        resource=_SUBSCRIPTION,
    ),
    _topic("SetSubscriptionAttributes", "ModifyCmqSubscriptionAttribute", resource=_SUBSCRIPTION),
)
