"""Private servers for tests: a RabbitMQ node and a PostgreSQL cluster, on loopback only.

Ports, folders and names are a run's own, so that two runs do not meet. A server that is not
installed fails the test that asks for it; nothing is skipped.
"""

import contextlib
import itertools
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psycopg
import pytest

from gateway.batch.executor.processes import find_process
from gateway.store.migrations import migrate

START_S = 60
STOP_S = 30
LOOPBACK = "127.0.0.1"
PORTS = range(10_000, 32_768)  # below those that Linux gives to outgoing connections
AMQP_GREETING = b"AMQP\x00\x00\x09\x01"
POSTGRESQL_SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "max_connections": "200",
    "fsync": "off",  # tests kill the server, never the machine under it
}

MIGRATED = "migrated"
EMPTY = """
DO $$
DECLARE
    name text;
    is_used boolean;
    used text[];
BEGIN
    PERFORM pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid();
    FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' LOOP
        IF name NOT IN ('alembic_version', 'installation') THEN
            EXECUTE format('SELECT EXISTS (SELECT FROM %I)', name) INTO is_used;
            IF is_used THEN used := used || format('%I', name); END IF;
        END IF;
    END LOOP;
    IF used IS NOT NULL THEN
        EXECUTE format('TRUNCATE %s CASCADE', array_to_string(used, ', '));
    END IF;
    PERFORM setval(format('%I', sequencename)::regclass, 1, false)
    FROM pg_sequences WHERE last_value IS NOT NULL;
END $$
"""
"""Empty what a test has filled, and count from one again. Not by DELETE: what that leaves in the
tables until they are vacuumed would make later tests read more.
"""
_DATABASE_NUMBERS = itertools.count(1)
_ports = iter(secrets.SystemRandom().sample(PORTS, len(PORTS)))


def free_port() -> int:
    """A port that nobody listens on now, nor is likely to take before its server does.

    One process gives none twice: of a hundred that wait for their servers, two would soon be the
    same.

    Why not one of the system's choice: it gives the same ones to every outgoing connection, and
    there are many of those, of this run and of the ones beside it.
    """
    for port in _ports:
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind((LOOPBACK, port))
            return port
    raise OSError("every port has been given")


def find_program(name: str, *, pattern: str) -> Path:
    """The newest program whose path matches `pattern` below /usr/lib; fails the test if absent."""
    found = sorted(Path("/usr/lib").glob(pattern))
    if not found:
        pytest.fail(f"{name} is not installed: run scripts/test, which installs it.", pytrace=False)
    return found[-1]


class Program:
    """One running program with the process group it leads. It cannot outlive the test run.

    user: who runs it; None for whoever runs the tests.
    """

    def __init__(
        self, command: Sequence[str], *, log: Path, env: Mapping[str, str], user: str | None = None
    ) -> None:
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8", **env},
                cwd=log.parent,
                start_new_session=True,
                user=user,
                group=user,
                extra_groups=[] if user else None,
            )
        self.pid = self._process.pid
        self._guard = _start_guard(self.pid)

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def end(self, number: signal.Signals) -> int | None:
        """Send a signal, wait for the end and return the exit code; kill what takes too long."""
        try:
            if self.running:
                self._process.send_signal(number)
                self._process.wait(STOP_S)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self._process.wait(STOP_S)
            self._guard.communicate(b"\n", timeout=STOP_S)
        return self._process.returncode


def _start_guard(pid: int) -> subprocess.Popen[bytes]:
    """Start a shell that kills the process group `pid` when our end of its pipe closes unused."""
    return subprocess.Popen(
        ["/bin/sh", "-c", f"read -r _ || kill -s KILL -- -{pid}"],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )


