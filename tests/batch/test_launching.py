"""Real commands on the real engine: their packages, mappings and outputs, from end to end."""

import io
import tarfile
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from gateway.batch import datatypes
from gateway.batch.abilities import check_abilities, check_env_abilities
from gateway.batch.engines import Ability
from gateway.batch.validation import plan_job
from gateway.errors import InvalidParameterValue, UnsupportedOperation
from gateway.store import Store
from tests.batch.executor.conftest import root
from tests.batch.executor.executors import local_engine
from tests.support.batch import DEFAULT_RULES, REGION, ZONE, Batch, a_job, a_task, an_env
from tests.support.fake_engine import FakeEngine
from tests.support.staging import BUCKET, COS

__all__ = ["root"]  # a fixture
pytestmark = pytest.mark.anyio
OVER = ("SUCCEED", "FAILED")
NO_MOUNTS = "the isolation `uid` mounts nothing"
NO_CONTAINERS = "podman: cannot read /etc/containers/storage.conf"
LOG_READ_MAX = 10_000
IN = {"SourcePath": f"{COS}in/", "DestinationPath": "/data/"}
OUT = {"SourcePath": "/data/out", "DestinationPath": f"{COS}out/"}
DISK = {"EnvData": {"InstanceType": "S1.SMALL1"}, "MountDataDisks": [{"LocalPath": "/disk"}]}
DOCKER = {"DeliveryForm": "LOCAL", "Command": "true", "Docker": {"Image": "user/repo:1"}}


def bucket(top: Path) -> Path:
    return top.parent / "cos" / BUCKET


async def run(store: Store, top: Path, *, isolation: str | None, **members: Any) -> dict[str, Any]:
    """Run one task for real; returns its instance, with its log."""
    async with local_engine(top, isolation=isolation) as engine:
        batch = Batch(store, cast(FakeEngine, engine), folder=top.parent)
        async with batch.scheduling():
            job_id = await batch.submit(a_task(**members))
            await batch.until_state(job_id, *OVER)
        [instance] = await batch.instances(job_id)
        logs = [engine.log_path(f"{job_id}/0/0.1", each) for each in ("stdout", "stderr")]
        return {**instance, "Log": [beginning(log) if log.exists() else "" for log in logs]}


def beginning(log: Path) -> str:
    """What a log begins with; a command can make it as long as it likes."""
    with log.open() as file:
        return file.read(LOG_READ_MAX)


@pytest.mark.parametrize("isolation", ["sandbox", "uid", "none"])
async def test_a_package_runs_where_it_was_unpacked_and_its_output_is_kept(
    store: Store, root: Path, isolation: str
) -> None:
    script = b"#!/bin/sh\necho hello from $BATCH_JOB_ID > results/said\n"
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        info = tarfile.TarInfo("codepkg/run")
        info.size, info.mode = len(script), 0o755
        archive.addfile(info, io.BytesIO(script))
    (bucket(root) / "pkg").mkdir(parents=True)
    (bucket(root) / "pkg/codepkg.tgz").write_bytes(packed.getvalue())
    application = {
        "DeliveryForm": "PACKAGE",
        "PackagePath": f"{COS}pkg/codepkg.tgz",
        "Command": "./codepkg/run",
    }
    kept = {"SourcePath": "/work/results", "DestinationPath": f"{COS}out/"}
    instance = await run(
        store, root, isolation=isolation, Application=application, OutputMappings=[kept]
    )
    assert instance["TaskInstanceState"] == "SUCCEED", instance
    assert (bucket(root) / "out/said").read_text().startswith("hello from job-")


