"""`doctor`: what it finds on this machine, and what it says about settings that cannot work."""

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.commands.diagnosis import file_system_of, look_at_data
from gateway.commands.findings import Verdict
from gateway.commands.machine import look_at_group_moves, look_at_isolation
from gateway.config import Settings
from tests.support.running import Gateway, Refused, running_gateway
from tests.support.sdk import Sdk, task
from tests.support.services import LOOPBACK, RabbitMQ, free_port

NAMES = {
    "isolation.sandbox", "isolation.uid", "isolation.none", "isolation", "isolation.folders",
    "isolation.mounts", "limits.layout", "limits.cpu", "limits.memory", "limits.processes",
    "limits.latency",
    "containers", "capacity", "catalogue", "policies", "issuers", "networks",
    "data.folder", "data.file_system", "data.room",
    "buckets", "shares", "database", "broker",
}  # fmt: skip
PASSWORD = "n0t-to-be-shown"
ISSUERS = """
[[issuer]]
name = "https://login.example"
algorithm = "HS256"
key_file = "weak"
audience = "qcs-gateway"
owner_uins = ["100"]
"""
LOOK_AT_DATABASE = """
import sys
from gateway.commands import diagnosis
from gateway.config import Settings
diagnosis.ANSWER_S = 0.2
print(diagnosis.look_at_database(Settings(database_url=sys.argv[1])).words)
"""
LOOK_AT_DATA = """
import os, sys
from pathlib import Path
from gateway.commands.diagnosis import look_at_data, probing_folder
from gateway.config import Settings
data = Path(sys.argv[1])
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65_534)
    os.setuid(65_534)
with probing_folder(data) as folder:
    assert folder.is_dir()
for found in look_at_data(Settings(data=data)):
    print(found.verdict.value, found.words)
"""
GUARD_S = 60


def consult(folder: Path, **settings: str) -> tuple[int, dict[str, dict[str, Any]], str]:
    """The exit code, the checks by name, and everything that was printed."""
    gateway = Gateway(folder, settings=settings)
    done = gateway.verb("doctor", "--json")
    found = json.loads(done.stdout)
    checks = {each["Name"]: each for each in found["Checks"]}
    worst = [v for v in ("ok", "degraded", "wrong") if v in {c["Verdict"] for c in checks.values()}]
    assert found["Verdict"] == worst[-1]
    return done.returncode, checks, done.stdout + done.stderr


def test_everything_is_looked_at_and_nothing_is_left_behind(tmp_path: Path) -> None:
    code, checks, _ = consult(tmp_path)
    assert code == 0
    assert set(checks) == NAMES
    assert checks["database"]["Verdict"] == "ok"
    assert checks["isolation.none"]["Verdict"] == "ok"
    assert not (tmp_path / "var").exists()
    assert not list(tmp_path.glob(".doctor-*"))


def test_what_is_worse_than_it_could_be_says_what_to_do(tmp_path: Path) -> None:
    code, checks, _ = consult(tmp_path, QCS_GATEWAY_ISOLATION="none")
    assert code == 0
    assert checks["isolation"]["Verdict"] == "degraded"
    assert all(
        each["Advice"] for each in checks.values() if each["Verdict"] in {"degraded", "wrong"}
    )


def test_people_read_a_line_for_each(tmp_path: Path) -> None:
    done = Gateway(tmp_path, settings={}).verb("doctor")
    assert done.returncode == 0
    said = [line.split()[:2] for line in done.stdout.splitlines() if not line.startswith(" ")]
    assert {name for _, name in said} == NAMES
    assert {verdict for verdict, _ in said} <= {"ok", "degraded"}


