"""The wiring: opens the store, the engine and the broker, builds the rooms, introduces them.

One task group holds everything that runs. SIGTERM and SIGINT drain it: no new calls, those under
way are answered, then the loops end. Running commands go on; the next start finds them.
"""

import fcntl
import os
import resource
import signal
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import uvicorn
from anyio.abc import TaskStatus
from cryptography.fernet import MultiFernet

from gateway import ids
from gateway.administration import migrate_database
from gateway.authn import Authenticator
from gateway.authn.issuers import read_issuers
from gateway.authn.jwt import JwtAuthenticator
from gateway.authn.replay import ReplayGuard
from gateway.authn.signed import ClassicAuthenticator, Tc3Authenticator
from gateway.batch import retention as batch_retention
from gateway.batch.api import BatchApi
from gateway.batch.attributes import attributes_of as batch_attributes_of
from gateway.batch.auditing.auditor import Auditor
from gateway.batch.catalogue import read_catalogue
from gateway.batch.engines import Engine
from gateway.batch.engines.local import machine_memory_gib, open_local_engine
from gateway.batch.environments.keeper import Keeper
from gateway.batch.launching import build_launcher
from gateway.batch.rules import Rules
from gateway.batch.scheduler import Scheduler
from gateway.batch.secrets import Vault
from gateway.batch.slots import Load
from gateway.batch.storage import Keys, Storage
from gateway.batch.storage.local import LocalStorage
from gateway.batch.storage.nfs import NfsRoot
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
from gateway.collector import spare_what_stays
from gateway.config import Settings, SettingsError
from gateway.context import Edge
from gateway.events import relay
from gateway.events import retention as event_retention
from gateway.events.bus import Bus
from gateway.events.rabbitmq import open_rabbitmq
from gateway.events.shortcut import Shortcut
from gateway.following import Follower
from gateway.health import Health
from gateway.http_protocol import HttpProtocol
from gateway.installation import claim_folder
from gateway.loops import Loop, keep_running
from gateway.pipeline import Pipeline
from gateway.policy.decision_point import DecisionPoint
from gateway.server import create_api, create_management
from gateway.service import Service
from gateway.store import Store, Tx, open_store
from gateway.stream import Streams
from gateway.telemetry import POLICY_GENERATION, configure_logging, log

DRAIN_S = 20
BACKLOG = 2_048
ACCEPTED_AT_ONCE = 32
"""So many connections are taken in one turn of the event loop."""
FILES_KEPT = 512  # open files for all that is no push: calls, streams, the database, commands


class Server(uvicorn.Server):
    """uvicorn without its own signal handling: the application drains as a whole."""

    def capture_signals(self) -> Any:
        """Leave the signals alone."""
        return nullcontext()


def serve(settings: Settings) -> None:
    """Serve until told to stop. Raises what makes a start impossible."""
    configure_logging()
    _raise_file_limit()
    migrate_database(settings)
    with _holding(settings.data):
        claim_folder(settings)
        anyio.run(_run, settings, backend_options={"use_uvloop": True})


