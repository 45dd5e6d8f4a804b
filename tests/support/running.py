"""A real gateway in a process of its own, and the official clients that call it."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
from click.testing import CliRunner

from gateway.cli import main
from tests.support.services import LOOPBACK, Program, free_port

ROOT = Path(__file__).parents[2]
WAIT_S = 60.0
REGION = "ap-guangzhou"
T = TypeVar("T")


@dataclass(frozen=True)
class Credentials:
    """An access key, as the official clients take it. token: of a temporary one."""

    secret_id: str
    secret_key: str
    token: str = ""

    @property
    def environment(self) -> dict[str, str]:
        found = {
            "TENCENTCLOUD_SECRET_ID": self.secret_id,
            "TENCENTCLOUD_SECRET_KEY": self.secret_key,
            "TENCENTCLOUD_REGION": REGION,
        }
        return {**found, "TENCENTCLOUD_TOKEN": self.token} if self.token else found


@dataclass(eq=False)
class Refused(Exception):
    """What the official command line says when the service answers with an error."""

    code: str
    message: str
    request_id: str


class Gateway:
    """One installation: a data folder, policies, ports. It may be killed and started again."""

    def __init__(self, folder: Path, *, settings: Mapping[str, str]) -> None:
        self.folder = folder
        self.data = folder / "var"
        self.policies = folder / "policies"
        self.port = free_port()
        self.management_port = free_port()
        self.url = f"http://{LOOPBACK}:{self.port}"
        self._settings = dict(settings)
        self._program: Program | None = None
        self._keys: dict[str, Credentials] = {}
        if not self.policies.exists():
            shutil.copytree(ROOT / "policies", self.policies)

    @property
    def environment(self) -> dict[str, str]:
        """What the gateway and its command are started with."""
        return {
            "QCS_GATEWAY_DATA": str(self.data),
            "QCS_GATEWAY_POLICIES": str(self.policies),
            "QCS_GATEWAY_PORT": str(self.port),
            "QCS_GATEWAY_MANAGEMENT_PORT": str(self.management_port),
            "PYTHONPATH": str(ROOT),
            **self._settings,
        }

    @property
    def pid(self) -> int:
        assert self._program is not None
        return self._program.pid

    @property
    def log(self) -> str:
        """Everything the gateway has logged so far."""
        return (self.folder / "log").read_text(encoding="utf-8")

    def start(self, *, wait: bool = True, command: Sequence[str] | None = None) -> None:
        """Start it, by another command than the plain one if need be."""
        command = command or [sys.executable, "-m", "gateway", "serve"]
        self._program = Program(command, log=self.folder / "log", env=self.environment)
        if wait:
            self.wait_ready()

    def wait_ready(self) -> None:
        wait_until(self._is_ready, what=lambda: self.log[-4000:])

    def _is_ready(self) -> bool:
        assert self._program is not None
        assert self._program.running, f"it ended instead of serving:\n{self.log[-4000:]}"
        return self.management("/readyz")[0] == 200

    @property
    def ended(self) -> bool:
        """Whether it has ended, by itself or because it was told to."""
        return self._program is None or not self._program.running

    def stop(self) -> int | None:
        """Ask it to end, wait until it has, and return its exit code; None if it did not run."""
        program, self._program = self._program, None
        return None if program is None else program.end(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once, as a crash does. Its executor goes on."""
        assert self._program is not None
        self._program.end(signal.SIGKILL)
        self._program = None

    def remove(self) -> None:
        """End it and its executor, which goes when its folder has gone."""
        self.stop()
        shutil.rmtree(self.data, ignore_errors=True)

    def management(self, path: str) -> tuple[int, str]:
        """Status and text of a page on the management port; 0 if nobody listens."""
        address = f"http://{LOOPBACK}:{self.management_port}{path}"
        try:
            with urllib.request.urlopen(address, timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def command(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a verb of `qcs-gateway` beside the server."""
        return subprocess.run(
            [sys.executable, "-m", "gateway", *arguments],
            env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8", **self.environment},
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=check,
        )

    def verb(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a verb in this process: much sooner, for where a process of its own shows nothing.

        An exception that a real one would end with, in a traceback, is raised here.
        """
        with contextlib.chdir(self.folder):
            done = CliRunner().invoke(main, arguments, env=self.environment, catch_exceptions=False)
        return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)

    @property
    def root(self) -> Credentials:
        """The root account's key, as the first start wrote it."""
        text = (self.data / "root.env").read_text(encoding="ascii")
        values = dict(line.split("=", 1) for line in text.splitlines())
        return Credentials(values["TENCENTCLOUD_SECRET_ID"], values["TENCENTCLOUD_SECRET_KEY"])

    def create_key(self, user: str, *options: str) -> Credentials:
        """A new key for a declared user. options: more of the verb's, such as `--uin`."""
        done = self.verb("keys", "create", "--user", user, "--json", *options)
        assert done.returncode == 0, done.stderr
        made = json.loads(done.stdout)
        return Credentials(made["SecretId"], made["SecretKey"])

    def key_of(self, user: str) -> Credentials:
        """A key of a declared user, one for all tests: a user may have only two."""
        if user not in self._keys:
            self._keys[user] = self.create_key(user)
        return self._keys[user]

    def tccli(
        self, who: Credentials, service: str, action: str, **parameters: Any
    ) -> dict[str, Any]:
        """One call by the official command line. Raises Refused for a public error.

        parameters: objects and lists are written as JSON, texts as they are.
        """
        arguments = []
        for name, value in parameters.items():
            text = value if isinstance(value, str) else json.dumps(value)
            arguments += [f"--{name}", text]
        done = subprocess.run(
            [
                str(Path(sys.executable).with_name("tccli")),
                *(service, action, "--endpoint", self.url, *arguments),
            ],
            env={"PATH": os.environ["PATH"], "HOME": str(self.folder), **who.environment},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode == 0:
            answer: dict[str, Any] = json.loads(done.stdout)
            return answer
        raise _refused(done.stderr)


def _refused(text: str) -> Exception:
    """Read tccli's one line for an error; what is no such line is a failure of the test."""
    _, found, rest = text.partition("code:")
    if not found:
        return AssertionError(f"tccli failed: {text}")
    code, _, rest = rest.partition(" message:")
    message, _, request_id = rest.rpartition(" requestId:")
    return Refused(code, message, request_id.strip())


def wait_until(
    condition: Callable[[], T], *, at_most_s: float = WAIT_S, what: Callable[[], str] = lambda: ""
) -> T:
    """Return the first true value of a condition; fail, saying what there is instead."""
    end = time.monotonic() + at_most_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            pytest.fail(f"not within {at_most_s:.0f} s. {what()}")
        time.sleep(0.02)


SHARED = pytest.StashKey[Gateway]()


@contextlib.contextmanager
def running_gateway(folder: Path, **settings: str) -> Iterator[Gateway]:
    """A gateway that answers. settings: `QCS_GATEWAY_*` variables, by their whole names."""
    gateway = Gateway(folder, settings=settings)
    gateway.start()
    try:
        yield gateway
    finally:
        gateway.remove()


@pytest.fixture(scope="session")
def gateway(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Gateway]:
    """A gateway on the embedded defaults, shared: make names of your own, change no policy."""
    with running_gateway(tmp_path_factory.mktemp("gateway")) as running:
        request.session.stash[SHARED] = running
        yield running
        del request.session.stash[SHARED]


@pytest.fixture(autouse=True)
def _shared_gateway_lives(request: pytest.FixtureRequest) -> Iterator[None]:
    """If the shared gateway ends, that fails the test it ends in, and no other."""
    yield
    shared = request.session.stash.get(SHARED, None)
    if shared is not None and shared.ended:
        code, log = shared.stop(), shared.log[-8_000:]
        shared.start()
        pytest.fail(f"the shared gateway ended with {code}:\n{log}")
