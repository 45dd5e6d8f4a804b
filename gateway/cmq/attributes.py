"""The resources of this room that carry tags: topics and queues, which policies name by name."""

from collections.abc import Mapping

from gateway.attributes import Attributes, Kind
from gateway.call import Resource
from gateway.cmq.naming import key_of
from gateway.cmq.tables import queue, tag, topic
from gateway.store import Store


def _key_of(resource: Resource, name: str) -> str:
    return key_of(resource.owner_uin, region=resource.region, name=name)


TOPIC = Kind(topic, name=topic.c.name, key=topic.c.key, tags=tag, key_of=_key_of)
QUEUE = Kind(queue, name=queue.c.name, key=queue.c.key, tags=tag, key_of=_key_of)
KINDS: Mapping[str, Kind] = {"topic": TOPIC, "queue": QUEUE}


def attributes_of(store: Store) -> Attributes:
    """Tells the decision what they carry; calls of the classic API are decided on them, too."""
    return Attributes(store, service="tdmq", kinds=KINDS)
