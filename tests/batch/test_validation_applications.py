"""What a task may run: commands, packages, images with their options."""

import shlex
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.batch.applications import check_application, check_package_path, docker_options
from gateway.batch.datatypes import Application
from gateway.errors import ApiError, InvalidParameterValue
from gateway.service import decode

COMBINATION = "InvalidParameter.InvalidParameterCombination"
VALUE = "InvalidParameterValue"
SCHEME = f"{VALUE}.RemoteStorageSchemeType"
PATH = f"{VALUE}.RemoteStoragePath"
BUCKET = "cos://dondonbatch-1251783334.cos.ap-guangzhou.myqcloud.com"


def check(*, instances: int = 1, xml_only: bool = False, **members: Any) -> None:
    application = {"DeliveryForm": "LOCAL", "Command": "true", **members}
    check_application(decode(application, Application), instances=instances, xml_only=xml_only)


def docker(**members: Any) -> dict[str, Any]:
    return {"Docker": {"Image": "ccr.ccs.tencentyun.com/ns/repo:1.0", **members}}


@pytest.mark.parametrize(
    "members",
    [
        {"Command": "python ./codepkg/fib.py"},
        {"Command": None, "Commands": [{"Command": "true"}]},
        {"PackagePath": "nowhere"},
        {
            "DeliveryForm": "PACKAGE",
            "PackagePath": "http://batchdemo-1251783334.cosgz.myqcloud.com/codepkg/codepkg.tgz",
        },
        {"DeliveryForm": "PACKAGE", "PackagePath": f"{BUCKET}/render/max.tar.gz"},
        {"DeliveryForm": "PACKAGE", "PackagePath": "https://[::1]:8443/a.ZIP?sign=a%20b&t=1"},
        docker(),
        docker(Image="busybox"),
        docker(Image="user/repo:tag"),
        docker(Image=f"localhost:5000/a/b_c@sha256:{'0' * 64}"),
        docker(User="u", Password="p", Server="ccr.ccs.tencentyun.com", MaxRetryCount=3),
        docker(Server="https://index.docker.io/v1/", DelayOnRetry=10, DockerRunOption="--rm"),
    ],
)
def test_an_application_may_be(members: dict[str, Any]) -> None:
    check(**members)


@pytest.mark.parametrize(
    ("code", "members"),
    [
        (COMBINATION, {"Command": None}),
        (COMBINATION, {"Command": "true", "Commands": [{"Command": "true"}]}),
        (COMBINATION, {"Command": None, "Commands": [{"Command": "true"}] * 2}),
        (COMBINATION, {"Command": None, "Commands": [{"Command": ""}]}),
        (VALUE, {"Command": None, "Commands": [{"Command": "a\0"}]}),
        (VALUE, {"Command": "x" * 100_001}),
        (VALUE, {"DeliveryForm": "package"}),
        (COMBINATION, {"DeliveryForm": "PACKAGE"}),
        (COMBINATION, {"DeliveryForm": "PACKAGE", "PackagePath": ""}),
        *[
            (SCHEME, {"DeliveryForm": "PACKAGE", "PackagePath": path})
            for path in ("a.tgz", "file:///etc/a.tgz", "ftp://h/a.tgz", "s3://b/a.tgz", "nfs://1/")
        ],
        *[
            (PATH, {"DeliveryForm": "PACKAGE", "PackagePath": path})
            for path in (
                "http:///a.tgz",
                "http://h/",
                "http://h/a.exe",
                "http://h/?a.tgz",
                "http://h:99999/a.tgz",
                "http://[::1/a.tgz",
                "http://h/a b.tgz",
                "http://h/ä.tgz",
                "http://h/a\r\nHost:x.tgz",
                f"http://h/{'a' * 3_000}.tgz",
                f"{BUCKET}/",
                f"{BUCKET}/../a.tgz",
                f"{BUCKET}/a.tgz/",
                f"{BUCKET}/a.rpm",
                "cos://bucket/a.tgz",
            )
        ],
        *[
            (VALUE, docker(Image=image))
            for image in ("", "A/B", "-v", "a b", "a;b", "a:", "a@sha256:0", "https://h/a", "../a")
        ],
        (VALUE, docker(Server="a b")),
        (VALUE, docker(Server="-x")),
        (COMBINATION, docker(User="u")),
        (COMBINATION, docker(Password="p")),
        (VALUE, docker(User="u\n", Password="p")),
        (f"{VALUE}.Negative", docker(MaxRetryCount=-1)),
        (VALUE, docker(MaxRetryCount=101)),
        (VALUE, docker(DelayOnRetry=3_601)),
        (VALUE, docker(DockerRunOption="--privileged")),
    ],
)
def test_a_wrong_application_is_refused_with_its_public_code(
    code: str, members: dict[str, Any]
) -> None:
    with pytest.raises(ApiError) as caught:
        check(**members)
    assert caught.value.code == code