class Server:
    """A server that can be stopped, killed and started again on the same port and data."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self._program: Program | None = None

    def start(self) -> None:
        """Start it unless it runs, and return once it answers."""
        if self._program and self._program.running:
            return
        self._program = self._launch()
        give_up_at = time.monotonic() + START_S
        while not self._answers():
            if not self._program.running or time.monotonic() > give_up_at:
                self.kill()
                pytest.fail(f"{type(self).__name__} did not start:\n{self._log_tail()}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop it in its own orderly way, and return once it has gone."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it, as a power cut would."""
        self._end(signal.SIGKILL)

    def close(self) -> None:
        """Stop it for good."""
        self.stop()

    def _end(self, number: signal.Signals) -> None:
        if self._program:
            self._program.end(number)
            self._program = None

    def _log_tail(self) -> str:
        log = self.folder / "output.log"
        return log.read_text(errors="replace")[-4_000:] if log.exists() else "(no output)"

    def _launch(self) -> Program:
        raise NotImplementedError

    def _answers(self) -> bool:
        raise NotImplementedError


class RabbitMQ(Server):
    """A RabbitMQ node, with its own port mapper and cookie.

    url: what an AMQP client connects to. ports: AMQP, distribution and port mapper.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.url = f"amqp://guest:guest@{LOOPBACK}:{self.port}/"
        self.ports = (self.port, free_port(), free_port())
        pattern = "rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server"
        self._script = find_program("RabbitMQ", pattern=pattern)
        self._mapper = Program(
            ["epmd", "-address", LOOPBACK, "-port", str(self.ports[2])],
            log=folder / "epmd.log",
            env={},
        )

    def close(self) -> None:
        """Stop the node and its port mapper for good."""
        try:
            self.stop()
        finally:
            self._mapper.end(signal.SIGTERM)

    def control(self, *command: str) -> str:
        """Run rabbitmqctl on the node, and return what it prints."""
        done = subprocess.run(
            [self._script.with_name("rabbitmqctl"), "--quiet", *command],
            env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8", **self._environment()},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=START_S,
            check=False,
        )
        if done.returncode:
            pytest.fail(f"rabbitmqctl {command[0]} failed:\n{done.stdout}{done.stderr}")
        return done.stdout

    def _launch(self) -> Program:
        return Program([str(self._script)], log=self.folder / "output.log", env=self._environment())

    def _environment(self) -> dict[str, str]:
        """What keeps the node from the machine's own: folders, ports, name, cookie, settings."""
        _, distribution_port, mapper_port = self.ports
        return {
            "HOME": str(self.folder),
            "ERL_EPMD_PORT": str(mapper_port),
            "RABBITMQ_NODENAME": f"test-{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": LOOPBACK,
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(distribution_port),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "data"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "enabled_plugins"),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq"),
            "RABBITMQ_CONF_ENV_FILE": str(self.folder / "rabbitmq-env.conf"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            # makes the script become the node, so that a signal reaches the node itself
            "RUNNING_UNDER_SYSTEMD": "true",
        }

    def _answers(self) -> bool:
        with (
            contextlib.suppress(OSError),
            socket.create_connection((LOOPBACK, self.port), 1) as line,
        ):
            line.settimeout(5)
            line.sendall(AMQP_GREETING)
            return line.recv(1) == b"\x01"  # a method frame: Connection.Start
        return False


