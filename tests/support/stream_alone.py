"""An API that serves nothing but the stream of events, in this process, with small limits."""

import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any

import anyio
import anyio.from_thread
import jwt
import uvicorn
from anyio.from_thread import BlockingPortal

from gateway.app import Server
from gateway.authn.jwt import Algorithm, Issuer, JwtAuthenticator
from gateway.authn.replay import ReplayGuard
from gateway.authn.signed import Tc3Authenticator
from gateway.call import Key, Principal
from gateway.cam.decisions.log import find_decision
from gateway.clock import now
from gateway.cmq import subscribers
from gateway.cmq.attributes import attributes_of
from gateway.context import Edge
from gateway.events import outbox
from gateway.events import retention as event_retention
from gateway.events.messages import Event
from gateway.events.names import EventName
from gateway.events.outbox import Stream
from gateway.following import Follower
from gateway.http_protocol import HttpProtocol
from gateway.ids import new_request_id
from gateway.pipeline import Pipeline
from gateway.policy.accounts import Account, CustomPolicy, User
from gateway.policy.decision_point import DecisionPoint
from gateway.policy.plans import PlanEvaluator
from gateway.policy.snapshot import Snapshot, build_snapshot
from gateway.server import create_api
from gateway.store import Store, open_store
from gateway.stream import Limits, Streams
from tests.policy.policies import allow, document
from tests.support.cmq import Cmq
from tests.support.decisions import decision_log
from tests.support.event_stream import reading
from tests.support.running import REGION, Credentials
from tests.support.services import LOOPBACK

OWNER, OTHER = "100000000001", "100000000002"
SECRET = "a secret of the issuer and of the gateway alone"
ANN = Credentials("AKIDann", "secret-of-ann")
BOB = Credentials("AKIDbob", "secret-of-bob")
ROOT = Credentials("AKIDroot", "secret-of-root")
STRANGER = Credentials("AKIDstranger", "secret-of-stranger")
PEOPLE = {
    ANN: Principal(OWNER, "200", "ann"),
    BOB: Principal(OWNER, "201", "bob"),
    ROOT: Principal(OWNER, OWNER, "root"),
    STRANGER: Principal(OTHER, OTHER, "stranger"),
}
SMALL = Limits(
    streams_max=5,
    streams_per_account_max=3,
    streams_per_user_max=2,
    lifetime_s=60,
    idle_s=0.2,
    write_s=0.5,
    recheck_s=0.1,
)
A, B, ENV = "job-aaaaaaaa", "job-bbbbbbbb", "env-aaaaaaaa"
EVERYTHING = [allow("*")]


class KeyRing:
    """Keys in memory, which may be taken away."""

    def __init__(self) -> None:
        self.keys = {
            who.secret_id: Key(who.secret_id, who.secret_key, principal)
            for who, principal in PEOPLE.items()
        }

    async def find_key(self, secret_id: str) -> Key | None:
        return self.keys.get(secret_id)


def snapshot_of(*statements: Any, generation: int = 1) -> Snapshot:
    """Ann and bob with these statements, and another account with nobody but its root."""
    own = ("own",) if statements else ()
    users = (User("ann", "200", policies=own), User("bob", "201", policies=own))
    policies = (CustomPolicy("own"),) if statements else ()
    documents = {"own": document("own", statements)} if statements else {}
    accounts = [Account(OWNER, users=users, policies=policies), Account(OTHER)]
    return build_snapshot(accounts, presets={}, custom={OWNER: documents}, generation=generation)