@pytest.mark.parametrize("of_env", [False, True])
async def test_no_log_is_written_where_a_command_swapped_a_shares_folder_for_a_link(
    store: Store, root: Path, monkeypatch: pytest.MonkeyPatch, of_env: bool
) -> None:
    """Refused when it is submitted; and what was accepted before is not copied."""
    share, victim = root.parent / "nfs" / "10.66.1.2", root.parent / "victim"
    (share / "pub" / "a").mkdir(parents=True)
    victim.mkdir()
    (victim / "passwd").write_text("root")
    for folder in (share / "pub", share / "pub" / "a"):
        folder.chmod(0o777)
    mappings = [
        {"SourcePath": "nfs://10.66.1.2/", "DestinationPath": "/mnt"},
        {"SourcePath": "nfs://10.66.1.2/pub/a/", "DestinationPath": "/data/a"},
    ]
    swap = f"mv /mnt/pub/a /mnt/pub/b && ln -s {victim} /mnt/pub/a && echo evil"
    members: dict[str, Any] = {
        "Application": {"DeliveryForm": "LOCAL", "Command": swap},
        "RedirectLocalInfo": {"StdoutLocalPath": "/data/a", "StdoutLocalFileName": "passwd"},
    }
    async with local_engine(root, isolation="sandbox") as engine:
        batch = Batch(store, cast(FakeEngine, engine), folder=root.parent)
        async with batch.scheduling():
            if of_env:
                members["EnvId"] = await batch.create_env(InputMappings=mappings)
            else:
                members["InputMappings"] = mappings
            with pytest.raises(InvalidParameterValue) as caught:
                await batch.submit(a_task(**members))
            assert caught.value.detail == "LocalPath"
            monkeypatch.setattr("gateway.batch.mappings.check_kept_places", lambda *_, **__: None)
            monkeypatch.setattr("gateway.batch.jobs.check_kept_places", lambda *_, **__: None)
            job_id = await batch.submit(a_task(**members))
            assert await batch.until_state(job_id, *OVER) == "SUCCEED"
    assert (share / "pub" / "a").is_symlink(), "the command did what it could"
    assert (victim / "passwd").read_text() == "root"
    assert list((share / "pub" / "b").iterdir()) == [], "nor anything of ours in a share"


async def test_holes_that_a_command_makes_take_no_room_in_the_bucket(
    store: Store, root: Path
) -> None:
    instance = await run(
        store,
        root,
        isolation="sandbox",
        Application={
            "DeliveryForm": "LOCAL",
            "Command": "truncate -s 3G /proc/self/fd/1 /data/out/big",
        },
        OutputMappings=[OUT],
        RedirectInfo={"StdoutRedirectPath": f"{COS}out/", "StdoutRedirectFileName": "log"},
    )
    assert instance["TaskInstanceState"] == "SUCCEED", instance
    for name in ("big", "log"):
        found = (bucket(root) / "out" / name).stat()
        assert found.st_size == 3 * 2**30
        assert found.st_blocks * 512 < 1_000_000


async def test_a_command_reads_its_input_and_leaves_output_and_files_on_its_disk(
    store: Store, root: Path
) -> None:
    (bucket(root) / "in").mkdir(parents=True)
    (bucket(root) / "in/words").write_text("b\na\n")
    command = "sort /data/words > /data/out/sorted && cp /data/words /disk/ && ls /disk"
    instance = await run(
        store,
        root,
        isolation="sandbox",
        Application={"DeliveryForm": "LOCAL", "Command": command},
        InputMappings=[IN],
        OutputMappings=[OUT],
        ComputeEnv=DISK,
        RedirectLocalInfo={"StdoutLocalPath": "/data/out", "StdoutLocalFileName": "log"},
    )
    assert instance["TaskInstanceState"] == "SUCCEED", instance
    assert (bucket(root) / "out/sorted").read_text() == "a\nb\n"
    assert (bucket(root) / "out/log").read_text() == "words\n"
    assert [each.name for each in (bucket(root) / "in").iterdir()] == ["words"], "as it was"


async def test_an_input_cannot_be_written_to(store: Store, root: Path) -> None:
    (bucket(root) / "in").mkdir(parents=True)
    (bucket(root) / "in").chmod(0o777)
    instance = await run(
        store,
        root,
        isolation="sandbox",
        Application={"DeliveryForm": "LOCAL", "Command": "touch /data/x"},
        InputMappings=[IN],
    )
    assert instance["StateReason"] == "USER_EXIT"
    assert "Read-only file system" in instance["Log"][1]


