"""Paths of Windows nodes: taken where the image is one of Windows, and nowhere else."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.batch.datatypes import CreateComputeEnvRequest, Task
from gateway.batch.environments.requests import check_env
from gateway.batch.validation import check_task
from gateway.batch.windows_paths import check_windows_path
from gateway.errors import ApiError
from gateway.service import decode
from gateway.store import Store
from tests.support.batch import DEFAULT_RULES, REGION, ZONE, Batch, Turns, a_task, an_env, events_of
from tests.support.environments import LINUX, UNKNOWN, WINDOWS, activities_of, states_of

LOCAL = "InvalidParameterValue.LocalPath"
AGENT = {"AgentRunningMode": {"Scene": "WINDOWS", "User": "Administrator", "Session": "1"}}
DRIVE: dict[str, Any] = {"MountDataDisks": [{"LocalPath": "H:\\", "FileSystemType": "NTFS"}]}
SHARE: dict[str, Any] = {
    "InputMappings": [{"SourcePath": "cfs://10.66.1.2/", "DestinationPath": "Z:\\"}]
}
BUCKET = "cos://dondonbatch-1251783334.cos.ap-guangzhou.myqcloud.com/out/"


def on(image: str | None, **members: Any) -> dict[str, Any]:
    """What a task has that runs on nodes of an image, with these members of their ComputeEnv."""
    return {"ComputeEnv": {"EnvData": {"ImageId": image} if image else {}, **members}}


def check(**members: Any) -> None:
    check_task(decode(a_task(**members), Task), rules=DEFAULT_RULES)


@pytest.mark.parametrize(
    ("path", "clean"),
    [
        ("H:\\", "h:"),
        ("h:", "h:"),
        ("Z:\\Data\\in put", "z:\\data\\in put"),
        ("Z:/data//.\\x\\", "z:\\data\\x"),
        ("C:\\windows-data", "c:\\windows-data"),
    ],
)
def test_a_windows_path_begins_with_a_drive(path: str, clean: str) -> None:
    assert check_windows_path("LocalPath", path) == clean


@pytest.mark.parametrize(
    "path",
    [
        *("", "H", "\\data", "/data", "data", "HH:\\", "H:data", "H:\\a\\..\\b", "1:\\", "H:\\a:b"),
        *("H:\\a|b", "H:\\a*", 'H:\\"a"', "H:\\a\nb", "H:\\a\0b", "H:\\" + "a" * 1_024),
        *("\\\\server\\share", "C:\\", "c:", "C:\\Windows", "c:/windows/system32"),
    ],
)
def test_no_other_path_is_one(path: str) -> None:
    with pytest.raises(ApiError) as caught:
        check_windows_path("LocalPath", path)
    assert caught.value.code == LOCAL


@given(path=st.text(alphabet="CH:\\/.aw*", max_size=14))
def test_a_windows_path_that_is_allowed_is_clean_and_stays_so(path: str) -> None:
    with suppress(ApiError):
        clean = check_windows_path("LocalPath", path)
        assert clean == check_windows_path("LocalPath", clean)
        assert not {"", ".", ".."} & set(clean.split("\\")[1:])


@pytest.mark.parametrize(
    "members",
    [
        on(WINDOWS, **DRIVE),
        {**on(WINDOWS), **SHARE},
        {**on(UNKNOWN, **AGENT, **DRIVE), **SHARE},
        {
            **on(WINDOWS, **DRIVE),
            "OutputMappings": [{"SourcePath": "H:\\out", "DestinationPath": BUCKET}],
            "RedirectLocalInfo": {"StdoutLocalPath": "H:\\logs"},
        },
    ],
)
def test_a_task_on_a_windows_image_may_have(members: dict[str, Any]) -> None:
    check(**members)


@pytest.mark.parametrize(
    ("code", "members"),
    [
        (LOCAL, on(LINUX, **AGENT, **DRIVE)),
        (LOCAL, on(None, **AGENT, **DRIVE)),
        (LOCAL, on(UNKNOWN, **DRIVE)),
        (LOCAL, {**on(LINUX), **SHARE}),
        (LOCAL, on(WINDOWS, MountDataDisks=[{"LocalPath": "/data"}])),
        (LOCAL, on(WINDOWS, MountDataDisks=[{"LocalPath": "H:\\"}, {"LocalPath": "h:"}])),
        (LOCAL, {**on(WINDOWS, MountDataDisks=[{"LocalPath": "z:\\"}]), **SHARE}),
        (LOCAL, {**on(WINDOWS), "RedirectLocalInfo": {"StdoutLocalPath": "/logs"}}),
        (
            "InvalidParameterValue",
            on(WINDOWS, MountDataDisks=[{"LocalPath": "H:\\", "FileSystemType": "EXT4"}]),
        ),
        (
            "InvalidParameterValue",
            on(LINUX, MountDataDisks=[{"LocalPath": "/data", "FileSystemType": "NTFS"}]),
        ),
    ],
)
def test_each_system_has_its_own_paths_and_disks(code: str, members: dict[str, Any]) -> None:
    with pytest.raises(ApiError) as caught:
        check(**members)
    assert caught.value.code == code


def test_an_environment_is_held_to_the_system_of_its_image() -> None:
    def check_on(image: str) -> None:
        env = an_env(EnvData={"ImageId": image}, **DRIVE, **SHARE)
        request = decode({"Placement": {"Zone": ZONE}, "ComputeEnv": env}, CreateComputeEnvRequest)
        check_env(request, region=REGION, rules=DEFAULT_RULES)

    check_on(WINDOWS)
    with pytest.raises(ApiError) as caught:
        check_on(LINUX)
    assert caught.value.code == LOCAL


@pytest.mark.anyio
async def test_what_windows_nodes_are_to_have_is_shown_again_and_none_is_made(
    store: Store, batch: Batch
) -> None:
    env_id = await batch.create_env(1, EnvData={"ImageId": WINDOWS}, **DRIVE, **SHARE)
    info = await batch.call("DescribeComputeEnvCreateInfo", EnvId=env_id)
    assert info["MountDataDisks"] == DRIVE["MountDataDisks"]
    assert info["InputMappings"][0]["DestinationPath"] == "Z:\\"
    await batch.tend()
    assert await states_of(batch, env_id) == ["CREATION_FAILED"]
    assert "Windows" in (await activities_of(batch, env_id))[0]["StateReason"]
    job_id = await batch.submit(a_task(ResourceMaxRetryCount=0, **on(WINDOWS, **DRIVE), **SHARE))
    submitted = await batch.call("DescribeJobSubmitInfo", JobId=job_id)
    [disk] = submitted["Tasks"][0]["ComputeEnv"]["MountDataDisks"]
    assert (disk["LocalPath"], disk["FileSystemType"]) == ("H:\\", "NTFS")
    await Turns(store, job_id).run()
    assert "COMPUTE_NODE_CREATION_FAILED" in await events_of(store, job_id)
    assert not {"RUNNING", "SUCCEED"} & set((await batch.task_states(job_id)).values())


@pytest.mark.anyio
async def test_a_job_on_an_environment_of_windows_waits_like_others(batch: Batch) -> None:
    env_id = await batch.create_env(1, EnvData={"ImageId": WINDOWS}, **SHARE)
    task = a_task(EnvId=env_id, RedirectLocalInfo={"StdoutLocalPath": "/work/logs"})
    assert await batch.state(await batch.submit(task)) == "SUBMITTED"
