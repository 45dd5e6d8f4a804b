"""What this machine allows a gateway of these settings: tried, not assumed.

Each probe does what the executor or the server would do, in a folder or a group of its own, so it
may run beside them and without them. Nothing of what it makes stays.
"""

import http.client
import logging
import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import urlsplit

import anyio
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from gateway.administration import DATA_MODE, ENGINE
from gateway.authn.issuers import read_issuers
from gateway.authn.jwt import JwtAuthenticator
from gateway.batch.catalogue import Image, read_catalogue
from gateway.batch.executor.mountinfo import mount_lines
from gateway.cam.identities import PolicyFolder
from gateway.cmq.push.addresses import Reach
from gateway.commands.findings import Finding, Verdict
from gateway.commands.machine import (
    look_at_capacity,
    look_at_containers,
    look_at_group_moves,
    look_at_isolation,
    look_at_limits,
)
from gateway.config import Settings, SettingsError
from gateway.context import Edge
from gateway.events.bus import BusRefused, BusUnavailable, LoginRefused
from gateway.events.connection import LOGIN_ERRORS, Connection, tls_context
from gateway.installation import FILE, is_claimed
from gateway.policy.refusal import PolicySetRefused
from gateway.store.migrations import HEAD, find_installation, find_revision

ANSWER_S: Final = 10.0
FREE_BYTES_LOW: Final = 1_073_741_824
FREE_BYTES_MIN: Final = 268_435_456
GIBIBYTE: Final = 1_073_741_824
NETWORK_FILE_SYSTEMS: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs"})
MOUNTED: Final = Path("/proc/self/mountinfo")
NO_HOST: Final = UnicodeError
"""What Python raises for a name that no host can have."""
T = TypeVar("T")


def diagnose(settings: Settings) -> list[Finding]:
    """Look at everything. Takes some seconds; whatever does not answer is given up."""
    data = settings.data.absolute()
    with _libraries_silent(), probing_folder(data) as folder:
        return [
            *look_at_isolation(
                folder, asked=settings.isolation, shown=settings.split_sandbox_folders
            ),
            *look_at_limits(folder),
            look_at_group_moves(read_mounts(), release=os.uname().release),
            look_at_containers(data / ENGINE),
            look_at_capacity(settings),
            look_at_catalogue(settings),
            look_at_policies(settings),
            look_at_issuers(settings),
            look_at_networks(settings),
            *look_at_data(settings),
            look_at_buckets(settings),
            look_at_shares(settings),
            look_at_database(settings),
            look_at_broker(settings),
        ]


@contextmanager
def _libraries_silent() -> Iterator[None]:
    """Keep the libraries' own lines away: what they say is in a finding, in a sentence."""
    handler = logging.NullHandler()
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)


@contextmanager
def probing_folder(data: Path) -> Iterator[Path]:
    """A folder to be reached as the executor's will be.

    As near to it as a folder is there already with the rights that a start would give it: an older
    version shut the data folder, and the next start opens the way through it.
    """
    # os.path: what this user may not enter is no folder; Path would raise.
    ours = [each for each in (data, data / ENGINE) if os.path.isdir(each)]
    if ours and all(_is_passable(each) for each in ours):
        above = ours[-1]
    else:
        above = next(each for each in data.parents if os.path.isdir(each))
    try:
        folder = Path(tempfile.mkdtemp(prefix=".doctor-", dir=above))
    except OSError:  # the folder that cannot be written to is told elsewhere
        folder = Path(tempfile.mkdtemp(prefix="qcs-gateway-doctor-"))
    folder.chmod(DATA_MODE)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _is_passable(folder: Path) -> bool:
    return stat.S_IMODE(folder.stat().st_mode) & DATA_MODE == DATA_MODE


def look_at_catalogue(settings: Settings) -> Finding:
    """Read the operator's images, instance types and machines; tell which images there are."""
    name = "catalogue"
    try:
        catalogue = read_catalogue(settings.catalogue)
    except SettingsError as error:
        return Finding(name, Verdict.WRONG, str(error), "Correct the file, or leave it out.")
    images = ", ".join(map(_told_image, catalogue.images.values()))
    which = settings.catalogue or "the built-in one"
    return Finding(name, Verdict.OK, f"{which}; images: {images}")


def _told_image(image: Image) -> str:
    cloud_init = "cloud-init" if image.has_cloud_init else "no cloud-init"
    return f"{image.id} ({image.system}, {cloud_init})"


