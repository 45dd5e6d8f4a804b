"""A caller of the CMQ services, who goes by a time that tests move on."""

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from ipaddress import ip_network
from typing import Any

from cryptography.fernet import Fernet

from gateway import ids
from gateway.call import Call, Decision, Effect, Grant, Principal, Reason
from gateway.clock import Clock
from gateway.cmq import subscribers
from gateway.cmq.classic import ClassicService
from gateway.cmq.push.addresses import Reach
from gateway.cmq.push.secrets import Secrets
from gateway.cmq.tdmq.api import build_service
from gateway.events import relay
from gateway.store import Store
from tests.support.events import NOW, OWNER, REGION
from tests.support.fake_bus import FakeBus

EVERYWHERE = Reach((ip_network("0.0.0.0/0"), ip_network("::/0")))


def new_secrets() -> Secrets:
    """Secrets that are sealed with a key of their own."""
    sealer = Fernet(Fernet.generate_key())
    return Secrets(sealer.encrypt, sealer.decrypt)


class Cmq:
    """A caller of both services, and the time they go by."""

    def __init__(
        self,
        store: Store,
        bus: FakeBus | None,
        *,
        cloud_limits: bool = False,
        reach: Reach = EVERYWHERE,
    ) -> None:
        self.store = store
        self.bus = bus
        self.now: datetime = NOW
        self.clock: Clock = lambda: self.now
        world: dict[str, Any] = {"clock": self._read_clock, "new_id": ids.new_id}
        world |= {"cloud_limits": cloud_limits, "reach": reach}
        self._api = build_service(store, bus, secrets=new_secrets(), **world)
        self._classic = ClassicService(store, bus, **world)

    async def call(
        self, action: str, /, *, owner: str = OWNER, region: str = REGION, **params: Any
    ) -> dict[str, Any]:
        """Call an action of tdmq; returns the members of its response."""
        reply = await self._api(self._call("tdmq", action, region, params), self._grant(owner))
        members: dict[str, Any] = json.loads(reply.members)
        return members

    async def classic(self, action: str, params: Mapping[str, str]) -> dict[str, Any]:
        """Call a classic action; returns the members of its answer."""
        call = self._call("cmq", action, REGION, params)
        members: dict[str, Any] = json.loads(
            (await self._classic(call, self._grant(OWNER))).members
        )
        return members

    async def receive(self, queue: str = "events") -> dict[str, Any]:
        """Receive one message, without waiting."""
        return await self.classic("ReceiveMessage", {"queueName": queue})

    async def expand(self) -> None:
        """Do what the relay does when it is woken."""
        await self.store.write(
            lambda tx: relay.expand(tx, subscribers, now=self.now, final=self.bus is None)
        )

    async def subscribe_queue(self, **params: Any) -> None:
        """Make topic `job-message`, queue `events`, and subscribe the one to the other."""
        await self.call("CreateCmqTopic", TopicName="job-message")
        await self.call("CreateCmqQueue", QueueName="events")
        subscription = self.subscription("s1", "events")
        await self.call("CreateCmqSubscribe", **subscription, **params)

    @staticmethod
    def subscription(name: str, endpoint: str, protocol: str = "queue") -> dict[str, Any]:
        return {
            "TopicName": "job-message",
            "SubscriptionName": name,
            "Protocol": protocol,
            "Endpoint": endpoint,
        }

    def pass_time(self, **amount: int) -> None:
        self.now += timedelta(**amount)

    def _read_clock(self) -> datetime:
        return self.clock()

    def _call(self, service: str, action: str, region: str, params: Mapping[str, Any]) -> Call:
        return Call(
            request_id="r",
            service=service,
            version="2020-02-17" if service == "tdmq" else "classic",
            action=action,
            region=region,
            params=params,
            source_ip="127.0.0.1",
            received_at=self.now,
        )

    @staticmethod
    def _grant(owner: str) -> Grant:
        decision = Decision(Effect.ALLOW, Reason.ROOT, resource=None, generation=1)
        return Grant(Principal(owner_uin=owner, uin=owner, name="root"), decision)


def topic_row(number: int) -> dict[str, Any]:
    """The row of a topic that only takes a place."""
    name = f"n{number}"
    row: dict[str, Any] = {"id": f"topic-{number}", "name": name, "key": f"{OWNER}/{REGION}/{name}"}
    row |= {"owner_uin": OWNER, "region": REGION, "max_message_bytes": 1_024, "filter_type": 1}
    row |= {"retention_s": 60, "trace": False, "created_by": OWNER}
    return row | {"created_at": NOW, "modified_at": NOW}


def subscription_row(number: int, topic_id: str) -> dict[str, Any]:
    """The row of a subscription that only takes a place."""
    row: dict[str, Any] = {"id": f"subsc-{number}", "topic_id": topic_id, "protocol": "http"}
    row |= {"name": f"n{number}", "name_key": f"n{number}", "endpoint": "http://example.com/"}
    row |= {"notify_strategy": "BACKOFF_RETRY", "notify_content_format": "JSON"}
    return row | {"filter_tags": "[]", "binding_keys": "[]", "created_at": NOW, "modified_at": NOW}