class World:
    """An API that serves nothing but the stream, in this process."""

    def __init__(self, portal: BlockingPortal, store: Store, limits: Limits) -> None:
        self.portal = portal
        self.store = store
        self.cmq = Cmq(store, None)
        self.ring = KeyRing()
        self.policies = DecisionPoint(PlanEvaluator(), snapshot_of(*EVERYTHING))
        self.decisions = decision_log(store)
        issuer = Issuer(
            "https://login.test", Algorithm.HS256, SECRET, "qcs-gateway", frozenset({OWNER})
        )
        pipeline = Pipeline(
            authenticators=[Tc3Authenticator(self.ring), JwtAuthenticator([issuer])],
            replay=ReplayGuard(),
            policies=self.policies,
            decisions=self.decisions,
            attributes={"tdmq": attributes_of(store)},
            upstreams={},
            default_region=REGION,
            edge=Edge(),
        )
        self.streams = Streams(pipeline, Follower(store), clock=now, limits=limits)
        self.api = create_api(
            pipeline, streams=self.streams, clock=now, new_request_id=new_request_id
        )
        self.port = 0
        self._generation = 1

    def allow(self, *statements: Any) -> None:
        """From now on ann and bob have these statements and nothing else."""
        self._generation += 1
        self.policies.swap(snapshot_of(*statements, generation=self._generation))

    def tell(
        self,
        stream_id: str = A,
        name: EventName = EventName.JOB_RUNNING,
        *,
        owner: str = OWNER,
        region: str = REGION,
        **batch: Any,
    ) -> None:
        """Let something have happened."""
        self.tell_all(stream_id, [Event(name, stream_id, batch)], owner=owner, region=region)

    def tell_all(
        self, stream_id: str, events: Sequence[Event], *, owner: str = OWNER, region: str = REGION
    ) -> None:
        stream = Stream(stream_id, owner, region)
        self.portal.call(
            self.store.write,
            lambda tx: outbox.append(tx, stream, events, notifications=[], now=now()),
        )

    def subscribe(self, topic: str, name: str = "s", **tags: str) -> str:
        """Make a topic with these tags, and a subscription to it; returns the latter's id."""
        pairs = [{"TagKey": key, "TagValue": value} for key, value in tags.items()]
        self.call("CreateCmqTopic", TopicName=topic, Tags=pairs)
        to = {"Protocol": "http", "Endpoint": "https://hooks.example.com/"}
        made = self.call("CreateCmqSubscribe", TopicName=topic, SubscriptionName=name, **to)
        return str(made["SubscriptionId"])

    def pause(self, subscription_id: str, topic: str, name: str = "s") -> None:
        """Let a subscription have been paused."""
        batch = {"TopicName": topic, "SubscriptionName": name}
        self.tell(subscription_id, EventName.SUBSCRIPTION_PAUSED, **batch)

    def call(self, action: str, **params: Any) -> dict[str, Any]:
        """Call an action of tdmq as the root account, past all policies."""
        return self.portal.call(partial(self.cmq.call, action, **params))

    def forget(self) -> None:
        """Let retention delete what it may, however young."""
        prune = partial(event_retention.prune, subscribers=subscribers, before=now())
        self.portal.call(prune, self.store)

    def token(self, **changes: Any) -> str:
        issued = int(now().timestamp())
        claims = {"iss": "https://login.test", "aud": "qcs-gateway", "iat": issued}
        claims |= {"exp": issued + 600, "uin": "200", "name": "ann", **changes}
        return jwt.encode(claims, SECRET, algorithm="HS256")

    def read(self, who: Credentials | str = ANN, **options: Any) -> Any:
        return reading(self.port, who, **options)

    def record(self, request_id: str) -> Any:
        self.portal.call(self.decisions.flush)
        return self.portal.call(self.store.read_point, lambda tx: find_decision(tx, request_id))

    def open_streams(self) -> int:
        return len(self.streams._open)  # noqa: SLF001  # what the metric shows


@contextmanager
def running(url: str, limits: Limits = SMALL) -> Iterator[World]:
    with (
        anyio.from_thread.start_blocking_portal(backend_options={"use_uvloop": True}) as portal,
        portal.wrap_async_context_manager(open_store(url)) as store,
    ):
        world = World(portal, store, limits)
        with portal.wrap_async_context_manager(serving(world)):
            yield world


@asynccontextmanager
async def serving(world: World) -> AsyncIterator[None]:
    """Serve and record, on a port of its own."""
    listener = socket.create_server((LOOPBACK, 0))
    world.port = listener.getsockname()[1]
    config = uvicorn.Config(
        world.api, http=HttpProtocol, ws="none", lifespan="off", log_config=None
    )
    server = Server(config)
    async with anyio.create_task_group() as recording:
        await recording.start(world.decisions.run)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.serve, [listener])
            yield
            world.streams.drain()
            server.should_exit = True
        recording.cancel_scope.cancel()