@pytest.mark.parametrize(
    ("members", "ability", "words"),
    [
        ({"InputMappings": [IN]}, Ability.MOUNTS, [NO_MOUNTS, "Install bubblewrap"]),
        ({"OutputMappings": [OUT]}, Ability.MOUNTS, [NO_MOUNTS, "`/work`"]),
        ({"ComputeEnv": DISK}, Ability.MOUNTS, [NO_MOUNTS, "Install bubblewrap"]),
        (
            {"Application": DOCKER},
            Ability.CONTAINERS,
            ["podman: cannot read ….", "gateway that runs as root", "`qcs-gateway doctor`"],
        ),
    ],
)
def test_what_the_engine_cannot_do_is_refused_with_its_reason_and_what_to_do(
    members: dict[str, Any], ability: Ability, words: list[str]
) -> None:
    """The reason is the engine's own, but for paths of its machine."""
    why = {Ability.MOUNTS: NO_MOUNTS, Ability.CONTAINERS: NO_CONTAINERS}
    request = {"Placement": {"Zone": ZONE}, "Job": a_job(a_task(), a_task("b", **members))}
    plan = plan_job(
        msgspec.convert(request, datatypes.SubmitJobRequest), region=REGION, rules=DEFAULT_RULES
    )
    check_abilities(plan, {each: why[each] for each in why if each is not ability})
    with pytest.raises(UnsupportedOperation) as caught:
        check_abilities(plan, {ability: why[ability]})
    assert all(each in str(caught.value) for each in ["`b`", *words])


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"OutputMappings": [{"SourcePath": "/work/out", "DestinationPath": f"{COS}out/"}]},
        {"RedirectLocalInfo": {"StdoutLocalPath": "/work"}},
        {
            "Application": {
                "DeliveryForm": "PACKAGE",
                "PackagePath": f"{COS}p.tgz",
                "Command": "true",
            }
        },
    ],
)
def test_what_needs_no_ability_is_taken_by_every_engine(members: dict[str, Any]) -> None:
    request = {"Placement": {"Zone": ZONE}, "Job": a_job(a_task(**members))}
    plan = plan_job(
        msgspec.convert(request, datatypes.SubmitJobRequest), region=REGION, rules=DEFAULT_RULES
    )
    check_abilities(plan, dict.fromkeys(Ability, "it is a test's"))


def test_a_container_sees_mapped_folders_without_a_sandbox() -> None:
    task = a_task(Application=DOCKER, InputMappings=[IN])
    request = {"Placement": {"Zone": ZONE}, "Job": a_job(task)}
    plan = plan_job(
        msgspec.convert(request, datatypes.SubmitJobRequest), region=REGION, rules=DEFAULT_RULES
    )
    check_abilities(plan, {Ability.MOUNTS: NO_MOUNTS})


def test_an_environment_that_maps_folders_needs_an_engine_that_can() -> None:
    def env(**members: Any) -> datatypes.NamedComputeEnv:
        return msgspec.convert(an_env(**members), datatypes.NamedComputeEnv)

    neither = {Ability.MOUNTS: NO_MOUNTS, Ability.CONTAINERS: NO_CONTAINERS}
    check_env_abilities(env(), neither)
    for folders in ({"InputMappings": [IN]}, {"MountDataDisks": [{"LocalPath": "/disk"}]}):
        for ability, why in neither.items():
            check_env_abilities(env(**folders), {ability: why})
        with pytest.raises(UnsupportedOperation, match="The environment"):
            check_env_abilities(env(**folders), neither)


async def test_a_docker_job_is_refused_in_the_words_of_the_engine(
    store: Store, tmp_path: Path
) -> None:
    engine = FakeEngine(tmp_path / "engine")
    engine.missing = {Ability.CONTAINERS: "neither podman nor docker is installed"}
    batch = Batch(store, engine, folder=tmp_path)
    with pytest.raises(UnsupportedOperation, match="neither podman nor docker is installed"):
        await batch.submit(a_task(Application=DOCKER))
