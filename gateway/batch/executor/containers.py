"""Containers: whether this machine can run them, and how a launch becomes one.

The main process of such an attempt is `container_run`: it fetches the image, notes that now the
container begins, runs it and says how it ended. Until that note is there the attempt has not begun:
it is not told to run, and its time does not count. After it and all it started are gone, the
remover runs until the container is gone too: only then is the attempt over. A container bears the
name of its attempt and the folder of its executor, so that `remove_all` finds what an executor that
died has left.

Why the user is always nobody, also in an image that names another: without a user namespace the
image's root would be the machine's root, and podman 4.3 cannot map users on newer kernels. And the
work folder and what is mounted belong to nobody, as in the sandbox.

Why the machine's network and not one of its own: the same rule as in the sandbox, and it needs no
bridge, firewall or name server to be set up.

Where podman keeps images is the machine's affair. Files named `containers.conf`, `storage.conf` and
`registries.conf` in the executor's folder, where there are any, are used instead of the machine's.
"""

import hashlib
import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import gateway
from gateway.batch.engines import Container, Launch, Limits, view
from gateway.batch.executor.container_groups import GROUPS_GO, ID_FILE
from gateway.batch.executor.container_limits import limit_words, without_limits
from gateway.batch.executor.folders import ATTEMPTS, SCRATCH, TMP, WORK
from gateway.batch.executor.images import FETCHED, image_names
from gateway.batch.executor.isolation import NOBODY, PATH
from gateway.batch.executor.mounts import CannotLaunch, CheckedMount

LABEL: Final = "qcs-gateway.folder"
MARK: Final = "containers"  # a folder that is there once a container was
PID_FILE: Final = "pid"  # of its first process, in SCRATCH; docker writes none
VARIABLES: Final = "/.variables.sh"
PROBE_S: Final = 10
REMOVE_S_MAX: Final = 60
REMOVE_PAUSE_S: Final = 1
_SETTINGS: Final = {
    "CONTAINERS_CONF": "containers.conf",
    "CONTAINERS_STORAGE_CONF": "storage.conf",
    "CONTAINERS_REGISTRIES_CONF": "registries.conf",
}


class ContainersUnavailable(Exception):
    """This machine, or this user on it, cannot run containers; says why."""


@dataclass(frozen=True, slots=True)
class Containers:
    """What runs containers here.

    program: its path and the words that come before any verb. user: whose a container's processes
    and files are. is_podman: else it is docker, whose daemon starts them.
    """

    program: tuple[str, ...]
    version: str
    environment: Mapping[str, str]
    is_podman: bool = True
    user: int = NOBODY


@dataclass(frozen=True, slots=True)
class ContainerCommand:
    """What to spawn for a container; see `command.Command`."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    script: bytes
    remover: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Task:
    """What `container_run` is told. Never in its argv: it holds a password.

    program: see `Containers`. names: how the image may be called, the first that is here is used,
    the last is fetched. run: the words of `run` up to the image; command: those after it.
    binds: (source, "device:inode", where it is shown on the machine). login: server, user,
    password, or nothing.
    """

    program: tuple[str, ...]
    is_podman: bool
    name: str
    names: tuple[str, ...]
    run: tuple[str, ...]
    command: tuple[str, ...]
    folder: str
    fetched: str
    login: tuple[str, str, str] | None = field(default=None, repr=False)
    retries: int = 0
    retry_s: int = 0
    binds: tuple[tuple[str, str, str], ...] = ()


def find_containers(root: Path) -> Containers:
    """Find podman, or else docker. Raises ContainersUnavailable. root: the executor's folder."""
    if os.geteuid() != 0:
        raise ContainersUnavailable("only root can run containers so that nobody can escape them")
    podman = shutil.which("podman", path=PATH)
    if podman is not None:
        return _podman(podman, root)
    docker = shutil.which("docker", path=PATH)
    if docker is not None:
        return _docker(docker)
    raise ContainersUnavailable("neither podman nor docker is installed; podman is enough")


