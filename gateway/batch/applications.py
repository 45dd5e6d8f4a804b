"""What a task runs, checked: commands, packages, images and variables. Pure.

Limits and codes: the API's own where documented; "our limit" where the vendor gives no number.
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from gateway.batch import datatypes
from gateway.batch.members import check_choice, check_range, check_text
from gateway.batch.secrets import mask_address
from gateway.batch.storage.paths import parse_cos_file
from gateway.errors import InvalidParameter, InvalidParameterValue

COMMAND_BYTES_MAX = 100_000  # our limit: Linux takes 128 KiB as one argument
ENVIRONMENT_MAX = 64 * 1_024  # our limit, in bytes: names and values of one task's EnvVars
URL_MAX = 2_048  # our limit
PULLS_MAX = 100  # our limit, for Docker.MaxRetryCount
PULL_DELAY_MAX_S = 3_600  # our limit
OPTIONS_MAX = 4_096  # our limit, in characters
DELIVERY_FORMS = ("LOCAL", "PACKAGE")
ARCHIVES = (".tgz", ".tar.gz", ".tar", ".zip")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_URL = re.compile(r"[!-~]+")
_HOST = r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,253}[A-Za-z0-9])?(?::[0-9]{1,5})?"
_PART = r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*"
_IMAGE = re.compile(
    rf"(?:{_HOST}/)?{_PART}(?:/{_PART})*(?::[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}})?"
    r"(?:@sha256:[0-9a-f]{64})?"
)
_SERVER = re.compile(rf"(?:https?://)?{_HOST}(?:/[A-Za-z0-9/._-]*)?")


def check_application(
    application: datatypes.Application, *, instances: int, xml_only: bool
) -> None:
    """Check what every one of a task's instances runs.

    Why Commands are as many as instances: "tightly coupled" commands run side by side, one in each
    instance; no source tells what more or fewer of them would mean.
    """
    check_choice("DeliveryForm", application.delivery_form, DELIVERY_FORMS)
    if bool(application.command) == bool(application.commands):
        raise InvalidParameter(
            "The application needs either a `Command` or `Commands`.",
            detail="InvalidParameterCombination",
        )
    if application.commands and len(application.commands) != instances:
        raise InvalidParameter(
            f"There are {len(application.commands)} Commands for {instances} task instances; each"
            " instance runs one.",
            detail="InvalidParameterCombination",
        )
    for line in application.commands:
        _check_command("Commands", line.command)
    if application.command:
        _check_command("Command", application.command)
    if application.delivery_form == "PACKAGE":
        check_package_path(application.package_path or "", xml_only=xml_only)
    if application.docker is not None:
        _check_docker(application.docker)


def _check_command(name: str, command: str) -> None:
    if not command:
        raise InvalidParameter(f"One of `{name}` is empty.", detail="InvalidParameterCombination")
    if len(command.encode()) > COMMAND_BYTES_MAX:
        raise InvalidParameterValue(f"`{name}` is larger than {COMMAND_BYTES_MAX} bytes.")
    if "\0" in command:
        raise InvalidParameterValue(f"`{name}` contains a NUL character.")


def check_package_path(path: str, *, xml_only: bool) -> None:
    """Check where a package is fetched from; its name tells the kind of archive.

    Only PACKAGE asks for it; with LOCAL a PackagePath is kept and nobody reads it. An error repeats
    it without the keys that may be in it.
    """
    if not path:
        raise InvalidParameter(
            "DeliveryForm `PACKAGE` needs a `PackagePath`.", detail="InvalidParameterCombination"
        )
    shown = mask_address(path)
    scheme, separator, _ = path.partition("://")
    if separator and scheme == "cos":
        name = parse_cos_file(path, xml_only=xml_only, shown=shown).key
    elif separator and scheme in {"http", "https"}:
        name = _url_path(path)
    else:
        raise InvalidParameterValue(
            f"The storage type of `{shown}` is not one that a package can come from: use `http://`,"
            " `https://` or `cos://`.",
            detail="RemoteStorageSchemeType",
        )
    if not name.lower().endswith(ARCHIVES):
        raise InvalidParameterValue(
            f"`{shown}` does not end as an archive does: {', '.join(ARCHIVES)}.",
            detail="RemoteStoragePath",
        )


def _url_path(url: str) -> str:
    try:
        parts = urlsplit(url)
        has_place = bool(parts.hostname) and parts.port != 0
    except ValueError:  # no port, or no address
        has_place = False
    if not has_place or len(url) > URL_MAX or not _URL.fullmatch(url):
        raise InvalidParameterValue(
            f"`{mask_address(url)}` is not a URL.", detail="RemoteStoragePath"
        )
    return parts.path


def _check_docker(docker: datatypes.Docker) -> None:
    if len(docker.image) > URL_MAX or not _IMAGE.fullmatch(docker.image):
        raise InvalidParameterValue(
            f"Docker.Image `{docker.image}` is not of the form `[server/]user/repository[:tag]`."
        )
    check_text("Docker.Server", docker.server, most=URL_MAX)
    if docker.server and not _SERVER.fullmatch(docker.server):
        raise InvalidParameterValue(f"Docker.Server `{docker.server}` is not a registry's address.")
    if bool(docker.user) != bool(docker.password):
        raise InvalidParameter(
            "Docker.User and Docker.Password belong together.", detail="InvalidParameterCombination"
        )
    check_text("Docker.User", docker.user, most=256)
    check_text("Docker.Password", docker.password, most=4_096)
    check_range("Docker.MaxRetryCount", docker.max_retry_count, most=PULLS_MAX)
    check_range("Docker.DelayOnRetry", docker.delay_on_retry, most=PULL_DELAY_MAX_S)
    docker_options(docker.docker_run_option or "")


_BYTES = re.compile(r"[0-9]{1,15}[bkmgBKMG]?")
# Not where the kernel shows its own: a runtime could be led out of the container from there.
_WORKDIR = re.compile(
    r"(?!(?:/\.?)*/(?:proc|sys|dev)(?:/|$))(?!.*/\.\.(?:/|$))/[^\x00-\x1f\x7f,:]*"
)
# Not `nproc`: the kernel would count the processes of all containers, for one user runs them all.
_ULIMIT = re.compile(
    r"(?:core|cpu|data|fsize|memlock|nofile|sigpending|stack)=([0-9]{1,15})(?::([0-9]{1,15}))?"
)
_SCALES = {"b": 1, "k": 1_024, "m": 1_048_576, "g": 1_073_741_824}
_MEMORY_MIN = 6_291_456  # docker's; a runtime hardly starts in less
_CPUS_MIN = 0.01  # the least that the kernel can keep
_VALUES: Mapping[str, re.Pattern[str]] = {
    "env": re.compile(r"(?!BATCH_)[A-Za-z_][A-Za-z0-9_]*=[^\x00\n\r]*"),
    "workdir": _WORKDIR,
    "user": re.compile(r"(?:65534|nobody)(?::65534)?"),
    "hostname": re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,61}[A-Za-z0-9])?"),
    "memory": _BYTES,
    "cpus": re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,6})?"),
    "shm-size": _BYTES,
    "pids-limit": re.compile(r"0*[1-9][0-9]{0,6}"),
    "ulimit": _ULIMIT,
}
"""Options with a value: they change what the command sees of itself, and nothing outside it.