@pytest.mark.parametrize(
    "path",
    [
        "ftp://me:SECRET@h/a.tgz",
        "http://me:SECRET@h/a.exe",
        "http://h/a.exe?sign=SECRET",
        "http://me:SECRET@h:99999/a.tgz",
        "http://h/a b.tgz?sign=SECRET",
        "http://[::1/a.tgz?sign=SECRET",
        "cos://me:SECRET@h/a.tgz",
        f"{BUCKET}/a.tgz?sign=SECRET",
    ],
)
def test_no_key_in_a_refused_address_comes_back(path: str) -> None:
    with pytest.raises(ApiError) as caught:
        check(DeliveryForm="PACKAGE", PackagePath=path)
    assert caught.value.code in {SCHEME, PATH}
    assert "SECRET" not in str(caught.value)


def test_each_instance_has_a_command_of_its_own() -> None:
    check(instances=2, Command=None, Commands=[{"Command": "a"}, {"Command": "b"}])
    with pytest.raises(ApiError, match="1 Commands for 2 task instances"):
        check(instances=2, Command=None, Commands=[{"Command": "a"}])


def test_a_package_of_an_older_domain_is_refused_where_the_guide_is_held_to() -> None:
    old = "cos://batchdemo-1251783334.cosgz.myqcloud.com/codepkg.tgz"
    check_package_path(old, xml_only=False)
    with pytest.raises(ApiError) as caught:
        check_package_path(old, xml_only=True)
    assert caught.value.code == PATH


def test_a_password_is_not_repeated_in_an_error() -> None:
    with pytest.raises(ApiError) as caught:
        check(**docker(User="u", Password="se\x07cret"))
    assert "cret" not in caught.value.message


GIBIBYTE_AND_7 = ("memory=6291456", "memory=1073741824", "pids-limit=7")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ()),
        ("--rm", ()),
        ("--rm --read-only", ("--read-only",)),
        ("-e A=1 -eB=2 --env C=3 --env=D=4=5", ("A=1", "B=2", "C=3", "D=4=5")),
        ("-e 'A=a b' --env \"B=\"", ("A=a b", "B=")),
        ("-w /data -u 65534:65534 -m 512m", ("--workdir=/data", "--memory=536870912")),
        ("-u=nobody --user 65534 --cpus 1.5", ("--cpus=1.5",)),
        ("-m 6291456 --memory=1G --pids-limit 7", tuple(f"--{each}" for each in GIBIBYTE_AND_7)),
        (
            "--shm-size=64m --ulimit nofile=1024:2048",
            ("--shm-size=64m", "--ulimit=nofile=1024:2048"),
        ),
    ],
)
def test_harmless_options_are_read_in_every_spelling(text: str, words: tuple[str, ...]) -> None:
    expected = tuple(word if word.startswith("--") else f"--env={word}" for word in words)
    assert docker_options(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("--privileged", "-v /:/host", "-v/:/host", "--volume=/:/host", "--mount type=bind"),
        *("--network host", "--net=host", "--pid=host", "--pid host", "--ipc=host", "--uts=host"),
        *("--device /dev/sda", "--cap-add SYS_ADMIN", "--cap-add=ALL", "--security-opt x"),
        *("--userns=host", "--cgroupns=host", "--cgroup-parent=/", "--entrypoint /bin/sh"),
        *("--name x", "--label a=b", "-d", "-it", "-p 80:80", "--env-file /etc/shadow"),
        *("--env", "-e", "-e HOME", "--env=HOME", "-e BATCH_JOB_ID=x", "--rm=false", "--init x"),
        *("image", "--", "-", "---env=A=1", "--en v=1", "-u 'a b'", "-w data", "-w /a:/b"),
        *("-w /proc/self/fd/7", "-w //sys", "--workdir /a/../proc", "-w /./dev/fd/9"),
        "-w " + "/" * 4_000 + "proc",
        *("--memory lots", "--memory=1g,x", "--ulimit nofile", "'", "-e 'A=1\nB=2'"),
        *("-u 0", "-u 1000", "--user root", "-u nobody:0", "--user=65534:100"),
        *("--init", "--cpu-shares=2"),
        *("--memory-swap 1g", "--memory-swap=-1", "--memory-reservation=1g", "-c 2"),
        *("-m 0", "-m 6291455", "--memory 5m", "--cpus 0", "--cpus 0.009", "--pids-limit 0"),
        *("--pids-limit=-1", "--ulimit nproc=9", "--ulimit nice=1", "--ulimit nofile=2:1"),
        "-e A=" + "x" * 5_000,
    ],
)
def test_any_other_option_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidParameterValue, match="DockerRunOption"):
        docker_options(text)


OPTIONS = st.lists(
    st.sampled_from(
        ["-e", "--env", "A=1", "-v", "--privileged", "/:/x", "-m", "1g", "--rm", "-u", "0", "--"]
    )
    | st.text(max_size=6)
)


@given(words=OPTIONS)
def test_what_is_allowed_is_always_one_known_option_a_word(words: list[str]) -> None:
    with suppress(InvalidParameterValue):
        for word in docker_options(shlex.join(words)):
            name, _, value = word.partition("=")
            assert name in {"--env", "--memory"}
            assert "\n" not in value
            assert value
