"""The wiring: opens the store, the engine and the broker, builds the rooms, introduces them.

One task group holds everything that runs. SIGTERM and SIGINT drain it: no new calls, those under
way are answered, then the loops end. Running commands go on; the next start finds them.
"""

import fcntl
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import uvicorn

from gateway import ids
from gateway.administration import migrate_database
from gateway.authn import Authenticator
from gateway.authn.issuers import read_issuers
from gateway.authn.jwt import JwtAuthenticator
from gateway.authn.replay import ReplayGuard
from gateway.authn.signed import ClassicAuthenticator, Tc3Authenticator
from gateway.batch.api import BatchApi
from gateway.batch.attributes import attributes_of as batch_attributes_of
from gateway.batch.auditor import Auditor
from gateway.batch.engines import Engine
from gateway.batch.engines.local import open_local_engine
from gateway.batch.redirection import Redirector
from gateway.batch.scheduler import Scheduler
from gateway.batch.storage.local import LocalStorage
from gateway.call import Key, Principal, Upstream
from gateway.cam import api as cam_api
from gateway.cam import identities, keys, sts
from gateway.cam.decisions import retention as decision_retention
from gateway.cam.decisions.log import DecisionLog, Overflow
from gateway.clock import now
from gateway.cmq import completeness, retention, subscribers, topics
from gateway.cmq.attributes import attributes_of as cmq_attributes_of
from gateway.cmq.classic import ClassicService
from gateway.cmq.push import pusher
from gateway.cmq.push.addresses import Reach
from gateway.cmq.push.secrets import Secrets
from gateway.cmq.tdmq.api import build_service
from gateway.config import Settings, SettingsError
from gateway.context import Edge
from gateway.events import relay
from gateway.events import retention as event_retention
from gateway.events.bus import Bus
from gateway.events.rabbitmq import open_rabbitmq
from gateway.following import Follower
from gateway.health import Health
from gateway.pipeline import Pipeline
from gateway.policy.decision_point import DecisionPoint
from gateway.server import HttpProtocol, create_api, create_management
from gateway.service import Service
from gateway.store import Store, Tx, open_store
from gateway.stream import Streams
from gateway.telemetry import POLICY_GENERATION, configure_logging, log

DRAIN_S = 20
BACKLOG = 2_048


class Server(uvicorn.Server):
    """uvicorn without its own signal handling: the application drains as a whole."""

    def capture_signals(self) -> Any:
        """Leave the signals alone."""
        return nullcontext()


def serve(settings: Settings) -> None:
    """Serve until told to stop. Raises what makes a start impossible."""
    configure_logging()
    migrate_database(settings)
    with _holding(settings.data):
        anyio.run(_run, settings, backend_options={"use_uvloop": True})


