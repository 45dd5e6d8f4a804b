"""Settings: one TOML file, then environment variables; the only reader of `os.environ`."""

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

PREFIX = "QCS_GATEWAY_"


class SettingsError(Exception):
    """The settings cannot be used; the message says which one and why."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything an operator can set. Paths are relative to the working folder.

    data: folder of all state. policies: folder of documents kept in git.
    database_url: SQLAlchemy URL; empty means SQLite inside `data`.
    amqp_url: the RabbitMQ broker; empty means none.
    root_secret_id, root_secret_key: the root account's key; empty means made at the first start.
    signature_binding: "lenient" or "strict", see `authn/replay.py`.
    jwt_issuers: file of the trusted issuers of bearer tokens, see `authn/issuers.py`; empty: none.
    isolation: "sandbox", "uid" or "none"; empty means the best this machine allows.
    instances_per_core: how many task instances the local engine runs at once, per core.
    confirm_s: how long the broker may take to confirm a message.
    evaluator: "compiled" or "casbin": who decides; both decide alike, the first much faster.
    limits: "none", or "cloud" for the vendor's quotas of users, policies and the like.
    trusted_proxies: addresses or networks, separated by blanks or commas, whose `X-Forwarded-For`
    is believed. vpc_header: the header in which they name the caller's private network.
    decisions_overflow: "refuse" or "drop", see `cam/decisions/log.py`.
    decisions_keep_days: how long decisions are kept; 0 means for ever.
    events_keep_days: how long events and their messages are kept; 0 means for ever. What waits for
    a subscriber, and dead letters, are kept besides.
    amqp_ca_file: certificates that the broker's own is checked with, for amqps://; empty: the
    system's. amqp_cert_file, amqp_key_file: what the gateway shows the broker; empty: nothing.
    push_networks: addresses or networks, separated by blanks or commas, that HTTP subscribers may
    have besides public ones. push_pause_after_s: how long a subscriber may fail without one
    success before it is only probed.
    catalogue: file of images, instance types and machines, see `batch/catalogue.py`; empty: the
    built-in ones. memory_gib: what the nodes that run something may have together; 0 means what
    the machine has. processes_max: how many processes one command may have.
    cos_endpoint: URL of an S3-compatible service that holds the buckets of `cos://`; empty means a
    folder inside `data`. cos_access_key, cos_secret_key: its key. cos_forms: "all", or "xml" to
    take only `cos://<bucket>-<appid>.cos.<region>.myqcloud.com/`, as the user guide asks.
    mount_root: folder with one folder for each host of `cfs://` and `nfs://`; empty means `nfs`
    inside `data`. logs_keep_days: how long the logs of a job that is over are kept; 0: for ever.
    sandbox_folders: absolute paths, separated by blanks or commas, of more folders of the machine
    that a sandboxed command sees, read-only.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    management_port: int = 8081
    data: Path = Path("var")
    policies: Path = Path("policies")
    database_url: str = field(default="", repr=False)
    amqp_url: str = field(default="", repr=False)
    region: str = "ap-guangzhou"
    root_uin: str = "100000000001"
    root_secret_id: str = ""
    root_secret_key: str = field(default="", repr=False)
    signature_binding: str = "lenient"
    jwt_issuers: str = ""
    isolation: str = ""
    instances_per_core: int = 16
    confirm_s: int = 10
    evaluator: str = "compiled"
    limits: str = "none"
    trusted_proxies: str = ""
    vpc_header: str = ""
    decisions_overflow: str = "refuse"
    decisions_keep_days: int = 90
    events_keep_days: int = 30
    amqp_ca_file: str = ""
    amqp_cert_file: str = ""
    amqp_key_file: str = ""
    push_networks: str = ""
    push_pause_after_s: int = 3_600
    catalogue: str = ""
    memory_gib: int = 0
    processes_max: int = 4_096
    cos_endpoint: str = ""
    cos_access_key: str = ""
    cos_secret_key: str = field(default="", repr=False)
    cos_forms: str = "all"
    mount_root: str = ""
    logs_keep_days: int = 30
    sandbox_folders: str = ""

    @property
    def split_sandbox_folders(self) -> tuple[str, ...]:
        """The folders of `sandbox_folders`, each once."""
        return tuple(dict.fromkeys(self.sandbox_folders.replace(",", " ").split()))

    @property
    def resolved_database_url(self) -> str:
        """The database to use, the embedded one included."""
        return self.database_url or f"sqlite:///{(self.data / 'gateway.db').absolute()}"


CHOICES: Mapping[str, frozenset[str]] = {
    "signature_binding": frozenset({"lenient", "strict"}),
    "isolation": frozenset({"", "sandbox", "uid", "none"}),
    "evaluator": frozenset({"compiled", "casbin"}),
    "limits": frozenset({"none", "cloud"}),
    "decisions_overflow": frozenset({"refuse", "drop"}),
    "cos_forms": frozenset({"all", "xml"}),
}
FORMS: Mapping[str, tuple[re.Pattern[str], str]] = {
    "region": (re.compile(r"[a-z0-9-]{1,32}"), "a region such as ap-guangzhou"),
    "root_uin": (re.compile(r"[1-9][0-9]{0,19}"), "a number of at most 20 digits"),
    "root_secret_id": (re.compile(r"[A-Za-z0-9_-]{0,128}"), "of A-Z a-z 0-9 _ -"),
    "database_url": (
        re.compile(r"|sqlite:///.+|postgresql(\+psycopg)?://.+"),
        "sqlite:///path or postgresql://…",
    ),
    "vpc_header": (re.compile(r"|[A-Za-z0-9-]{1,64}"), "the name of a header"),
    "cos_endpoint": (re.compile(r"|https?://[^/?#@]+/?"), "http://host or https://host"),
    "amqp_url": (re.compile(r"|amqps?://[^/?#]+.*"), "amqp://… or amqps://…"),
}
"""How a text must look, and how that is said: never with the value, which may hold a password."""

SANDBOX_OWN = frozenset({"bin", "dev", "etc", "proc", "sbin", "sys", "tmp", "usr", "work"})
"""The folders at the top of a sandbox."""

LIMITS: Mapping[str, tuple[int, int]] = {
    "port": (0, 65_535),
    "management_port": (0, 65_535),
    "instances_per_core": (1, 4_096),
    "confirm_s": (1, 600),
    "decisions_keep_days": (0, 36_500),
    "events_keep_days": (0, 36_500),
    "push_pause_after_s": (1, 86_400),
    "memory_gib": (0, 65_536),
    "processes_max": (16, 4_194_304),
    "logs_keep_days": (0, 36_500),
}


def load(path: Path | None = None, *, environ: Mapping[str, str] | None = None) -> Settings:
    """Read `gateway.toml` (or `path`), then `QCS_GATEWAY_*`, and check every value.

    Raises SettingsError for a wrong type, a value out of range or, in the file, an unknown name.
    Why not in the environment: Kubernetes puts names there for every service it knows, such as
    QCS_GATEWAY_SERVICE_HOST.
    """
    environ = os.environ if environ is None else environ
    settings = _apply(Settings(), _read_file(path), source=str(path or "gateway.toml"))
    names = {f.name for f in fields(Settings)}
    from_environ = {
        key.removeprefix(PREFIX).lower(): value
        for key, value in environ.items()
        if key.startswith(PREFIX) and key.removeprefix(PREFIX).lower() in names
    }
    settings = _apply(settings, from_environ, source="the environment")
    _check_pairs(settings)
    _check_sandbox_folders(settings)
    return settings


def _check_pairs(settings: Settings) -> None:
    for name, other in (
        ("root_secret_id", "root_secret_key"),
        ("cos_access_key", "cos_secret_key"),
    ):
        if bool(getattr(settings, name)) != bool(getattr(settings, other)):
            raise SettingsError(f"`{name}` and `{other}` are set together or not at all")


def _check_sandbox_folders(settings: Settings) -> None:
    """Refuse what would hide the sandbox's own folders, or show our data."""
    for name in settings.split_sandbox_folders:
        folder = Path(name)
        if not folder.is_absolute() or ".." in folder.parts or len(folder.parts) == 1:
            raise SettingsError(f"`sandbox_folders`: {name} is not an absolute path of a folder")
        if folder.parts[1] in SANDBOX_OWN or folder.parts[1].startswith("lib"):
            raise SettingsError(f"`sandbox_folders`: {name} is what a sandbox has already")
        if settings.data.resolve().is_relative_to(folder.resolve()):
            raise SettingsError(f"`sandbox_folders`: {name} holds the folder `data`")


