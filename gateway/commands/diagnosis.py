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
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing, contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import urlsplit

import anyio
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from gateway.administration import DATA_MODE, ENGINE
from gateway.authn.issuers import read_issuers
from gateway.authn.jwt import JwtAuthenticator
from gateway.batch.catalogue import read_catalogue
from gateway.batch.engines.local import machine_memory_gib
from gateway.batch.executor.abilities import LIMITS
from gateway.batch.executor.containers import (
    ContainersUnavailable,
    find_containers,
    prove_containers,
)
from gateway.batch.executor.control_groups import open_control_groups
from gateway.batch.executor.isolation import (
    ISOLATIONS,
    Isolation,
    IsolationUnavailable,
    isolation_named,
    with_folders,
)
from gateway.batch.executor.mounted import mount_lines
from gateway.cam.identities import PolicyFolder
from gateway.cmq.push.addresses import Reach
from gateway.config import Settings, SettingsError
from gateway.context import Edge
from gateway.events.bus import BusRefused, BusUnavailable, LoginRefused
from gateway.events.connection import LOGIN_ERRORS, Connection, tls_context
from gateway.policy.strict_toml import PolicySetRefused
from gateway.store.migrations import HEAD, find_revision

ANSWER_S: Final = 10.0
FREE_BYTES_LOW: Final = 1_073_741_824
FREE_BYTES_MIN: Final = 268_435_456
GIBIBYTE: Final = 1_073_741_824
NETWORK_FILE_SYSTEMS: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs"})
ISOLATION_WORKS: Final = {"none": "works; only for who asks for it"}
ISOLATION_ADVICE: Final = {
    "sandbox": "Install bubblewrap, and allow user namespaces if the gateway is not root.",
    "uid": "Run as root, with `data` where other users may pass through to it; or use `sandbox`.",
    "none": "A shell must be able to work in `data`.",
}
MOUNTED: Final = Path("/proc/self/mountinfo")
NO_HOST: Final = UnicodeError
"""What Python raises for a name that no host can have."""
T = TypeVar("T")


class Verdict(Enum):
    """How it stands: as it should; worse than it could; not fit to serve."""

    OK = "ok"
    DEGRADED = "degraded"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. advice: what to do about it; empty if there is nothing."""

    name: str
    verdict: Verdict
    words: str
    advice: str = ""


def diagnose(settings: Settings) -> list[Finding]:
    """Look at everything. Takes some seconds; whatever does not answer is given up."""
    data = settings.data.absolute()
    with _libraries_silent(), probing_folder(data) as folder:
        return [
            *look_at_isolation(
                folder, asked=settings.isolation, shown=settings.split_sandbox_folders
            ),
            *look_at_limits(folder),
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


def look_at_isolation(folder: Path, *, asked: str, shown: Sequence[str] = ()) -> list[Finding]:
    """Try each isolation; the one that would be used decides whether that is good enough.

    asked: the setting; "" is the best there is. shown: more folders that a sandbox is to show.
    """
    found = [_look_at_one_isolation(name, folder) for name in ISOLATIONS]
    try:
        used = isolation_named(asked, root=folder)
    except IsolationUnavailable:
        words = f"`{asked}` is asked for and does not work"
        return [
            *found,
            Finding(
                "isolation",
                Verdict.WRONG,
                words if asked else "neither sandbox nor uid works",
                "Install bubblewrap, run the gateway as root, or set `isolation` to what works.",
            ),
        ]
    return [*found, _used_isolation(used), _look_at_shown(used, shown, root=folder)]


def _look_at_one_isolation(name: str, folder: Path) -> Finding:
    try:
        isolation_named(name, root=folder)
    except IsolationUnavailable as error:
        advice = ISOLATION_ADVICE[name]
        return Finding(f"isolation.{name}", Verdict.DEGRADED, str(error), advice)
    return Finding(f"isolation.{name}", Verdict.OK, ISOLATION_WORKS.get(name, "works"))


def _used_isolation(used: Isolation) -> Finding:
    if used.name == "none":
        return Finding(
            "isolation",
            Verdict.DEGRADED,
            "`none` is used: commands have the gateway's rights, and see its keys",
            'Leave `isolation` out to have the best there is, or set it to "sandbox".',
        )
    return Finding("isolation", Verdict.OK, f"`{used.name}` is used")


def _look_at_shown(used: Isolation, shown: Sequence[str], *, root: Path) -> Finding:
    """Have a sandbox show what it is to show besides the system."""
    name = "isolation.folders"
    try:
        with_folders(used, shown, root=root)
    except IsolationUnavailable as error:
        advice = "Make the folder, or take it out of `sandbox_folders`: no server starts with it."
        return Finding(name, Verdict.WRONG, str(error), advice)
    if not shown:
        return Finding(name, Verdict.OK, "none is set: a sandbox shows the system alone")
    return Finding(name, Verdict.OK, f"{', '.join(shown)} can be seen")


def look_at_limits(folder: Path) -> list[Finding]:
    """Claim control groups as the executor does, and give them back."""
    groups = open_control_groups(folder)
    try:
        groups.claim()
        versions = sorted({tree.version for tree in groups.trees})
        advice = "Run the gateway as root, or have its service delegate control groups to it."
        layout = " and ".join(f"v{version}" for version in versions)
        return [
            Finding("limits.layout", Verdict.OK, f"control groups {layout}")
            if layout
            else Finding("limits.layout", Verdict.DEGRADED, "no control groups", advice),
            *(
                Finding(f"limits.{each.value}", Verdict.OK, "enforced")
                if each in groups.abilities
                else Finding(
                    f"limits.{each.value}",
                    Verdict.DEGRADED,
                    f"not enforced: {groups.missing.get(each, 'there are no control groups')}",
                    advice,
                )
                for each in LIMITS
            ),
        ]
    finally:
        groups.close()


def look_at_containers(root: Path) -> Finding:
    """Find what runs Docker applications, and have it look at its own storage."""
    try:
        words = prove_containers(find_containers(root))
    except ContainersUnavailable as error:
        advice = "Install podman and runc, and run as root; until then Docker jobs are refused."
        return Finding("containers", Verdict.DEGRADED, str(error), advice)
    return Finding("containers", Verdict.OK, words)


def look_at_capacity(settings: Settings) -> Finding:
    """What may run at once, as the settings and the machine say."""
    cores = os.cpu_count() or 1
    here = machine_memory_gib()
    memory = settings.memory_gib or here
    words = f"{settings.instances_per_core * cores} instances on {cores} cores, {memory:.1f} GiB"
    if settings.memory_gib > here:
        advice = f"The machine has {here:.1f} GiB: lower `memory_gib`, or leave it out."
        return Finding("capacity", Verdict.DEGRADED, words, advice)
    return Finding("capacity", Verdict.OK, words)


def look_at_catalogue(settings: Settings) -> Finding:
    """Read the operator's images, instance types and machines."""
    name = "catalogue"
    try:
        read_catalogue(settings.catalogue)
    except SettingsError as error:
        return Finding(name, Verdict.WRONG, str(error), "Correct the file, or leave it out.")
    return Finding(name, Verdict.OK, settings.catalogue or "the built-in one")


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
    kind = file_system_of(folder, MOUNTED.read_text(encoding="utf-8", errors="surrogateescape"))
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
        revision = _answer_of(lambda: find_revision(url))
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


def worst_of(findings: Sequence[Finding]) -> Verdict:
    """The verdict on all of it."""
    order = list(Verdict)
    return max((each.verdict for each in findings), key=order.index, default=Verdict.OK)
