"""Buckets on an S3-compatible service of other people's making, reached by a real gateway."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.scenarios.test_guide_requests import COUNT, REQUESTS, archive
from tests.support.running import Gateway, running_gateway
from tests.support.s3 import S3Server, running_s3
from tests.support.sdk import Sdk, task

PLACE = "cos.ap-guangzhou.myqcloud.com"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with running_s3(tmp_path_factory.mktemp("service")) as running:
        yield running


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, server: S3Server) -> Iterator[Gateway]:
    settings = {
        "QCS_GATEWAY_COS_ENDPOINT": server.url,
        "QCS_GATEWAY_COS_ACCESS_KEY": "AKIDanybody",
        "QCS_GATEWAY_COS_SECRET_KEY": "secret-of-anybody",
    }
    with running_gateway(tmp_path_factory.mktemp("buckets"), **settings) as running:
        yield running


def test_the_guides_package_and_mappings_work_on_the_service(
    gateway: Gateway, server: S3Server
) -> None:
    bucket = server.new_bucket()
    server.write(bucket, "codepkg/codepkg.tgz", archive(count=COUNT))
    server.write(bucket, "input/one.txt", b"run batch jobs")
    server.write(bucket, "input/deep/two.txt", b"and hear what happened")
    text = (REQUESTS / "package_with_mappings.json").read_text(encoding="utf-8")
    request: dict[str, Any] = json.loads(text.replace("batchdemo-1251783334", bucket))
    sdk = Sdk(gateway, gateway.root)
    job_id = sdk("SubmitJob", **request)["JobId"]

    view = sdk.wait(job_id)
    assert view["JobState"] == "SUCCEED", view
    assert server.read(bucket, "output/result/count") == b"7\n"
    assert server.read(bucket, "logs/count-0.out") == b"7 words\n"


def test_a_bucket_of_another_owner_is_opened_with_the_keys_that_the_task_brings(
    gateway: Gateway, server: S3Server
) -> None:
    bucket = server.new_bucket()
    server.write(bucket, "input/word", b"theirs")
    folder = f"cos://{bucket}.{PLACE}/input/"
    sdk = Sdk(gateway, gateway.root)
    with ExitStack() as stack:
        secret_id, secret_key = stack.enter_context(server.signatures_checked())
        keys = {"Scene": "COS", "SecretId": secret_id, "SecretKey": secret_key}
        reads = {"InputMappings": [{"SourcePath": folder, "DestinationPath": "/in/"}]}
        theirs = sdk.submit(task("t", "cat /in/word", Authentications=[keys], **reads))
        ours = sdk.submit(task("t", "cat /in/word", **reads))
        assert sdk.wait(theirs)["JobState"] == "SUCCEED"
        assert sdk.wait(ours)["JobState"] == "FAILED"
    assert sdk.logs(theirs, "t") == [("theirs", "")]
    instance = sdk("DescribeTask", JobId=ours, TaskName="t")["TaskInstanceSet"][0]
    assert instance["StateReason"] == "STORAGE"
    shown = json.dumps(sdk("DescribeJobSubmitInfo", JobId=theirs))
    assert secret_key not in shown + gateway.log