@pytest.mark.parametrize(
    ("name", "setting", "scheme"),
    [("database", "DATABASE_URL", "postgresql"), ("broker", "AMQP_URL", "amqp")],
)
def test_a_server_that_is_not_there_is_wrong_and_no_password_is_shown(
    tmp_path: Path, name: str, setting: str, scheme: str
) -> None:
    url = f"{scheme}://somebody:{PASSWORD}@{LOOPBACK}:{free_port()}/place"
    code, checks, said = consult(tmp_path, **{f"QCS_GATEWAY_{setting}": url})
    assert code == 1
    assert checks[name]["Verdict"] == "wrong"
    assert checks[name]["Advice"]
    assert PASSWORD not in said


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port on which lines are taken and nothing is ever said."""
    with socket.create_server((LOOPBACK, 0)) as server:
        yield int(server.getsockname()[1])


def python(script: str, *words: str) -> str:
    """What a script prints, run in a process of its own, which must end by itself."""
    command = [sys.executable, "-c", script, *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=GUARD_S, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_database_that_is_silent_is_given_up_and_does_not_hold_the_process(
    silent_port: int,
) -> None:
    said = python(LOOK_AT_DATABASE, f"postgresql://somebody@{LOOPBACK}:{silent_port}/place")
    assert "does not answer" in said


def test_a_data_folder_below_one_that_is_shut_is_wrong() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)
        shut = Path(folder, "shut")
        shut.mkdir(mode=0)
        said = python(LOOK_AT_DATA, str(shut / "var"))
    assert said == f"wrong {shut} is no folder that this user can write to\n"


def test_what_a_library_says_of_a_server_that_is_not_there_is_not_printed(tmp_path: Path) -> None:
    url = f"amqp://{LOOPBACK}:{free_port()}/"
    gateway = Gateway(tmp_path, settings={"QCS_GATEWAY_AMQP_URL": url})
    assert gateway.command("doctor", check=False).stderr == ""


@pytest.mark.parametrize(
    ("name", "setting", "value"),
    [
        ("catalogue", "CATALOGUE", "catalogue.toml"),
        ("policies", "POLICIES", "nowhere"),
        ("issuers", "JWT_ISSUERS", "issuers.toml"),
        ("issuers", "JWT_ISSUERS", "nowhere.toml"),
        ("networks", "TRUSTED_PROXIES", "10.0.0.0/33"),
        ("networks", "PUSH_NETWORKS", "loopback"),
        ("isolation.folders", "SANDBOX_FOLDERS", "/nowhere/tools"),
        ("shares", "MOUNT_ROOT", "nowhere"),
        ("buckets", "COS_ENDPOINT", "http://{address}"),
        ("buckets", "COS_ENDPOINT", "http://no host"),
        ("buckets", "COS_ENDPOINT", "http://a..b"),
        ("broker", "AMQP_URL", "amqp://a..b/"),
        ("database", "DATABASE_URL", "postgresql://a..b/place"),
    ],
)
def test_what_would_stop_the_server_or_its_jobs_is_wrong(
    tmp_path: Path, name: str, setting: str, value: str
) -> None:
    (tmp_path / "catalogue.toml").write_text("[[image]]\nnonsense = 1\n")
    (tmp_path / "issuers.toml").write_text(ISSUERS)
    (tmp_path / "weak").write_text("short")
    value = value.format(address=f"{LOOPBACK}:{free_port()}")
    code, checks, _ = consult(tmp_path, **{f"QCS_GATEWAY_{setting}": value})
    assert code == 1
    wrong = {each for each, found in checks.items() if found["Verdict"] == "wrong"}
    assert wrong == {name}
    assert checks[name]["Advice"]


def test_an_isolation_that_does_not_work_is_never_called_ok(tmp_path: Path) -> None:
    (tmp_path / "shut").mkdir(mode=0o700)
    _, checks, _ = consult(tmp_path / "shut")
    assert checks["isolation.uid"]["Verdict"] == "degraded"
    assert checks["isolation.uid"]["Advice"]


def test_a_broker_that_is_there_is_reached(tmp_path: Path, rabbitmq: RabbitMQ) -> None:
    _, checks, _ = consult(tmp_path, QCS_GATEWAY_AMQP_URL=rabbitmq.url)
    assert (checks["broker"]["Verdict"], checks["broker"]["Found"]) == ("ok", "reached")


@pytest.mark.parametrize(
    ("login", "place", "words"),
    [
        (f"guest:{PASSWORD}", "", "it is there, and refuses this user or password"),
        (f"nobody-here:{PASSWORD}", "", "it is there, and refuses this user or password"),
        ("guest:guest", "nowhere", "virtual host"),
    ],
)
def test_a_broker_that_lets_nobody_in_is_told_apart_from_one_that_is_absent(
    tmp_path: Path, rabbitmq: RabbitMQ, login: str, place: str, words: str
) -> None:
    url = rabbitmq.url.replace("guest:guest", login) + place
    code, checks, said = consult(tmp_path, QCS_GATEWAY_AMQP_URL=url)
    assert code == 1
    assert checks["broker"]["Verdict"] == "wrong"
    assert words in checks["broker"]["Found"]
    assert "Start it" not in checks["broker"]["Advice"]
    assert "Error" not in checks["broker"]["Found"]
    assert PASSWORD not in said


def test_a_postgresql_that_is_there_is_asked(tmp_path: Path, migrated_postgresql_url: str) -> None:
    _, checks, _ = consult(tmp_path, QCS_GATEWAY_DATABASE_URL=migrated_postgresql_url)
    assert checks["database"]["Verdict"] == "ok"
    assert "revision" in checks["database"]["Found"]


def test_it_runs_beside_a_server_and_disturbs_nothing(tmp_path: Path) -> None:
    with running_gateway(tmp_path) as gateway:
        before = executors_of(gateway)
        done = gateway.verb("doctor", "--json")
        assert done.returncode == 0, done.stdout
        assert before
        assert executors_of(gateway) == before
        assert gateway.management("/readyz")[0] == 200
        assert not list((gateway.data / "engine").glob(".doctor-*"))


def test_a_job_is_refused_in_the_doctors_words(tmp_path: Path) -> None:
    mapped = [{"SourcePath": "nfs://10.0.0.1/share/", "DestinationPath": "/data/"}]
    with running_gateway(tmp_path, QCS_GATEWAY_ISOLATION="none") as gateway:
        said = json.loads(gateway.verb("doctor", "--json").stdout)
        [words] = [each["Found"] for each in said["Checks"] if each["Name"] == "isolation.mounts"]
        with pytest.raises(Refused) as refused:
            Sdk(gateway, gateway.root).submit(task("one", "true", InputMappings=mapped))
    assert refused.value.code == "UnsupportedOperation"
    assert words in str(refused.value)


def executors_of(gateway: Gateway) -> list[str]:
    """The pids of the executors of an installation."""
    words = ["pgrep", "-f", f"gateway.batch.executor --detach --root {gateway.data}/engine "]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout.split()


def test_a_data_folder_that_is_a_file_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    [found] = look_at_data(Settings(data=tmp_path / "file"))
    assert found.verdict is Verdict.WRONG


def test_an_isolation_that_does_not_work_is_wrong_only_if_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bubblewrap is hidden from the probes by a PATH that does not hold it."""
    tmp_path.chmod(0o711)
    monkeypatch.setattr("gateway.batch.executor.isolation.PATH", str(tmp_path))
    asked = {each.name: each for each in look_at_isolation(tmp_path, asked="sandbox")}
    assert asked["isolation.sandbox"].verdict is Verdict.DEGRADED
    assert "bwrap" in asked["isolation.sandbox"].words
    assert asked["isolation"].verdict is Verdict.WRONG
    assert "bubblewrap" in asked["isolation"].advice


