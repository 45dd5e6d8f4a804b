"""The isolation `uid` behind the real server: a command is another user, and has no way to more."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.running import Gateway, running_gateway
from tests.support.sdk import Sdk, task

LOOK = """
for path in {paths}; do
    if [ -r "$path" ]; then echo "reads $path"; fi
    if [ -w "$path" ]; then echo "writes $path"; fi
done
id -u; pwd; echo kept > made
"""


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    """A gateway in a folder that others can pass through, as a service's is."""
    folder = Path(tempfile.mkdtemp(prefix="gateway-"))
    folder.chmod(0o711)
    data = folder / "var"
    (data / "cos" / "bucket-1").mkdir(parents=True)
    (data / "cos" / "bucket-1" / "object").touch()
    data.chmod(0o700)  # as an older version left it
    try:
        with running_gateway(folder, QCS_GATEWAY_ISOLATION="uid") as running:
            yield running
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_a_command_as_another_user_runs_and_reads_nothing_of_the_gateway(gateway: Gateway) -> None:
    sdk = Sdk(gateway, gateway.root)
    first = sdk.submit(task("one", "echo first"))
    assert sdk.wait(first)["JobState"] == "SUCCEED"
    attempts = gateway.data / "engine" / "attempts"
    paths = [gateway.data]
    for parent, folders, files in os.walk(gateway.data):
        found = [Path(parent, name) for name in (*folders, *files)]
        # What other commands made is theirs, and all commands are one user here.
        paths += [path for path in found if not path.is_relative_to(attempts)]
    names = {path.name for path in paths}
    assert {"gateway.db", "gateway.db-wal", "sealing.key", "root.env", "lock", "object"} <= names
    assert {"nfs", "journal", "executor.sock", "executor.log"} <= names
    command = LOOK.format(paths=" ".join(f"'{path}'" for path in paths))
    job = sdk.submit(task("one", command))
    assert sdk.wait(job)["JobState"] == "SUCCEED", gateway.log
    [(out, err)] = sdk.logs(job, "one")
    assert (out.count("\n"), err) == (2, ""), out
    assert out.startswith(f"65534\n{attempts / job}/")


def test_doctor_tries_it_where_the_server_does(gateway: Gateway) -> None:
    for mode in (0o711, 0o700):
        gateway.data.chmod(mode)
        said = gateway.verb("doctor").stdout
        line = next(each for each in said.splitlines() if " isolation.uid " in each)
        assert line.split() == ["ok", "isolation.uid", "works"]