def look_for_containers(root: Path) -> tuple[Containers | None, str]:
    """What runs containers here, or None and why there is nothing."""
    try:
        return find_containers(root), ""
    except ContainersUnavailable as error:
        return None, str(error)


def _podman(path: str, root: Path) -> Containers:
    """Podman with what makes it work on a bare machine: no systemd, no journal, runc if there."""
    words = [path, "--cgroup-manager", "cgroupfs", "--events-backend", "none"]
    runtimes = [name for name in ("runc", "crun") if shutil.which(name, path=PATH)]
    if not runtimes:
        raise ContainersUnavailable("podman needs a runtime: neither runc nor crun is installed")
    environment = {
        name: str(root / file) for name, file in _SETTINGS.items() if (root / file).is_file()
    }
    version = _answer([path, "--version"]).split()[-1]
    return Containers((*words, "--runtime", runtimes[0]), version, environment)


def _docker(path: str) -> Containers:
    version = _answer([path, "version", "--format", "{{.Server.Version}}"])
    return Containers((path,), version, {}, is_podman=False)


def _answer(argv: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """What a program says. Raises ContainersUnavailable with its own words if it fails."""
    name = os.path.basename(argv[0])
    try:
        done = subprocess.run(  # noqa: S603  # our own argv
            argv,
            env={"PATH": PATH, "HOME": "/", **(environment or {})},
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PROBE_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ContainersUnavailable(f"{name}: {error}") from error
    if done.returncode != 0 or not done.stdout.strip():
        why = done.stderr.decode(errors="replace").strip() or f"exit code {done.returncode}"
        raise ContainersUnavailable(f"{name}: {why[-300:]}")
    return done.stdout.decode(errors="replace").strip()


def prove_containers(containers: Containers) -> str:
    """Have the whole of it looked at, its storage too; say what there is. For `doctor`.

    Raises ContainersUnavailable.
    """
    if not containers.is_podman:
        return f"docker {containers.version}"
    form = "{{.Host.OCIRuntime.Name}}, {{.Store.GraphDriverName}} in {{.Store.GraphRoot}}"
    words = _answer([*containers.program, "info", "--format", form], containers.environment)
    return f"podman {containers.version}, {words}"


def container_command(
    launch: Launch,
    containers: Containers,
    *,
    root: Path,
    folder: str,
    placed: Sequence[CheckedMount],
) -> ContainerCommand:
    """Say how a launch runs in its container. root: the executor's folder. folder: the attempt's.

    Raises CannotLaunch, ValueError or OSError.
    """
    container = launch.container
    assert container is not None  # noqa: S101  # whoever calls has looked
    scratch = f"{folder}/{SCRATCH}"
    for made in (str(root / MARK), scratch):
        os.makedirs(made, mode=0o700, exist_ok=True)
    binds = _binds(placed, containers, scratch=scratch)
    name = name_of(root, launch.attempt_id)
    volumes = _own_volumes(folder, placed)
    volumes += [
        f"{shown if containers.is_podman else each.source}:{each.target}"
        + ("" if each.writable else ":ro")
        for each, (_, _, shown) in zip(placed, binds, strict=True)
    ]
    variables = f"{scratch}/variables.sh"
    _write_for(variables, _variables(launch.environment), user=containers.user)
    volumes.append(f"{variables}:{VARIABLES}:ro")
    login = (_registry(container), container.user, container.password) if container.user else None
    task = Task(
        program=containers.program,
        is_podman=containers.is_podman,
        name=name,
        names=image_names(container),
        run=(
            *_words(containers, launch.limits, name=name, root=root, options=container.options),
            *(_podman_files(scratch) if containers.is_podman else ()),
            *(word for volume in volumes for word in ("--volume", volume)),
        ),
        command=("-c", f". {VARIABLES}\n{launch.command}"),
        folder=folder,
        fetched=str(root / FETCHED),
        login=login,
        retries=container.retries,
        retry_s=container.retry_s,
        binds=tuple(binds) if containers.is_podman else (),
    )
    return ContainerCommand(
        # -P: it begins in the work folder, from which nothing may be imported.
        argv=(sys.executable, "-P", "-m", "gateway.batch.executor.container_run"),
        environment={
            "PATH": PATH,
            "PYTHONPATH": str(Path(gateway.__path__[0]).parent),
            "HOME": scratch,  # by it the processes that podman leaves behind are known
            **containers.environment,
        },
        script=json.dumps(asdict(task)).encode(),
        remover=remover(containers, name, scratch=scratch),
    )


def _binds(
    placed: Sequence[CheckedMount], containers: Containers, *, scratch: str
) -> list[tuple[str, str, str]]:
    """Where each mount is to be shown on the machine, made ready; see `Task`.

    Raises CannotLaunch or OSError.
    """
    binds = []
    for number, each in enumerate(placed):
        if not containers.is_podman:
            _check_unchangeable(each.source)
        shown = f"{scratch}/mount-{number}"
        _make_like(shown, each.source)
        binds.append((each.source, each.identity, shown))
    return binds


def _podman_files(scratch: str) -> tuple[str, ...]:
    return ("--pidfile", f"{scratch}/{PID_FILE}", "--cidfile", f"{scratch}/{ID_FILE}")


def _own_volumes(folder: str, placed: Sequence[CheckedMount]) -> list[str]:
    """The work folder and, unless something else is mounted there, /tmp."""
    has_tmp = all(each.target != view.TMP for each in placed)
    return [f"{folder}/{WORK}:{view.WORK}", *([f"{folder}/{TMP}:{view.TMP}"] if has_tmp else [])]


def read_task(text: bytes) -> Task:
    """Read what `container_command` wrote, though it were that of an older executor.

    Such a one goes on after a change of version, and did not write where notes are, nor full names.
    """
    values = json.loads(text)
    if "fetched" not in values:
        root, _, _ = values["folder"].partition(f"/{ATTEMPTS}/")
        container = Container(values["names"][0])
        values |= {"fetched": f"{root}/{FETCHED}", "names": image_names(container)}
    pairs = {key: _frozen(value) for key, value in values.items()}
    return Task(**pairs)


def _frozen(value: Any) -> Any:
    return tuple(_frozen(each) for each in value) if isinstance(value, list) else value


def _make_like(path: str, source: str) -> None:
    """Make what a source can be mounted on."""
    if os.path.isdir(source):
        os.makedirs(path, mode=0o700, exist_ok=True)
    else:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))