Why no others: what cannot have an effect is not to be promised. There is no swap, so what would
limit it says nothing; a share of the cores is measured against others, not within its node.
"""
_SHORT = {
    "e": "env",
    "w": "workdir",
    "u": "user",
    "h": "hostname",
    "m": "memory",
}
_WHY = {"user": " A container's user is always 65534, nobody."}
_FLAGS = frozenset({"rm", "read-only"})


def docker_options(text: str) -> tuple[str, ...]:
    """The words of DockerRunOption, each as `--name` or `--name=value`; `--rm` is always done.

    `--user` goes: it names the user that the container has anyhow, or it is refused. `--memory`
    becomes bytes. Raises InvalidParameterValue, naming the word, for anything that is not known to
    be harmless: what would open the machine to the command (`--privileged`, `-v`, `--network`,
    `--device`, `--cap-add`, ...) as well as what is merely unknown, or would have no effect. A
    variable must bring its value: without one it would be taken from the engine. What keeps the
    container in comes after these words and wins; of two limits the engine keeps the smaller.
    """
    if len(text) > OPTIONS_MAX:
        raise InvalidParameterValue(f"DockerRunOption has more than {OPTIONS_MAX} characters.")
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise InvalidParameterValue(f"DockerRunOption cannot be read: {error}.") from error
    options = []
    while words:
        name, value = _option(words)
        if value is None:
            options += [] if name == "rm" else [f"--{name}"]
        elif name != "user":
            options.append(f"--{name}={_checked(name, value)}")
    return tuple(options)


def _checked(name: str, value: str) -> str:
    """The value of an option as the engine is told it. Raises InvalidParameterValue."""
    if name == "memory":
        digits = value.rstrip("bkmgBKMG")
        size = int(digits) * _SCALES[value[len(digits) :].lower() or "b"]
        if size < _MEMORY_MIN:
            raise InvalidParameterValue(
                f"DockerRunOption: `{value}` is less than the 6m that a container needs."
            )
        return str(size)
    if name == "cpus" and float(value) < _CPUS_MIN:
        raise InvalidParameterValue(f"DockerRunOption: `{value}` is less than {_CPUS_MIN} CPUs.")
    if name == "ulimit" and (found := _ULIMIT.fullmatch(value)):
        soft, hard = found[1], found[2] or found[1]
        if int(soft) > int(hard):
            raise InvalidParameterValue(
                f"DockerRunOption: `{value}` has a soft limit above the hard."
            )
    return value


def _option(words: list[str]) -> tuple[str, str | None]:
    """Take one option off the front. Its value is in the same word or the next one."""
    word = words.pop(0)
    written, equals, value = word.partition("=")
    name: str | None = written.removeprefix("--")
    if not written.startswith("--"):
        name = _SHORT.get(word[1:2]) if word.startswith("-") else None
        equals, value = word[2:3], word[2:].removeprefix("=")
    if name in _FLAGS and not equals:
        return name, None
    form = _VALUES.get(name or "")
    if name is None or form is None:
        raise InvalidParameterValue(f"DockerRunOption: `{word}` is not allowed.")
    if not equals:
        value = words.pop(0) if words else ""
    if not form.fullmatch(value):
        raise InvalidParameterValue(
            f"DockerRunOption: `{value}` cannot be the value of `{word}`.{_WHY.get(name, '')}"
        )
    return name, value


def check_variables(variables: Sequence[datatypes.EnvVar]) -> None:
    """Check a task's own environment variables."""
    for variable in variables:
        if not _VARIABLE.fullmatch(variable.name) or "\0" in variable.value:
            raise InvalidParameterValue(f"EnvVars: `{variable.name}` cannot be a variable.")
        if variable.name.startswith("BATCH_"):
            raise InvalidParameterValue(
                f"EnvVars: `{variable.name}` is one of the service's own; names that begin with"
                " BATCH_ are reserved."
            )
    if sum(len(f"{v.name}={v.value}".encode()) for v in variables) > ENVIRONMENT_MAX:
        raise InvalidParameterValue(f"EnvVars are larger than {ENVIRONMENT_MAX} bytes.")