def _read_file(path: Path | None) -> dict[str, Any]:
    if path is None and not Path("gateway.toml").exists():
        return {}
    try:
        return tomllib.loads((path or Path("gateway.toml")).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"cannot read {path or 'gateway.toml'}: {error}") from error


def _apply(settings: Settings, values: Mapping[str, Any], *, source: str) -> Settings:
    known = {f.name: f.type for f in fields(Settings)}
    changes: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            raise SettingsError(f"{source}: there is no setting `{name}`")
        changes[name] = _convert(name, value, kind=type(getattr(settings, name)), source=source)
    return replace(settings, **changes)


def _convert(name: str, value: object, *, kind: type, source: str) -> Path | int | str:
    if kind is int:
        return _convert_int(name, value, source=source)
    if not isinstance(value, str):
        raise SettingsError(f"{source}: `{name}` must be a string")
    if name in CHOICES and value not in CHOICES[name]:
        allowed = ", ".join(sorted(choice for choice in CHOICES[name] if choice))
        raise SettingsError(f"{source}: `{name}` must be one of {allowed}")
    if name in FORMS:
        _check_form(name, value, source=source)
    if issubclass(kind, Path) and not value:
        raise SettingsError(f"{source}: `{name}` must name a folder")
    return Path(value) if issubclass(kind, Path) else value


def _check_form(name: str, value: str, *, source: str) -> None:
    form, sentence = FORMS[name]
    try:
        fits = form.fullmatch(value) is not None
        if name.endswith("_url") or name == "cos_endpoint":
            _ = urlsplit(value).port  # raises ValueError for what is no port
    except ValueError:
        fits = False
    if not fits:
        raise SettingsError(f"{source}: `{name}` must be {sentence}")


def _convert_int(name: str, value: object, *, source: str) -> int:
    try:
        number = int(str(value))
    except ValueError:
        raise SettingsError(f"{source}: `{name}` must be a whole number") from None
    low, high = LIMITS[name]
    if isinstance(value, bool) or not low <= number <= high:
        raise SettingsError(f"{source}: `{name}` must be from {low} to {high}")
    return number