def _check_unchangeable(source: str) -> None:
    """Refuse a source whose path others than root can change. Raises CannotLaunch or OSError.

    Why for docker only: its daemon follows the path anew, and we cannot look at what it mounted.
    """
    for folder in Path(source).parents:
        status = folder.stat(follow_symlinks=False)
        others = (
            status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not status.st_mode & stat.S_ISVTX
        )
        if status.st_uid != 0 or others:
            name = os.path.basename(source)[:200]
            raise CannotLaunch(
                f"{name!r} cannot be mounted by docker: others can change where it is. Use podman."
            )


def _write_for(path: str, text: str, *, user: int) -> None:
    """Write what one user, and nobody else, may read."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
    with os.fdopen(file, "wb") as opened:
        os.fchown(file, user, user)
        opened.write(os.fsencode(text))


def _variables(environment: Mapping[str, str]) -> str:
    """A shell script that sets the variables. Raises ValueError for one that no shell can set.

    Why a script and not podman's `--env`: podman keeps what it is told, in files of its own that
    stay, and shows it to whoever may ask it. And a line of a file cannot hold every value.
    """
    lines = []
    for name, value in environment.items():
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise ValueError(f"the environment variable {name[:100]!r} cannot be set by a shell")
        lines.append(f"{name}={shlex.quote(value)}\nexport {name}\n")
    return "".join(lines)


def _words(
    containers: Containers,
    limits: Limits | None,
    *,
    name: str,
    root: Path,
    options: Sequence[str],
) -> tuple[str, ...]:
    """The words of `run`, but for mounts and variables.

    Why the caller's options are in the middle: they may replace the working folder, say, and none
    of what keeps the container in. What they limit is part of the limits.
    """
    user = str(containers.user)
    own = ["--workdir", view.WORK, *without_limits(options)]
    own += ["--name", name, "--label", f"{LABEL}={root}"]
    own += ["--network", "host", "--cap-drop", "all", "--security-opt", "no-new-privileges"]
    own += ["--user", f"{user}:{user}", "--entrypoint", "/bin/sh", "--pull", "never"]
    if containers.is_podman:
        own += ["--log-driver", "passthrough"]  # its streams are our files: no byte can be late
    else:
        own += ["--log-driver", "none"]
    return (*own, *limit_words(limits, options))


def _registry(container: Container) -> str:
    return image_names(container)[-1].split("/", 1)[0]


def name_of(root: Path, attempt_id: str) -> str:
    """The name of an attempt's container, which no other executor of the machine gives."""
    key = hashlib.sha256(os.fsencode(root)).hexdigest()[:8]
    return f"qcs-{key}-" + re.sub(r"[^A-Za-z0-9_.-]", "-", attempt_id)