@contextmanager
def _holding(folder: Path) -> Iterator[None]:
    """Hold the data folder for this process alone. Raises SettingsError if another has it."""
    with (folder / "lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SettingsError(f"another gateway is using the folder {folder}") from error
        yield


async def _run(settings: Settings) -> None:
    async with AsyncExitStack() as stack:
        api_socket = stack.enter_context(_listen(settings.host, settings.port))
        management_socket = stack.enter_context(_listen(settings.host, settings.management_port))
        store = await stack.enter_async_context(open_store(settings.resolved_database_url))
        engine = await stack.enter_async_context(_open_engine(settings))
        bus = await _open_bus(settings, stack)
        folder = identities.PolicyFolder.of(settings)
        folder.check_model()
        loaded = folder.fingerprint()
        policies = DecisionPoint(
            identities.open_evaluator(settings, folder), folder.read_snapshot(generation=1)
        )
        POLICY_GENERATION.set(1)
        decisions = DecisionLog(
            store, clock=now, new_id=ids.new_id, overflow=Overflow(settings.decisions_overflow)
        )
        pipeline = _build_pipeline(
            settings, store=store, engine=engine, bus=bus, policies=policies, decisions=decisions
        )
        streams = Streams(pipeline, Follower(store), clock=now)
        api = create_api(pipeline, streams=streams, clock=now, new_request_id=ids.new_request_id)
        health = Health(
            store,
            data=settings.data,
            embedded=not settings.database_url,
            with_broker=bus is not None,
            clock=now,
        )
        management = create_management(health.readiness)
        async with anyio.create_task_group() as tasks:
            await tasks.start(health.run)
            await tasks.start(decisions.run)
            await tasks.start(_build_decision_retention(settings, store=store, decisions=decisions))
            await tasks.start(
                partial(
                    identities.watch,
                    folder,
                    current=policies.snapshot,
                    loaded=loaded,
                    swap=policies.swap,
                )
            )
            await tasks.start(partial(relay.run, store, bus, subscribers=subscribers, clock=now))
            await tasks.start(_build_pushing(settings, store=store))
            await tasks.start(partial(retention.run, store, clock=now))
            await tasks.start(_build_event_retention(settings, store=store))
            await tasks.start(_build_scheduler(settings, store=store, engine=engine).run)
            await tasks.start(_build_auditor(settings, store=store).run)
            apps = [(api, api_socket), (management, management_socket)]
            await _serve_until_signal(health, apps, drain=streams.drain)
            tasks.cancel_scope.cancel()


@asynccontextmanager
async def _open_engine(settings: Settings) -> AsyncIterator[Engine]:
    capacity = settings.instances_per_core * (os.cpu_count() or 1)
    root = settings.data.absolute() / "engine"
    async with open_local_engine(
        root, isolation=settings.isolation or None, capacity=capacity
    ) as engine:
        yield engine


async def _open_bus(settings: Settings, stack: AsyncExitStack) -> Bus | None:
    if not settings.amqp_url:
        return None
    bus: Bus = await stack.enter_async_context(
        open_rabbitmq(
            settings.amqp_url,
            confirm_s=settings.confirm_s,
            ca_file=settings.amqp_ca_file,
            cert_file=settings.amqp_cert_file,
            key_file=settings.amqp_key_file,
        )
    )
    return bus


def _build_event_retention(
    settings: Settings, *, store: Store
) -> Callable[..., Coroutine[Any, Any, None]]:
    keep_days = settings.events_keep_days
    return partial(
        event_retention.run, store, subscribers=subscribers, keep_days=keep_days, clock=now
    )


def _build_decision_retention(
    settings: Settings, *, store: Store, decisions: DecisionLog
) -> Callable[..., Coroutine[Any, Any, None]]:
    return partial(
        decision_retention.run,
        store,
        keep_days=settings.decisions_keep_days,
        clock=now,
        current_chain=lambda: decisions.chain,
    )


def _build_scheduler(settings: Settings, *, store: Store, engine: Engine) -> Scheduler:
    storage = LocalStorage(settings.data.absolute() / "cos")
    return Scheduler(store, engine, Redirector(engine, storage), clock=now, new_id=ids.new_id)


def _build_auditor(settings: Settings, *, store: Store) -> Auditor:
    return Auditor(store, deliveries=completeness, keep_days=settings.events_keep_days, clock=now)


def _build_pushing(settings: Settings, *, store: Store) -> Callable[..., Coroutine[Any, Any, None]]:
    """The loop that pushes to HTTP subscribers. Raises SettingsError for what is no network."""
    return partial(
        pusher.run,
        store,
        secrets=_open_secrets(settings),
        reach=Reach.of(settings),
        clock=now,
        fraction=ids.random_fraction,
        new_request_id=ids.new_request_id,
        pause_after_s=settings.push_pause_after_s,
    )


def _open_secrets(settings: Settings) -> Secrets:
    """The secrets of HTTP subscribers, sealed as access keys are."""
    sealer = keys.open_sealer(settings.data / "sealing.key")
    return Secrets(sealer.encrypt, sealer.decrypt)


def _build_pipeline(
    settings: Settings,
    *,
    store: Store,
    engine: Engine,
    bus: Bus | None,
    policies: DecisionPoint,
    decisions: DecisionLog,
) -> Pipeline:
    root = root_key(settings)
    sealer = keys.open_sealer(settings.data / "sealing.key")
    ring = keys.KeyRing(
        store,
        sealer=sealer,
        fixed={root.secret_id: root},
        clock=now,
    )
    authenticators: list[Authenticator] = [Tc3Authenticator(ring), ClassicAuthenticator(ring)]
    if settings.jwt_issuers:
        authenticators.append(JwtAuthenticator(read_issuers(Path(settings.jwt_issuers))))
    batch = BatchApi(store, engine, _topic_exists, clock=now, new_id=ids.new_id)
    cloud_limits = settings.limits == "cloud"
    upstreams: Mapping[str, Upstream] = {
        "batch": Service(batch.operations),
        "cam": cam_api.build_service(store, decisions),
        "sts": sts.build_service(
            store, sealer=sealer, snapshot=lambda: policies.snapshot, clock=now
        ),
        "tdmq": build_service(
            store,
            bus,
            secrets=_open_secrets(settings),
            clock=now,
            new_id=ids.new_id,
            cloud_limits=cloud_limits,
        ),
        "cmq": ClassicService(store, bus, clock=now, new_id=ids.new_id, cloud_limits=cloud_limits),
    }
    tagged = cmq_attributes_of(store)  # a classic call is decided on the names of tdmq
    return Pipeline(
        authenticators=authenticators,
        replay=ReplayGuard(strict=settings.signature_binding == "strict"),
        policies=policies,
        decisions=decisions,
        attributes={"batch": batch_attributes_of(store), "tdmq": tagged, "cmq": tagged},
        upstreams=upstreams,
        default_region=settings.region,
        edge=Edge.of(settings),
    )


def _topic_exists(tx: Tx, *, owner_uin: str, region: str, name: str) -> bool:
    return topics.find_topic(tx, owner_uin, region=region, name=name) is not None


def root_key(settings: Settings) -> Key:
    """The root account's key: as set, else from `root.env`, made at the first start."""
    if settings.root_secret_id and settings.root_secret_key:
        principal = Principal(settings.root_uin, settings.root_uin, "root")
        return Key(settings.root_secret_id, settings.root_secret_key, principal)
    return keys.open_root_key(
        settings.data / "root.env", uin=settings.root_uin, region=settings.region
    )


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise SettingsError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


async def _serve_until_signal(
    health: Health, apps: list[tuple[Any, socket.socket]], *, drain: Callable[[], None]
) -> None:
    servers = [
        (
            Server(
                uvicorn.Config(
                    app,
                    http=HttpProtocol,
                    ws="none",
                    log_config=None,
                    access_log=False,
                    server_header=False,
                    date_header=False,
                    lifespan="off",
                    timeout_graceful_shutdown=DRAIN_S,
                    proxy_headers=False,
                )
            ),
            listener,
        )
        for app, listener in apps
    ]
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with anyio.create_task_group() as tasks:
            for server, listener in servers:
                tasks.start_soon(partial(server.serve, sockets=[listener]))
            health.problems.clear()
            host, port = apps[0][1].getsockname()[:2]
            log.info("serving", host=host, port=port, management_port=apps[1][1].getsockname()[1])
            async for number in signals:
                log.info("draining", signal=number.name)
                health.problems.append("draining")
                drain()
                for server, _ in servers:
                    server.should_exit = True
                break