V1 = "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu{more}"
V2 = "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw{more}"


@pytest.mark.parametrize(
    ("mounts", "release", "words", "advice"),
    [
        ([V1, V2], "6.18.4-generic", "is not set", "remount,favordynmods /sys/fs/cgroup/unified`"),
        ([V2], "6.0.0", "is not set", "remount,favordynmods /sys/fs/cgroup/unified`"),
        ([V1], "10.1", "is not set", "cgroup_favordynmods=true"),
        ([V1, f"{V2},favordynmods"], "6.1.0-18-amd64", "is set: ", ""),
        ([f"{V1},favordynmods"], "6.1.0", "is set: ", ""),
        ([V1, V2], "5.10.0-30-cloud", "kernel 5.10.0-30-cloud needs no", ""),
        (["21 1 0:1 / / rw - ext4 /dev/vda rw"], "6.18.4", "no control groups", ""),
    ],
)
def test_a_kernel_that_makes_commands_wait_for_their_groups_is_told_of_as_advice(
    mounts: list[str], release: str, words: str, advice: str
) -> None:
    text = "\n".join(each.replace("{more}", "") for each in mounts)
    found = look_at_group_moves(text, release=release)
    assert found.verdict is Verdict.OK
    assert words in found.words
    assert advice in found.advice
    assert bool(found.advice) is bool(advice)


def test_an_isolation_that_mounts_nothing_is_told_of_in_the_words_of_a_refused_job(
    tmp_path: Path,
) -> None:
    tmp_path.chmod(0o711)
    found = {each.name: each for each in look_at_isolation(tmp_path, asked="none")}
    assert found["isolation.mounts"].words == "the isolation `none` mounts nothing"
    assert found["isolation.mounts"].verdict is Verdict.DEGRADED


def test_a_file_system_is_that_of_the_nearest_mount(tmp_path: Path) -> None:
    real = os.path.realpath(tmp_path)
    mounts = "\n".join([
        "21 1 0:1 / / rw - ext4 /dev/vda rw",
        f"22 21 0:2 / {real} rw - nfs4 server:/share rw",
        f"23 21 0:3 / {real}/deep rw - tmpfs tmpfs rw",
        rf"24 21 0:4 / {real}/Dürers\040\134x rw - xfs /dev/vdb rw",
    ])  # fmt: skip
    assert file_system_of(tmp_path / "x", mounts) == "nfs4"
    assert file_system_of(tmp_path / "deep", mounts) == "tmpfs"
    assert file_system_of(tmp_path / "Dürers \\x" / "deep", mounts) == "xfs"
    assert file_system_of(Path("/somewhere"), mounts) == "ext4"
