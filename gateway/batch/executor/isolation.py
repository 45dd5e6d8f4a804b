"""What a command may see and who it is: a table of argv prefixes.

| name | files | user | other processes |
|---|---|---|---|
| sandbox | the system, read-only; its work folder at /work; its own /tmp | nobody | unseen |
| uid | all that nobody may read | nobody | seen |
| none | all that the gateway may | the gateway's | seen |

An executor that is not root cannot change its user: its sandbox keeps the user and hides the
files, and `uid` does not exist for it. The network is kept under all of them. Only a sandbox can
show a command more than that, see `mounts`.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from gateway.batch.engines import view
from gateway.batch.executor.folders import TMP, WORK

NOBODY: Final = 65_534
PROBE: Final = "probe"
PROBE_S: Final = 10
PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SHELL: Final = ("/bin/sh", "-c")


class IsolationUnavailable(Exception):
    """This machine, or this user on it, cannot isolate in the way asked for; says why."""


@dataclass(frozen=True, slots=True)
class Isolation:
    """One way to run a command; the command line follows `prefix`, in the work folder.

    home: where the command finds its work folder; None if that is where it really is.
    user: the uid and gid that work folder and logs must belong to; None for our own.
    mounts_at: where in `prefix` bubblewrap's words for more mounts go; None if it cannot mount.
    has_tmp: whether the command has the folder `tmp` beside its work folder as its /tmp.
    """

    name: str
    prefix: tuple[str, ...] = ()
    home: str | None = None
    user: int | None = None
    mounts_at: int | None = None
    has_tmp: bool = False

    def prefix_with(self, binds: Sequence[str]) -> tuple[str, ...]:
        """The prefix with more words for bubblewrap. Raises ValueError if it cannot mount."""
        if not binds:
            return self.prefix
        if self.mounts_at is None:
            raise ValueError(f"nothing can be mounted under the isolation {self.name!r}")
        return (*self.prefix[: self.mounts_at], *binds, *self.prefix[self.mounts_at :])


def isolation_named(name: str, *, root: Path) -> Isolation:
    """Find the isolation of a name and prove that it works here; "" is the best there is.

    root: the executor's folder, which the command's user must be able to reach.
    Raises IsolationUnavailable.
    """
    if not name:
        return best_isolation(root)
    if name not in ISOLATIONS:
        raise IsolationUnavailable(f"there is no isolation {name!r}: use {', '.join(ISOLATIONS)}")
    isolation = ISOLATIONS[name]()
    probe(isolation, root)
    return isolation


def best_isolation(root: Path) -> Isolation:
    """The strictest isolation that works here. Never `none`, which must be asked for.

    Raises IsolationUnavailable if neither a sandbox nor another user is possible.
    """
    reasons = []
    for name in ("sandbox", "uid"):
        try:
            return isolation_named(name, root=root)
        except IsolationUnavailable as error:
            reasons.append(str(error))
    raise IsolationUnavailable("; ".join([*reasons, "ask for `none` to run without any"]))


def probe(isolation: Isolation, root: Path) -> None:
    """Run `true` in a folder below `root`, isolated. Raises IsolationUnavailable."""
    work = root / PROBE / WORK
    try:
        work.parent.mkdir(mode=0o711, exist_ok=True)
        for folder in (work, work.parent / TMP):
            folder.mkdir(mode=0o700, exist_ok=True)
            if isolation.user is not None:
                os.chown(folder, isolation.user, isolation.user)
        home = isolation.home or str(work)
        done = subprocess.run(  # noqa: S603  # our own argv, from the table below
            [*isolation.prefix, *SHELL, 'cd "$HOME" && : > .probe && rm .probe'],
            cwd=work,
            env={"PATH": PATH, "HOME": home},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PROBE_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise IsolationUnavailable(f"{isolation.name}: {error}") from error
    finally:
        shutil.rmtree(work.parent, ignore_errors=True)
    if done.returncode != 0:
        why = done.stderr.decode(errors="replace").strip() or f"exit code {done.returncode}"
        raise IsolationUnavailable(f"{isolation.name}: {why}")


def with_folders(isolation: Isolation, folders: Sequence[str], *, root: Path) -> Isolation:
    """The isolation, with more folders of the machine that its commands see, read-only.

    Without a sandbox they see them anyhow. Why `--dir`: bubblewrap makes what is missing above a
    mount for itself alone. Raises IsolationUnavailable if one cannot be shown.
    """
    if not folders or isolation.mounts_at is None:
        return isolation
    words: list[str] = []
    for folder in folders:
        for above in reversed(Path(folder).parents[:-1]):
            words += ["--dir", str(above)]
        words += ["--ro-bind", folder, folder]
    shown = replace(
        isolation,
        prefix=isolation.prefix_with(words),
        mounts_at=isolation.mounts_at + len(words),
    )
    probe(shown, root)
    return shown


def _program(name: str) -> str:
    found = shutil.which(name, path=PATH)
    if found is None:
        raise IsolationUnavailable(f"the program `{name}` is not installed")
    return found


def _as_nobody() -> tuple[str, ...]:
    """The prefix that becomes nobody for good. Only root can."""
    return (
        _program("setpriv"),
        f"--reuid={NOBODY}",
        f"--regid={NOBODY}",
        "--clear-groups",
        "--no-new-privs",
        "--inh-caps=-all",
        "--bounding-set=-all",
        "--pdeathsig=KILL",
        "--",
    )


def _system_mounts() -> tuple[str, ...]:
    """The system, read-only: `/usr`, `/etc`, and `/bin` and its like as they are on this machine.

    Why not /opt, /home or /srv: the gateway's own checkout and data may be there.
    """
    mounts = ["--ro-bind", "/usr", "/usr", "--ro-bind", "/etc", "/etc"]
    for name in ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"):
        if os.path.islink(name):
            mounts += ["--symlink", os.readlink(name), name]
        elif os.path.isdir(name):
            mounts += ["--ro-bind", name, name]
    # The resolver's file is often a link to here.
    return (*mounts, "--ro-bind-try", "/run/systemd/resolve", "/run/systemd/resolve")


def _sandbox() -> Isolation:
    """Bubblewrap: namespaces of its own, and for root another user inside.

    Why its /tmp is a folder on the disk, beside the work folder: what sorts or compiles puts there
    as much as it reads, and in memory that would count as the command's own.

    Why setpriv inside and not `--uid`: that would need a user namespace, in which nobody is root
    outside. Root's paths to the work folder stay open to bubblewrap and are shut to the command.
    """
    is_root = os.geteuid() == 0
    capabilities = ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP") if is_root else ()
    files = (
        _program("bwrap"),
        "--unshare-pid",
        "--unshare-ipc",
        "--unshare-uts",
        "--die-with-parent",
        *_system_mounts(),
        *("--proc", "/proc"),
        *("--dev", "/dev"),
        *("--perms", "1777", "--tmpfs", "/dev/shm"),  # noqa: S108  # a mount point of the sandbox
        *("--bind", f"../{TMP}", view.TMP),
        *("--bind", ".", view.WORK),
    )
    prefix = (
        *files,
        *("--chdir", view.WORK),
        *(word for each in capabilities for word in ("--cap-add", each)),
        "--",
        *(_as_nobody() if is_root else ()),
    )
    user = NOBODY if is_root else None
    return Isolation(
        "sandbox", prefix, home=view.WORK, user=user, mounts_at=len(files), has_tmp=True
    )


def _uid() -> Isolation:
    if os.geteuid() != 0:
        raise IsolationUnavailable("uid: only root can run commands as another user")
    return Isolation("uid", _as_nobody(), user=NOBODY)


def _none() -> Isolation:
    return Isolation("none")


ISOLATIONS: Final[Mapping[str, Callable[[], Isolation]]] = {
    "sandbox": _sandbox,
    "uid": _uid,
    "none": _none,
}