def look_at_policies(settings: Settings) -> Finding:
    """Read the folder of policies as a start does."""
    name, folder = "policies", PolicyFolder.of(settings)
    try:
        folder.check_model()
        folder.read_snapshot(generation=1)
    except (PolicySetRefused, OSError) as error:
        advice = f"Correct it in {settings.policies}; `qcs-gateway policy lint` tells more."
        return Finding(name, Verdict.WRONG, str(error), advice)
    return Finding(name, Verdict.OK, f"{settings.policies} can be used")


def look_at_issuers(settings: Settings) -> Finding:
    """Read the trusted issuers of bearer tokens, and their keys, as a start does."""
    name, path = "issuers", settings.jwt_issuers
    if not path:
        return Finding(name, Verdict.OK, "none is set: no bearer token is taken")
    try:
        JwtAuthenticator(read_issuers(Path(path)))
    except SettingsError as error:
        return Finding(name, Verdict.WRONG, str(error), "Correct the file, or leave it out.")
    return Finding(name, Verdict.OK, f"{path} can be used")


def look_at_networks(settings: Settings) -> Finding:
    """Read the addresses of proxies and of HTTP subscribers as a start does."""
    name = "networks"
    try:
        Edge.of(settings)
        Reach.of(settings)
    except SettingsError as error:
        advice = "Write addresses such as 10.0.0.7, or networks such as 10.0.0.0/8."
        return Finding(name, Verdict.WRONG, str(error), advice)
    return Finding(name, Verdict.OK, "`trusted_proxies` and `push_networks` can be read")


def look_at_buckets(settings: Settings) -> Finding:
    """Have the service that holds the buckets answer, whatever it answers."""
    name, url = "buckets", settings.cos_endpoint
    if not url:
        return Finding(name, Verdict.OK, f"in {settings.data.absolute() / 'cos'}")
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    try:
        with closing(kind(parts.hostname or "", parts.port, timeout=ANSWER_S)) as connection:
            connection.request("HEAD", "/")
            connection.getresponse()
    except (OSError, http.client.HTTPException, NO_HOST) as error:
        advice = "Start it, or correct `cos_endpoint`: until then jobs with files of it fail."
        return Finding(name, Verdict.WRONG, f"{url} cannot be reached: {error}", advice)
    return Finding(name, Verdict.OK, f"{url} answers")


def look_at_shares(settings: Settings) -> Finding:
    """The folder in which the file servers of `cfs://` and `nfs://` are mounted."""
    name = "shares"
    folder = Path(settings.mount_root or settings.data / "nfs").absolute()
    if settings.mount_root and not os.access(folder, os.R_OK | os.X_OK):
        advice = "Make it, with a folder for each file server, or correct `mount_root`."
        return Finding(name, Verdict.WRONG, f"{folder} is no folder that can be read", advice)
    return Finding(name, Verdict.OK, f"in {folder}")


def look_at_data(settings: Settings) -> list[Finding]:
    """The folder of all state: whether it can be written to, its file system, its room."""
    data = settings.data.absolute()
    above = next(each for each in (data, *data.parents) if os.path.exists(each))
    if not os.path.isdir(above) or not os.access(above, os.W_OK | os.X_OK):
        return [
            Finding(
                "data.folder",
                Verdict.WRONG,
                f"{above} is no folder that this user can write to",
                "Give it to the user of the gateway, or set `data` to another folder.",
            )
        ]
    words = f"{data} can be written to" if above == data else f"{data} is made at the first start"
    return [
        Finding("data.folder", Verdict.OK, words),
        _look_at_file_system(settings, above),
        _look_at_room(above),
    ]


def _look_at_file_system(settings: Settings, folder: Path) -> Finding:
    kind = file_system_of(folder, read_mounts())
    name = "data.file_system"
    if kind in NETWORK_FILE_SYSTEMS and not settings.database_url:
        advice = "Set `data` to a local disk, or `database_url` to PostgreSQL."
        return Finding(name, Verdict.WRONG, f"{kind} keeps no embedded database safe", advice)
    if kind in NETWORK_FILE_SYSTEMS:
        advice = "A local disk keeps the executor's journal safer, and is faster."
        return Finding(name, Verdict.DEGRADED, f"{kind}, on another machine", advice)
    if kind in {"tmpfs", "ramfs"}:
        advice = "Set `data` to a disk, unless all may be lost with the machine's power."
        return Finding(name, Verdict.DEGRADED, f"{kind}, in memory", advice)
    return Finding(name, Verdict.OK, kind)


