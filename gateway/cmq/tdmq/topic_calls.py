"""The handlers of tdmq 2020-02-17 for topics: check, then one transaction."""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass

from gateway.call import Call, Grant
from gateway.clock import Clock
from gateway.cmq import limits, publishing, tags, topics
from gateway.cmq.naming import check_name
from gateway.cmq.tdmq import datatypes as wire
from gateway.cmq.tdmq.requests import read_tags, read_topic_list
from gateway.cmq.tdmq.views import view_topic
from gateway.cmq.topics import Topic, TopicChanges
from gateway.errors import InvalidParameterValue
from gateway.ids import NewId, new_request_id
from gateway.service import Empty, Operation
from gateway.store import Store, Tx


@dataclass(frozen=True, slots=True)
class TopicCalls:
    """One method per action. cloud_limits: whether the vendor's quotas hold."""

    store: Store
    _: KW_ONLY
    clock: Clock
    new_id: NewId
    cloud_limits: bool = False

    @property
    def operations(self) -> Mapping[str, Operation]:
        """The actions and how they are served."""
        return {
            "CreateCmqTopic": Operation(wire.CreateCmqTopicRequest, self.create_topic),
            "ModifyCmqTopicAttribute": Operation(
                wire.ModifyCmqTopicAttributeRequest, self.modify_topic
            ),
            "DeleteCmqTopic": Operation(wire.TopicRequest, self.delete_topic),
            "DescribeCmqTopics": Operation(wire.DescribeCmqTopicsRequest, self.describe_topics),
            "DescribeCmqTopicDetail": Operation(wire.TopicRequest, self.describe_topic),
            "PublishCmqMsg": Operation(wire.PublishCmqMsgRequest, self.publish_message),
        }

    async def create_topic(
        self, call: Call, grant: Grant, request: wire.CreateCmqTopicRequest
    ) -> wire.CreateCmqTopicResponse:
        """Make a topic."""
        now = self.clock()
        topic = Topic(
            id=self.new_id("topic"),
            owner_uin=grant.principal.owner_uin,
            region=call.region,
            name=check_name(request.topic_name, parameter="TopicName"),
            max_message_bytes=limits.MESSAGE_BYTES.read(request.max_msg_size),
            filter_type=limits.FILTER_TYPE.read(request.filter_type),
            retention_s=limits.TOPIC_RETENTION_S.read(request.msg_retention_seconds),
            trace=bool(request.trace),
            created_by=grant.principal.uin,
            created_at=now,
            modified_at=now,
        )
        labels = read_tags(request.tags)
        await self.store.write(
            lambda tx: topics.create(tx, topic, labels=labels, limited=self.cloud_limits)
        )
        return wire.CreateCmqTopicResponse(topic_id=topic.id)

    async def modify_topic(
        self, call: Call, grant: Grant, request: wire.ModifyCmqTopicAttributeRequest
    ) -> Empty:
        """Change what is given of a topic."""
        changes = TopicChanges(
            max_message_bytes=limits.MESSAGE_BYTES.check(request.max_msg_size),
            retention_s=limits.TOPIC_RETENTION_S.check(request.msg_retention_seconds),
            trace=request.trace,
        )
        where = {"region": call.region, "name": request.topic_name}
        owner_uin = grant.principal.owner_uin
        await self.store.write(
            lambda tx: topics.change(tx, owner_uin, **where, changes=changes, now=self.clock())
        )
        return Empty()

    async def delete_topic(self, call: Call, grant: Grant, request: wire.TopicRequest) -> Empty:
        """Delete a topic that has no subscriptions."""
        where = {"region": call.region, "name": request.topic_name}
        owner_uin = grant.principal.owner_uin
        await self.store.write(lambda tx: topics.delete(tx, owner_uin, **where, now=self.clock()))
        return Empty()

    async def describe_topics(
        self, call: Call, grant: Grant, request: wire.DescribeCmqTopicsRequest
    ) -> wire.DescribeCmqTopicsResponse:
        """List topics by name."""
        owner_uin = grant.principal.owner_uin
        wanted = read_topic_list(request, scope=grant.scope)

        def read(tx: Tx) -> wire.DescribeCmqTopicsResponse:
            total, found = topics.list_topics(tx, owner_uin, region=call.region, wanted=wanted)
            return wire.DescribeCmqTopicsResponse(
                topic_list=view_topics(tx, found), total_count=total
            )

        return await self.store.read_list(read)

    async def describe_topic(
        self, call: Call, grant: Grant, request: wire.TopicRequest
    ) -> wire.DescribeCmqTopicDetailResponse:
        """Show one topic."""
        where = {"region": call.region, "name": request.topic_name}

        def read(tx: Tx) -> wire.CmqTopic:
            topic = topics.get_topic(tx, grant.principal.owner_uin, **where)
            return view_topics(tx, [topic])[0]

        return wire.DescribeCmqTopicDetailResponse(topic_describe=await self.store.read_list(read))

    async def publish_message(
        self, call: Call, grant: Grant, request: wire.PublishCmqMsgRequest
    ) -> wire.MessageResponse:
        """Publish a message to a topic's subscribers; they get it after the answer."""
        message_id = new_request_id()
        owner_uin = grant.principal.owner_uin
        where = {"region": call.region, "name": request.topic_name}

        def publish(tx: Tx) -> None:
            topic = topics.get_topic(tx, owner_uin, **where)
            body = limits.check_content(request.msg_content, bytes_max=topic.max_message_bytes)
            routing_key, message_tags = read_message_tags(request.msg_tag or (), topic=topic)
            publishing.publish(
                tx,
                topic,
                {message_id: body},
                routing_key=routing_key,
                tags=message_tags,
                now=self.clock(),
            )

        await self.store.write(publish)
        return wire.MessageResponse(result=True, msg_id=message_id)


def view_topics(tx: Tx, found: Sequence[Topic]) -> list[wire.CmqTopic]:
    """Topics with their counts and tags."""
    counts = topics.count_subscriptions(tx, found)
    waiting = topics.count_messages(tx, found)
    tags_of = tags.of(tx, [topic.id for topic in found])
    return [
        view_topic(
            topic,
            subscriptions=counts.get(topic.id, 0),
            waiting=waiting.get(topic.id, 0),
            tags=tags_of.get(topic.id, ()),
        )
        for topic in found
    ]


def read_message_tags(message_tags: Sequence[str], *, topic: Topic) -> tuple[str, tuple[str, ...]]:
    """The routing key and the tags of a message: MsgTag is the one or the other, by FilterType."""
    if topic.filter_type == topics.FILTER_BY_TAG:
        return "", limits.check_message_tags(message_tags)
    if len(message_tags) != 1:
        raise InvalidParameterValue("`MsgTag` must be one routing key: the topic routes by key.")
    return limits.check_words(message_tags[0], parameter="MsgTag"), ()