class Postgresql(Server):
    """A PostgreSQL cluster, run by Debian's user `postgres` if the tests run as root."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._postgres = find_program("PostgreSQL", pattern="postgresql/*/bin/postgres")
        self._user = "postgres" if os.geteuid() == 0 else None
        if self._user:
            shutil.chown(folder, self._user, self._user)
        self._make_cluster()

    def url_of(self, database: str) -> str:
        """The URL of one of its databases."""
        return f"postgresql://postgres@{LOOPBACK}:{self.port}/{database}"

    def execute(self, statement: str) -> None:
        """Run one administrative statement."""
        with psycopg.connect(self.url_of("postgres"), autocommit=True) as connection:
            connection.execute(statement.encode())

    def stop(self) -> None:
        """Stop it without waiting for its clients to leave."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """Kill it, as a power cut would: also those that answer for it, in groups of their own."""
        backends = self._backends() if self._program and self._program.running else []
        super().kill()
        for pid in backends:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        while any(_answers_still(pid) for pid in backends):
            time.sleep(0.002)

    def _backends(self) -> list[int]:
        assert self._program
        pid = self._program.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
        return [int(child) for child in children.split()]

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """A `with` block in which it keeps its connections and answers nothing."""
        assert self._program
        # it first, so that it makes no more
        stopped = [self._program.pid]
        os.kill(stopped[0], signal.SIGSTOP)
        try:
            for pid in self._backends():
                os.kill(pid, signal.SIGSTOP)
                stopped.append(pid)
            yield
        finally:
            for pid in stopped:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    @contextlib.contextmanager
    def standing_by(self) -> Iterator[None]:
        """A `with` block in which it is a standby, which takes no changes; then it is promoted."""
        self.stop()
        (self.folder / "data" / "standby.signal").touch()
        self.start()
        try:
            yield
        finally:
            self.execute("SELECT pg_promote()")

    def _make_cluster(self) -> None:
        options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8"]
        made = subprocess.run(
            [self._postgres.with_name("initdb"), "--no-sync", *options, self.folder / "data"],
            cwd=self.folder,
            env={"LANG": "C.UTF-8"},
            user=self._user,
            group=self._user,
            extra_groups=[] if self._user else None,
            capture_output=True,
            text=True,
            timeout=START_S,
            check=False,
        )
        if made.returncode:
            pytest.fail(f"initdb failed:\n{made.stdout}{made.stderr}")

    def _launch(self) -> Program:
        settings = {**POSTGRESQL_SETTINGS, "port": str(self.port)}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return Program(
            [str(self._postgres), "-D", str(self.folder / "data"), *options],
            log=self.folder / "output.log",
            env={},
            user=self._user,
        )

    def _answers(self) -> bool:
        try:
            self.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True


def _answers_still(pid: int) -> bool:
    """Whether a process that was killed still holds its connections."""
    process = find_process(pid)
    return process is not None and not process.is_zombie


@contextlib.contextmanager
def private_folder(name: str) -> Iterator[Path]:
    """A folder of this run's own, removed afterwards; short, and open to the servers' users."""
    folder = Path(tempfile.mkdtemp(prefix=f"qcs-gateway-{name}-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=sys.exc_info()[0] is not None)


@pytest.fixture(scope="session")
def rabbitmq_server() -> Iterator[RabbitMQ]:
    """The run's RabbitMQ node, in whatever state the last test left it."""
    with private_folder("rabbitmq") as folder, contextlib.closing(RabbitMQ(folder)) as server:
        server.start()
        yield server


@pytest.fixture
def rabbitmq(rabbitmq_server: RabbitMQ) -> RabbitMQ:
    """A running RabbitMQ node; a test may stop or kill it, the next one finds it started."""
    rabbitmq_server.start()
    return rabbitmq_server


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[Postgresql]:
    """The run's PostgreSQL cluster, in whatever state the last test left it."""
    with private_folder("postgresql") as folder, contextlib.closing(Postgresql(folder)) as server:
        server.start()
        yield server


@pytest.fixture
def postgresql(postgresql_server: Postgresql) -> Postgresql:
    """A running PostgreSQL cluster; a test may stop or kill it, the next one finds it started."""
    postgresql_server.start()
    return postgresql_server


@pytest.fixture
def postgresql_url(postgresql: Postgresql) -> Iterator[str]:
    """A new, empty PostgreSQL database."""
    name = f"test_{next(_DATABASE_NUMBERS)}"
    postgresql.execute(f"CREATE DATABASE {name} TEMPLATE template0")
    yield postgresql.url_of(name)
    postgresql.start()
    postgresql.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def migrated_database(postgresql_server: Postgresql) -> str:
    """The name of a database that each test leaves empty: making one takes longer than most."""
    postgresql_server.start()
    postgresql_server.execute(f"CREATE DATABASE {MIGRATED} TEMPLATE template0")
    migrate(postgresql_server.url_of(MIGRATED))
    return MIGRATED


@pytest.fixture
def migrated_postgresql_url(migrated_database: str, postgresql: Postgresql) -> Iterator[str]:
    """An empty PostgreSQL database with every room's tables; leave the tables as they are."""
    url = postgresql.url_of(migrated_database)
    yield url
    postgresql.start()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(EMPTY)