def remover(containers: Containers, name: str, *, scratch: str) -> tuple[str, ...]:
    """The argv that removes a container, and ends well only when there is none.

    scratch: the folder of what only the container needed; it goes as well.
    """
    if containers.is_podman:
        verb = '"$@" rm --force --ignore --time 0 --volumes "$name"'
    else:
        verb = (
            '{ "$@" rm --force --volumes "$name"; found=$("$@" ps --all --quiet '
            '--filter "name=^/$name\\$") && [ -z "$found" ]; }'
        )
    settings = "".join(
        f"export {key}={shlex.quote(value)}; " for key, value in containers.environment.items()
    )
    again = f"until {verb}; do sleep {REMOVE_PAUSE_S}; done >/dev/null"
    rest = f'{GROUPS_GO}; rm -rf -- "$scratch"'
    script = f"{settings}name=$1 scratch=$2; shift 2; {again}; {rest}"
    return ("/bin/sh", "-c", script, "container-remover", name, scratch, *containers.program)


def remove_all(
    root: Path,
    *,
    sleep: Callable[[float], None] = time.sleep,
    monotonic: Callable[[], float] = time.monotonic,
) -> None:
    """Remove every container of an executor's folder. Raises OSError if that cannot be proven.

    Why again and again: what is left of a container that was killed with all around it, its mounts
    say, may need a moment to go, and podman another try.
    """
    if not (root / MARK).is_dir():
        return
    give_up_at = monotonic() + REMOVE_S_MAX
    try:
        containers = find_containers(root)
        listing = ["ps", "--all", "--quiet", "--filter", f"label={LABEL}={root}"]
        while found := _run([*containers.program, *listing], containers).split():
            try:
                _run([*containers.program, "rm", "--force", *found], containers)
            except subprocess.CalledProcessError as error:
                if monotonic() > give_up_at:
                    why = _last_line(error.stderr)
                    raise OSError(
                        f"{len(found)} containers of a dead executor cannot be removed: {why}"
                    ) from error
                sleep(REMOVE_PAUSE_S)
    except subprocess.CalledProcessError as error:
        why = _last_line(error.stderr)
        raise OSError(f"it cannot be proven that no container is left: {why}") from error
    except (ContainersUnavailable, subprocess.SubprocessError) as error:
        raise OSError(f"it cannot be proven that no container is left: {error}") from error


def _last_line(stderr: bytes) -> str:
    lines = stderr.decode(errors="replace").strip().splitlines()
    return lines[-1][-300:] if lines else "it does not say why"


def _run(argv: Sequence[str], containers: Containers) -> str:
    done = subprocess.run(  # noqa: S603  # our own argv
        argv,
        env={"PATH": PATH, "HOME": "/", **containers.environment},
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=REMOVE_S_MAX,
        check=True,
    )
    return done.stdout.decode()
