"""The handlers of the classic API for topics and what is published to them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass

from gateway.clock import Clock
from gateway.cmq import limits, publishing, topics
from gateway.cmq.classic.actions import Action, Asked
from gateway.cmq.classic.answers import Nothing
from gateway.cmq.classic.numbers import failure, told_as
from gateway.cmq.classic.parameters import (
    Params,
    array,
    number,
    optional_array,
    read_page,
    read_search,
    required,
)
from gateway.cmq.classic.topic_answers import (
    BatchPublishMessageAnswer,
    CreateTopicAnswer,
    ListedTopic,
    ListTopicAnswer,
    PublishMessageAnswer,
    TopicAttributes,
    view_topic,
)
from gateway.cmq.lists import Wanted
from gateway.cmq.naming import check_name
from gateway.cmq.topics import Topic, TopicChanges
from gateway.ids import NewId, new_request_id
from gateway.store import Store, Tx

SIZE = limits.MESSAGE_BYTES


@dataclass(frozen=True, slots=True)
class TopicCalls:
    """One method per action. cloud_limits: whether the vendor's quotas hold."""

    store: Store
    _: KW_ONLY
    clock: Clock
    new_id: NewId
    cloud_limits: bool = False

    @property
    def actions(self) -> Mapping[str, Action]:
        """The actions and how they are served."""
        one, size = {"topicName"}, {"maxMsgSize"}
        page = {"searchWord", "offset", "limit"}
        bodies, tags = {"msgBody"}, {"msgTag"}
        keyed = one | {"routingKey"}
        return {
            "CreateTopic": Action(self.create_topic, one | size | {"filterType"}),
            "ListTopic": Action(self.list_topics, page),
            "GetTopicAttributes": Action(self.get_attributes, one),
            "SetTopicAttributes": Action(self.set_attributes, one | size),
            "DeleteTopic": Action(self.delete_topic, one),
            "PublishMessage": Action(self.publish_message, keyed | bodies, tags),
            "BatchPublishMessage": Action(self.batch_publish_message, keyed, bodies | tags),
        }

    async def create_topic(self, asked: Asked) -> CreateTopicAnswer:
        """Make a topic."""
        params = asked.params
        with told_as((4000, 10590)):
            name = check_name(required(params, "topicName"), parameter="topicName")
        now = self.clock()
        topic = Topic(
            id=self.new_id("topic"),
            owner_uin=asked.owner_uin,
            region=asked.region,
            name=name,
            max_message_bytes=_read_size(params, default=SIZE.default),
            filter_type=number(params, "filterType", low=1, high=2, default=topics.FILTER_BY_TAG),
            retention_s=limits.TOPIC_RETENTION_S.default,
            trace=False,
            created_by=asked.created_by,
            created_at=now,
            modified_at=now,
        )
        await self.store.write(lambda tx: topics.create(tx, topic, limited=self.cloud_limits))
        return CreateTopicAnswer(topic_id=topic.id)

    async def list_topics(self, asked: Asked) -> ListTopicAnswer:
        """List topics by name."""
        offset, limit = read_page(asked.params)
        search = read_search(asked.params)
        wanted = Wanted(search=search, scope=asked.scope, offset=offset, limit=limit)
        total, found = await self.store.read_list(
            lambda tx: topics.list_topics(tx, asked.owner_uin, region=asked.region, wanted=wanted)
        )
        listed = [ListedTopic(topic_id=topic.id, topic_name=topic.name) for topic in found]
        return ListTopicAnswer(total_count=total, topic_list=listed)

    async def get_attributes(self, asked: Asked) -> TopicAttributes:
        """Show one topic."""
        place = asked.topic

        def read(tx: Tx) -> TopicAttributes:
            topic = topics.get_topic(tx, **place)
            waiting = topics.count_messages(tx, [topic])
            return view_topic(topic, waiting=waiting.get(topic.id, 0))

        return await self.store.read_list(read)

    async def set_attributes(self, asked: Asked) -> Nothing:
        """Change how large a topic's messages may be, if that is given."""
        place = asked.topic
        size = _read_size(asked.params, default=0)
        changes = TopicChanges(max_message_bytes=size or None)
        await self.store.write(
            lambda tx: topics.change(tx, **place, changes=changes, now=self.clock())
        )
        return Nothing()

    async def delete_topic(self, asked: Asked) -> Nothing:
        """Delete a topic that has no subscriptions."""
        place = asked.topic
        await self.store.write(lambda tx: topics.delete(tx, **place, now=self.clock()))
        return Nothing()

    async def publish_message(self, asked: Asked) -> PublishMessageAnswer:
        """Publish one message."""
        return (await self._publish(asked, [required(asked.params, "msgBody")]))[0]

    async def batch_publish_message(self, asked: Asked) -> BatchPublishMessageAnswer:
        """Publish up to sixteen messages, all or none, with the same tags and routing key."""
        return BatchPublishMessageAnswer(
            msg_list=await self._publish(asked, array(asked.params, "msgBody"))
        )

    async def _publish(self, asked: Asked, texts: Sequence[str]) -> list[PublishMessageAnswer]:
        """Publish messages in their order.

        Tags and routing key go along whatever the topic picks by: a subscriber may use either.
        """
        place = asked.topic
        bodies = {new_request_id(): _read_body(text) for text in texts}
        if sum(map(len, bodies.values())) > limits.BATCH_BYTES_MAX:
            raise failure(
                (4470, 10300), f"total message size exceeds {limits.BATCH_BYTES_MAX} bytes"
            )
        tags = _read_tags(asked.params)
        routing_key = _read_routing_key(asked.params)

        def publish(tx: Tx) -> None:
            topic = topics.get_topic(tx, **place)
            _check_sizes(bodies.values(), topic=topic)
            if topic.filter_type == topics.FILTER_BY_ROUTING_KEY and not routing_key:
                raise failure((4000, 10700), "parameters lack of routingKey")
            publishing.publish(
                tx, topic, bodies, routing_key=routing_key, tags=tags, now=self.clock()
            )

        await self.store.write(publish)
        return [PublishMessageAnswer(msg_id=message_id) for message_id in bodies]


def _read_size(params: Params, *, default: int) -> int:
    return number(params, "maxMsgSize", low=SIZE.low, high=SIZE.high, default=default)


def _read_body(text: str) -> bytes:
    if not text:
        raise failure((4000, 10120), "message body is empty")
    return text.encode()


def _check_sizes(bodies: Collection[bytes], *, topic: Topic) -> None:
    if any(len(body) > topic.max_message_bytes for body in bodies):
        raise failure((4400, 10230), f"message is larger than {topic.max_message_bytes} bytes")


def _read_tags(params: Params) -> tuple[str, ...]:
    tags = optional_array(params, "msgTag") or ()
    with told_as((4000, 10720)):
        limits.check_count(tags, parameter="msgTag", most=limits.MESSAGE_TAGS_MAX)
    return limits.check_message_tags(tags)


def _read_routing_key(params: Params) -> str:
    """The routing key; "" for none, which clients write as an empty text."""
    key = params.get("routingKey", "")
    with told_as((4000, 10691)):
        limits.check_dots(key, parameter="routingKey")
    return limits.check_words(key, parameter="routingKey") if key else ""
