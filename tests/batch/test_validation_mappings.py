"""What a task or an environment may map, mount and redirect."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.batch.datatypes import NamedComputeEnv, Task
from gateway.batch.mappings import check_env_storage, check_local_path, check_task_storage
from gateway.errors import ApiError
from gateway.service import decode
from tests.support.batch import a_task, an_env

VALUE = "InvalidParameterValue"
LOCAL = f"{VALUE}.LocalPath"
SCHEME = f"{VALUE}.RemoteStorageSchemeType"
PATH = f"{VALUE}.RemoteStoragePath"
COS = "cos://dondonbatch-1251783334.cos.ap-guangzhou.myqcloud.com/in/"
OLD = "cos://dondonbatch-1251783334.cosgz.myqcloud.com/in/"
NFS = "nfs://10.66.1.2/share/"
KEY = {"Scene": "COS", "SecretId": "AKIDx", "SecretKey": "secret"}


def check(*, xml_only: bool = False, **members: Any) -> None:
    check_task_storage(decode(a_task(**members), Task), xml_only=xml_only)


def inputs(source: str = COS, to: str = "/data", **members: Any) -> dict[str, Any]:
    return {"InputMappings": [{"SourcePath": source, "DestinationPath": to, **members}]}


def outputs(source: str = "/opt/t1", to: str = COS, **option: Any) -> dict[str, Any]:
    mapping = {"SourcePath": source, "DestinationPath": to, "OutputMappingOption": option or None}
    return {"OutputMappings": [mapping]}


def disks(*paths: str, **members: Any) -> dict[str, Any]:
    mounted = [{"LocalPath": path, **members} for path in paths]
    return {"ComputeEnv": {"EnvData": {}, "MountDataDisks": mounted}}


def local_log(path: str) -> dict[str, Any]:
    return {"RedirectLocalInfo": {"StderrLocalPath": path}}


def workers(**members: Any) -> dict[str, Any]:
    return {
        "OutputMappingConfigs": [{"Scene": "COS", "WorkerNum": 8, "WorkerPartSize": 16, **members}]
    }


@pytest.mark.parametrize(
    "members",
    [
        inputs(),
        inputs(OLD, "/opt/data/", MountType="COSFS", MountOptionParameter="-onoxattr"),
        inputs("cfs://10.66.1.2/", "/mnt/a", MountType=""),
        inputs("nfs://10.66.1.2/share/", "/home/user/data"),
        {**inputs(to="/data/in"), **outputs("/data", Workspace="GLOBAL_WORKSPACE")},
        {**inputs(to="/data/in"), **outputs("/data/in2")},
        {**inputs(to="/data/"), **outputs("/data/out")},
        {**inputs(to="/work/in"), **outputs("/work//in/out/")},
        {**disks("/mnt"), **inputs(to="/mnt/in"), **outputs("/mnt/in/out")},
        {**disks("/mnt"), **outputs("/mnt/")},
        {**disks("/mnt"), **outputs("/mnt/a/b")},
        {**inputs(to="/data"), **disks("/data/disk"), **outputs("/data/disk/out")},
        outputs("/work/out/", Workspace="BATCH_WORKSPACE"),
        workers(),
        disks("/mnt/disk1", "/mnt/disk2", FileSystemType="EXT4"),
        {"Authentications": [KEY]},
        {"RedirectLocalInfo": {"StdoutLocalPath": "/work/logs", "StdoutLocalFileName": "${X}.log"}},
        {"RedirectInfo": {"StdoutRedirectPath": COS, "StderrRedirectPath": ""}},
        {**inputs(NFS, "/mnt"), **outputs("/out"), **local_log("/out/logs")},
        {**inputs(NFS, "/mnt/a"), **local_log("/mnt/ab")},
        {
            "ComputeEnv": {
                "EnvData": {},
                "AgentRunningMode": {"Scene": "WINDOWS", "User": "u", "Session": "1"},
            }
        },
    ],
)
def test_a_task_may_have(members: dict[str, Any]) -> None:
    check(**members)


@pytest.mark.parametrize(
    ("code", "members"),
    [
        *[
            (SCHEME, inputs(source))
            for source in ("", "s3://b/", "https://h/", "ftp://h/", "/data/", "COS://b/")
        ],
        *[
            (PATH, inputs(source))
            for source in (COS.rstrip("/"), "cos://bucket/", "cfs://", "cfs://10.0.0.1", "nfs://h/")
        ],
        (SCHEME, outputs(to="cfs://10.0.0.1/")),
        (SCHEME, outputs(to="nfs://10.0.0.1/")),
        (PATH, outputs(to=COS.rstrip("/"))),
        (SCHEME, {"RedirectInfo": {"StdoutRedirectPath": "cfs://10.0.0.1/"}}),
        (LOCAL, {"RedirectInfo": {"StderrRedirectFileName": "a/b"}}),
        (LOCAL, {"RedirectLocalInfo": {"StderrLocalPath": "logs"}}),
        (LOCAL, {"RedirectLocalInfo": {"StdoutLocalPath": "/etc"}}),
        (LOCAL, {"RedirectLocalInfo": {"StdoutLocalFileName": ".."}}),
        (LOCAL, {**inputs(NFS, "/mnt/a"), **local_log("/mnt//a/")}),
        (LOCAL, {**inputs("cfs://10.66.1.2/", "/mnt"), **local_log("/mnt/a/b")}),
        (LOCAL, inputs(to="data")),
        (LOCAL, outputs("")),
        (LOCAL, disks("H:\\")),
        (LOCAL, disks("/mnt", "/mnt/")),
        (LOCAL, disks("//mnt", "/mnt")),
        (LOCAL, {**inputs(to="/data/"), **outputs("/data")}),
        (LOCAL, {**inputs(to="/data/./x"), **disks("/data//x")}),
        (LOCAL, inputs(to="/work")),
        (LOCAL, outputs("/work/")),
        (VALUE, inputs(MountType="S3FS")),
        (VALUE, inputs(MountOptionParameter="a\nb")),
        (VALUE, inputs(MountOptionParameter="x" * 1_025)),
        (VALUE, outputs(Workspace="SOMEWHERE")),
        (VALUE, workers(Scene="CFS")),
        (f"{VALUE}.Negative", workers(WorkerNum=-1)),
        (VALUE, workers(WorkerNum=0)),
        (VALUE, workers(WorkerNum=101)),
        (VALUE, workers(WorkerPartSize=0)),
        (VALUE, workers(WorkerPartSize=5_121)),
        (VALUE, {"OutputMappingConfigs": workers()["OutputMappingConfigs"] * 2}),
        (VALUE, disks("/mnt", FileSystemType="NTFS")),
        (VALUE, {"Authentications": [{**KEY, "Scene": "CFS"}]}),
        (VALUE, {"Authentications": [{**KEY, "SecretId": ""}]}),
        (VALUE, {"Authentications": [{**KEY, "SecretKey": "a\nb"}]}),
        (VALUE, {"Authentications": [KEY, KEY]}),
        (VALUE, {"InputMappings": inputs()["InputMappings"] * 101}),
        (
            VALUE,
            {
                "ComputeEnv": {
                    "EnvData": {},
                    "AgentRunningMode": {"Scene": "LINUX", "User": "u", "Session": "1"},
                }
            },
        ),
    ],
)
def test_what_is_wrong_is_refused_with_its_public_code(code: str, members: dict[str, Any]) -> None:
    with pytest.raises(ApiError) as caught:
        check(**members)
    assert caught.value.code == code


@pytest.mark.parametrize("members", [inputs(OLD), outputs(to=OLD)])
def test_an_older_domain_is_refused_where_the_guide_is_held_to(members: dict[str, Any]) -> None:
    check(**members)
    with pytest.raises(ApiError) as caught:
        check(xml_only=True, **members)
    assert caught.value.code == PATH


def test_a_secret_is_not_repeated_in_an_error() -> None:
    with pytest.raises(ApiError) as caught:
        check(Authentications=[{**KEY, "SecretKey": "se\ncret"}])
    assert "cret" not in caught.value.message.replace("SecretKey", "")


@pytest.mark.parametrize(
    "path",
    [
        *("/", "//", "/.", "/usr", "/usr/", "//usr", "/./usr", "/usr/local/bin", "/etc/passwd"),
        *("/bin", "/sbin", "/lib", "/lib64/x", "/libexec", "/proc/self", "/dev/x", "/sys"),
        *("/run/x", "/var/run", "/var/run/x", "/boot", "", "a", "./a", "~/a", "C:\\", "/a/../b"),
        *("/..", "/a\0b", "/a\nb", "/a:b", "/a,b", "/" + "a" * 1_024),
    ],
)
def test_a_local_path_never_hides_the_system(path: str) -> None:
    with pytest.raises(ApiError) as caught:
        check_local_path("LocalPath", path)
    assert caught.value.code == LOCAL


@given(path=st.text(alphabet="/.aelrstuvn", max_size=14))
def test_a_local_path_that_is_allowed_is_clean_and_stays_so(path: str) -> None:
    with suppress(ApiError):
        clean = check_local_path("LocalPath", path)
        assert clean == check_local_path("LocalPath", clean)
        parts = clean.split("/")
        assert parts[0] == ""
        assert not {"", ".", ".."} & set(parts[1:])
        assert parts[1] not in {"usr", "etc"}


@pytest.mark.parametrize(
    ("code", "members"),
    [
        (None, {**inputs(), "Authentications": [KEY], "MountDataDisks": [{"LocalPath": "/mnt"}]}),
        (PATH, inputs("cfs://nowhere/")),
        (LOCAL, {**inputs(to="/mnt"), "MountDataDisks": [{"LocalPath": "/mnt"}]}),
        (VALUE, {"Authentications": [{**KEY, "Scene": "CFS"}]}),
        (VALUE, {"AgentRunningMode": {"Scene": "LINUX", "User": "u", "Session": "1"}}),
    ],
)
def test_an_environment_is_held_to_the_same(code: str | None, members: dict[str, Any]) -> None:
    env = decode(an_env(**members), NamedComputeEnv)
    if code is None:
        check_env_storage(env, xml_only=False)
        return
    with pytest.raises(ApiError) as caught:
        check_env_storage(env, xml_only=False)
    assert caught.value.code == code