def _raise_file_limit() -> None:
    """Take as many open files as this process may have: a thousand subscribers hold a thousand."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _push_places() -> int:
    """How many pushes of each kind may be under way, for calls to find open files left."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return pusher.PLACES_MAX
    return max(1, min(pusher.PLACES_MAX, (files - FILES_KEPT) // 2))


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
        api_socket = stack.enter_context(listen(settings.host, settings.port))
        management_socket = stack.enter_context(listen(settings.host, settings.management_port))
        store = await stack.enter_async_context(open_store(settings.resolved_database_url))
        engine = await stack.enter_async_context(_open_engine(settings))
        bus = await _open_bus(settings, stack, store=store)
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
        sealer = keys.open_sealer(settings.data / "sealing.key")
        secrets = Secrets(sealer.encrypt, sealer.decrypt)
        batch, batch_loops = _build_batch(
            settings, store=store, bus=bus, engine=engine, sealer=sealer
        )
        upstreams: Mapping[str, Upstream] = {
            "batch": batch,
            **_build_cam(store, sealer=sealer, policies=policies, decisions=decisions),
            **_build_cmq(settings, store=store, bus=bus, secrets=secrets),
        }
        pipeline = _build_pipeline(
            settings,
            store=store,
            sealer=sealer,
            upstreams=upstreams,
            policies=policies,
            decisions=decisions,
        )
        streams = Streams(pipeline, Follower(store), clock=now)
        api = create_api(pipeline, streams=streams, clock=now, new_request_id=ids.new_request_id)
        health = _build_health(settings, store=store, bus=bus)
        management = create_management(health.readiness)
        loops: dict[str, Loop] = {
            "health": health.run,
            "decisions": decisions.run,
            "decision_retention": _build_decision_retention(
                settings, store=store, decisions=decisions
            ),
            "policies": _build_watch(folder, policies=policies, loaded=loaded),
            "relay": partial(relay.run, store, bus, subscribers=subscribers, clock=now),
            "pusher": _build_pushing(settings, store=store, secrets=secrets),
            "queue_retention": partial(retention.run, store, clock=now),
            "event_retention": _build_event_retention(settings, store=store),
            **batch_loops,
            "auditor": Auditor(store, deliveries=completeness).run,
        }
        async with anyio.create_task_group() as tasks:
            for name, loop in loops.items():
                await tasks.start(partial(keep_running, loop, name=name))
            apps = [(api, copies_of(api_socket)), (management, [management_socket])]
            await _serve_until_signal(health, apps, drain=streams.drain)
            tasks.cancel_scope.cancel()


@asynccontextmanager
async def _open_engine(settings: Settings) -> AsyncIterator[Engine]:
    capacity = settings.instances_per_core * (os.cpu_count() or 1)
    root = settings.data.resolve() / "engine"
    mem_gib = settings.memory_gib or max(1, int(machine_memory_gib()))
    async with open_local_engine(
        root,
        isolation=settings.isolation or None,
        capacity=capacity,
        mem_gib=mem_gib,
        sandbox_folders=settings.split_sandbox_folders,
    ) as engine:
        yield engine


async def _open_bus(settings: Settings, stack: AsyncExitStack, *, store: Store) -> Bus | None:
    """The broker; None without one. Raises SettingsError if it is wanted: nobody would be told."""
    if not settings.amqp_url:
        if bound := await store.read_list(subscribers.list_bound_topics):
            raise SettingsError(
                f"`amqp_url` is empty, and {len(bound)} topics have `amqp` subscriptions: set it, "
                "and their messages wait for that broker; or delete those subscriptions before"
            )
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


def _read_rules(settings: Settings) -> Rules:
    """What Batch accepts here. Raises SettingsError for a catalogue that cannot be used."""
    return Rules(
        catalogue=read_catalogue(settings.catalogue),
        xml_only=settings.cos_forms == "xml",
        quotas=settings.limits == "cloud",
    )


def _build_event_retention(settings: Settings, *, store: Store) -> Loop:
    keep_days = settings.events_keep_days
    return partial(
        event_retention.run, store, subscribers=subscribers, keep_days=keep_days, clock=now
    )


def _build_decision_retention(settings: Settings, *, store: Store, decisions: DecisionLog) -> Loop:
    return partial(
        decision_retention.run,
        store,
        keep_days=settings.decisions_keep_days,
        clock=now,
        current_chain=lambda: decisions.chain,
    )


def _build_watch(
    folder: identities.PolicyFolder, *, policies: DecisionPoint, loaded: identities.Fingerprint
) -> Loop:
    def watch(*, task_status: TaskStatus[None]) -> Coroutine[Any, Any, None]:
        return identities.watch(
            folder,
            current=policies.snapshot,
            loaded=loaded,
            swap=policies.swap,
            task_status=task_status,
        )

    return watch


def _build_batch(
    settings: Settings, *, store: Store, bus: Bus | None, engine: Engine, sealer: MultiFernet
) -> tuple[Upstream, Mapping[str, Loop]]:
    """The Batch API, and the loops that carry out what it was asked for."""
    rules, load = _read_rules(settings), Load()
    vault = Vault(sealer.encrypt, sealer.decrypt)
    api = BatchApi(
        store, engine, _has_topic, clock=now, new_id=ids.new_id, vault=vault, rules=rules, load=load
    )
    loops: Mapping[str, Loop] = {
        "scheduler": _build_scheduling(
            settings, store=store, bus=bus, engine=engine, vault=vault, rules=rules, load=load
        ),
        "environments": Keeper(
            store, rules.catalogue, node_path=engine.node_path, clock=now, new_id=ids.new_id
        ).run,
        "batch_retention": partial(
            batch_retention.run, store, engine, keep_days=settings.logs_keep_days, clock=now
        ),
    }
    return Service(api.operations), loops


def _build_scheduling(
    settings: Settings,
    *,
    store: Store,
    bus: Bus | None,
    engine: Engine,
    vault: Vault,
    rules: Rules,
    load: Load,
) -> Loop:
    """A scheduler, and a new one if it fails: what the old one knew may be wrong."""
    storage = _open_storage(settings)
    servers = NfsRoot(Path(settings.mount_root or settings.data / "nfs").resolve())
    append = Shortcut(subscribers, final=bus is None).append

    def schedule(*, task_status: TaskStatus[None]) -> Coroutine[Any, Any, None]:
        launcher = build_launcher(
            store,
            engine,
            storage=storage,
            servers=servers,
            vault=vault,
            processes_max=settings.processes_max,
            clock=now,
        )
        scheduler = Scheduler(
            store,
            engine,
            launcher,
            clock=now,
            new_id=ids.new_id,
            catalogue=rules.catalogue,
            load=load,
            append=append,
        )
        return scheduler.run(task_status=task_status)

    return schedule


def _open_storage(settings: Settings) -> Storage:
    """Where `cos://` leads."""
    if not settings.cos_endpoint:
        return LocalStorage(settings.data.resolve() / "cos")
    # Imported here because it is large, and most set-ups never need it.
    from gateway.batch.storage.s3 import S3Storage  # noqa: PLC0415
    from gateway.batch.storage.s3_clients import Clients  # noqa: PLC0415

    own = None
    if settings.cos_access_key:
        own = Keys(settings.cos_access_key, settings.cos_secret_key)
    return S3Storage(Clients(settings.cos_endpoint, keys=own, region=settings.region))


def _build_pushing(settings: Settings, *, store: Store, secrets: Secrets) -> Loop:
    """The loop that pushes to HTTP subscribers. Raises SettingsError for what is no network."""
    return partial(
        pusher.run,
        store,
        secrets=secrets,
        reach=Reach.of(settings),
        clock=now,
        fraction=ids.random_fraction,
        new_request_id=ids.new_request_id,
        pause_after_s=settings.push_pause_after_s,
        places=_push_places(),
    )


def _build_health(settings: Settings, *, store: Store, bus: Bus | None) -> Health:
    return Health(
        store,
        data=settings.data,
        embedded=not settings.database_url,
        with_broker=bus is not None,
        clock=now,
    )


def _build_cam(
    store: Store, *, sealer: MultiFernet, policies: DecisionPoint, decisions: DecisionLog
) -> dict[str, Upstream]:
    """The APIs of identities and of temporary keys."""
    tokens = sts.build_service(store, sealer=sealer, snapshot=lambda: policies.snapshot, clock=now)
    return {"cam": cam_api.build_service(store, decisions), "sts": tokens}


def _build_cmq(
    settings: Settings, *, store: Store, bus: Bus | None, secrets: Secrets
) -> dict[str, Upstream]:
    """Both APIs of topics and queues."""
    cloud_limits = settings.limits == "cloud"
    common: dict[str, Any] = {"clock": now, "new_id": ids.new_id, "reach": Reach.of(settings)}
    tdmq = build_service(store, bus, secrets=secrets, cloud_limits=cloud_limits, **common)
    classic = ClassicService(store, bus, cloud_limits=cloud_limits, **common)
    return {"tdmq": tdmq, "cmq": classic}


def _build_pipeline(
    settings: Settings,
    *,
    store: Store,
    sealer: MultiFernet,
    upstreams: Mapping[str, Upstream],
    policies: DecisionPoint,
    decisions: DecisionLog,
) -> Pipeline:
    root = root_key(settings)
    ring = keys.KeyRing(store, sealer=sealer, fixed={root.secret_id: root}, clock=now)
    authenticators: list[Authenticator] = [Tc3Authenticator(ring), ClassicAuthenticator(ring)]
    if settings.jwt_issuers:
        authenticators.append(JwtAuthenticator(read_issuers(Path(settings.jwt_issuers))))
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


def _has_topic(tx: Tx, *, owner_uin: str, region: str, name: str) -> bool:
    return topics.find_topic(tx, owner_uin, region=region, name=name) is not None


def root_key(settings: Settings) -> Key:
    """The root account's key: as set, else from `root.env`, made at the first start."""
    if settings.root_secret_id and settings.root_secret_key:
        principal = Principal(settings.root_uin, settings.root_uin, "root")
        return Key(settings.root_secret_id, settings.root_secret_key, principal)
    return keys.open_root_key(
        settings.data / "root.env", uin=settings.root_uin, region=settings.region
    )


def listen(host: str, port: int) -> socket.socket:
    """Take connections at an address. Raises SettingsError if it cannot be had."""
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


def copies_of(listener: socket.socket) -> list[socket.socket]:
    """The listener and copies of it, all of which the server closes.

    Why: at one turn the event loop takes one connection from each, and answers every call of those
    it has. When many connect at once, the last would wait for as many turns.
    """
    return [listener, *(listener.dup() for _ in range(ACCEPTED_AT_ONCE - 1))]


async def _serve_until_signal(
    health: Health, apps: list[tuple[Any, list[socket.socket]]], *, drain: Callable[[], None]
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
            listeners,
        )
        for app, listeners in apps
    ]
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with anyio.create_task_group() as tasks:
            for server, listeners in servers:
                tasks.start_soon(partial(server.serve, sockets=listeners))
            spare_what_stays()
            health.ready()
            host, port = apps[0][1][0].getsockname()[:2]
            management_port = apps[1][1][0].getsockname()[1]
            log.info("serving", host=host, port=port, management_port=management_port)
            async for number in signals:
                log.info("draining", signal=number.name)
                health.draining()
                drain()
                for server, _ in servers:
                    server.should_exit = True
                break
