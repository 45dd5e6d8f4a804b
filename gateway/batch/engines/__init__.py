"""Engines: what really runs a command on a node.

Every engine passes the conformance suite in `tests/conformance/`. It may report one fact more
than once, and never forgets an outcome before it is acknowledged.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Protocol

from gateway.call import Value


class Cause(Enum):
    """Why an attempt, or its instance, did not succeed; a closed set that decides the retry."""

    USER_EXIT = "USER_EXIT"
    SIGNAL = "SIGNAL"
    OOM = "OOM"
    TIMEOUT = "TIMEOUT"
    TERMINATED = "TERMINATED"
    INFRA_LOST = "INFRA_LOST"
    NODE_CREATION = "NODE_CREATION"
    PREDECESSOR_FAILED = "PREDECESSOR_FAILED"
    STORAGE = "STORAGE"


class Ability(Enum):
    """What an engine may or may not be able to do on the machine it has."""

    MOUNTS = "mounts"
    CPU = "cpu"
    MEMORY = "memory"
    PROCESSES = "processes"
    CONTAINERS = "containers"


class Mount(Value, frozen=True):
    """A file or folder of the engine's machine that a command sees elsewhere.

    source, target: absolute paths. The source exists; the target must not hide the system's own.
    """

    source: str
    target: str
    writable: bool = False


class Limits(Value, frozen=True):
    """What a command may use: its node's size."""

    cores: int
    mem_bytes: int
    processes: int


@dataclass(frozen=True, slots=True)
class Container:
    """The image a command runs in. retries, retry_s: how often, and after how many seconds, it is
    pulled again. options: words for `run`, checked before.
    """

    image: str
    server: str = ""
    user: str = ""
    password: str = field(default="", repr=False)
    retries: int = 0
    retry_s: int = 0
    options: tuple[str, ...] = ()


class Launch(Value, frozen=True):
    """One attempt at one task instance, ready to be started.

    command: a shell command line. environment: the only variables the command sees, besides PATH,
    HOME and LANG, which it may set, too. folder: the attempt's own folder, relative to the engine's
    root; it holds `stdout`, `stderr` and the working folder, in which the command's package may be
    already. limits: None for none. container: None to run on the machine itself. has_files:
    whether somebody else has put files into its folder or wants some of it; if not, the folder may
    go when the command has left nothing and said nothing. folders: clean paths as the command sees
    them, each made for it unless something is there, in its working folder or in a mount that is
    the engine's own.
    """

    attempt_id: str
    command: str
    environment: Mapping[str, str]
    folder: str
    timeout_s: int
    limits: Limits | None = None
    mounts: tuple[Mount, ...] = ()
    container: Container | None = None
    has_files: bool = True
    folders: tuple[str, ...] = ()


class Started(Value, frozen=True):
    """The command of an attempt is running."""

    attempt_id: str
    at: datetime


class Ended(Value, frozen=True):
    """An attempt is over, with everything it started; nothing of it runs any more.

    cause: None for exit code 0. exit_code: None if the command never ended by itself. detail: more
    of the cause, or of what a success lacks. started: whether its command ever ran. left_nothing:
    whether of all that was made for it nothing is there any more but, at most, its logs.
    """

    attempt_id: str
    at: datetime
    exit_code: int | None
    cause: Cause | None
    detail: str = ""
    started: bool = True
    left_nothing: bool = False


@dataclass(frozen=True, slots=True)
class NodesLost:
    """What held every node of the engine is gone, killed or crashed, and there is a new one.

    The attempts that ran there end as INFRA_LOST besides; nodes that ran nothing are lost as well.
    It may be told again until it is acknowledged.
    """

    at: datetime


@dataclass(frozen=True, slots=True)
class Reconnected:
    """The engine may have forgotten what it was told and had not yet begun: tell it again.

    Comes first after the engine is opened, and whenever it was lost and is back.
    """


Report = Started | Ended | NodesLost | Reconnected


class Engine(Protocol):
    """Runs attempts. All methods may be called again with the same attempts.

    capacity: how many attempts it runs at once. mem_gib: what the nodes that run something may
    have together. missing: what it cannot do here, each with a sentence's worth of why.
    """

    capacity: int
    mem_gib: int
    missing: Mapping[Ability, str]

    async def start(self, launches: Sequence[Launch]) -> None:
        """Start attempts; one that is known already is left alone. The facts come as reports.

        Of one that is known it is told again that it runs, or how it ended unless that is
        acknowledged.
        """
        ...

    async def stop(self, attempt_ids: Sequence[str]) -> None:
        """Kill attempts with all their processes; each then ends with Cause.TERMINATED."""
        ...

    async def acknowledge(self, attempt_ids: Sequence[str]) -> None:
        """Allow the engine to forget these outcomes: they are stored."""
        ...

    async def acknowledge_loss(self, lost: NodesLost) -> None:
        """Allow the engine to forget that nodes were lost, as it told: that is stored.

        What it told of an earlier loss says nothing of a later one.
        """
        ...

    async def reconcile(self, attempt_ids: Sequence[str]) -> None:
        """Name every attempt believed to be running; those the engine lost end as INFRA_LOST."""
        ...

    async def reports(self) -> Sequence[Report]:
        """Wait for something to happen; return all that has."""
        ...

    async def discard(self, folder: str) -> None:
        """Remove all files below `folder`, an attempt's or one that holds those of several."""
        ...

    def log_path(self, folder: str, stream: str) -> Path:
        """Where the bytes of `stream` ("stdout" or "stderr") of an attempt are."""
        ...

    def attempt_path(self, folder: str) -> Path:
        """An attempt's own folder on the engine's machine."""
        ...

    def node_path(self, node_id: str) -> Path:
        """The folder of what a node of an environment keeps between attempts, such as its disks."""
        ...