def read_mounts() -> str:
    """What is mounted here, as `mount_lines` reads it."""
    return MOUNTED.read_text(encoding="utf-8", errors="surrogateescape")


def file_system_of(folder: Path, mounts: str) -> str:
    """The kind of file system a folder is on, by the lines of `/proc/self/mountinfo`."""
    best, kind = Path(), "unknown"
    resolved = folder.resolve()
    for line in mount_lines(mounts):
        point = Path(line.point)
        if resolved.is_relative_to(point) and len(point.parts) >= len(best.parts):
            best, kind = point, line.kind
    return kind


def _look_at_room(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free
    words = f"{free / GIBIBYTE:.1f} GiB free"
    advice = "Make room, or lower `logs_keep_days` and `events_keep_days`."
    if free < FREE_BYTES_MIN:
        return Finding("data.room", Verdict.WRONG, words, advice)
    if free < FREE_BYTES_LOW:
        return Finding("data.room", Verdict.DEGRADED, words, advice)
    return Finding("data.room", Verdict.OK, words)


def look_at_database(settings: Settings) -> Finding:
    """Ask the database which revision it has. No word of it holds the URL's password."""
    url = settings.resolved_database_url
    shown = make_url(url).render_as_string(hide_password=True)
    advice = "Start it, or correct `database_url`; the name, the user or the password may be wrong."
    try:
        revision, name = _answer_of(lambda: (find_revision(url), find_installation(url)))
    except TimeoutError:
        return Finding("database", Verdict.WRONG, f"{shown} does not answer", advice)
    except (SQLAlchemyError, OSError, NO_HOST) as error:
        why = str(getattr(error, "orig", None) or error).strip().split("\n", 1)[0]
        return Finding("database", Verdict.WRONG, f"{shown}: {why}", advice)
    if revision is None:
        return Finding("database", Verdict.OK, f"{shown}, made at the first start")
    if revision != HEAD:
        advice = "`qcs-gateway migrate`, or the next start, brings it to this version's revision."
        return Finding("database", Verdict.DEGRADED, f"{shown}, revision {revision}", advice)
    try:
        is_claimed(settings, name=name)
    except (SettingsError, OSError) as error:
        advice = f"Until then it does not start: see {settings.data.absolute() / FILE}."
        return Finding("database", Verdict.WRONG, str(error), advice)
    return Finding("database", Verdict.OK, f"{shown}, revision {revision}")


def _answer_of(ask: Callable[[], T]) -> T:
    """What `ask` returns or raises; TimeoutError if that takes longer than ANSWER_S.

    Why a daemon thread: what hangs in it does not hold this process at its end.
    """
    answer: Future[T] = Future()

    def run() -> None:
        try:
            answer.set_result(ask())
        except Exception as error:  # raised again where it is waited for
            answer.set_exception(error)

    threading.Thread(target=run, name="asking", daemon=True).start()
    return answer.result(timeout=ANSWER_S)


def look_at_broker(settings: Settings) -> Finding:
    """Log in to RabbitMQ, if there is to be one. No word of it holds the URL's password."""
    if not settings.amqp_url:
        advice = "Set `amqp_url` if notifications are to reach RabbitMQ."
        return Finding("broker", Verdict.OK, "none is set: events go to queues and HTTP", advice)

    async def log_in() -> None:
        tls = tls_context(
            settings.amqp_url,
            ca_file=settings.amqp_ca_file,
            cert_file=settings.amqp_cert_file,
            key_file=settings.amqp_key_file,
        )
        connection = Connection(settings.amqp_url, tls=tls, answer_s=ANSWER_S)
        try:
            await connection.opened()
        finally:
            await connection.drop()

    try:
        anyio.run(log_in)
    except SettingsError as error:
        return Finding("broker", Verdict.WRONG, str(error), "Correct `amqp_url` and its files.")
    except LoginRefused as error:
        advice = "Correct `amqp_url`, its files or the broker's users: until then events wait."
        return Finding("broker", Verdict.WRONG, _why_no_entry(error), advice)
    except (BusUnavailable, BusRefused, NO_HOST) as error:
        advice = "Start it, or correct `amqp_url`: until then events wait, and none is lost."
        return Finding("broker", Verdict.WRONG, f"it cannot be reached: {error}", advice)
    return Finding("broker", Verdict.OK, "reached")


def _why_no_entry(error: LoginRefused) -> str:
    if isinstance(error.__cause__, LOGIN_ERRORS):
        return "it is there, and refuses this user or password"
    return f"it is there, and does not let us in: {error}"
