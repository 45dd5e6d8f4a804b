"""Hostile and broken HTTP: each gets a clear error, and nothing behind it is touched."""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.raw_client import (
    Answer,
    Request,
    classic,
    open_line,
    send,
    signed,
)
from tests.support.running import Credentials, Gateway

MAX_BODY = 10 * 1024 * 1024
JOB = "job-00000000"
Make = Callable[[Gateway], Request]


def by_root(action: str = "DescribeJobs", *parameters: Any, **options: Any) -> Make:
    """A request that is right in everything but what `options` make wrong."""
    return lambda gateway: signed(gateway, gateway.root, action, *parameters, **options)


def by(who: Callable[[Gateway], Credentials]) -> Make:
    return lambda gateway: signed(gateway, who(gateway), "DescribeJobs")


def changed(change: Callable[[Request], Request]) -> Make:
    """A signed request that somebody changed on its way."""
    return lambda gateway: change(signed(gateway, gateway.root, "DescribeJobs"))


def late(seconds: int) -> Make:
    def make(gateway: Gateway) -> Request:
        signed_at = int(time.time()) - seconds
        return signed(gateway, gateway.root, "DescribeJobs", signed_at=signed_at)

    return make


def another_day(request: Request) -> Request:
    day = time.strftime("%Y-%m-%d", time.gmtime())
    value = request.header("authorization").replace(day, "2001-01-01")
    return request.with_header("Authorization", value)


def many_headers(request: Request) -> Request:
    for number in range(64):
        request = request.with_another(f"X-Number-{number}", "1")
    return request


REFUSED: dict[str, tuple[Make, str]] = {
    "no signature": (
        changed(lambda request: request.without_header("Authorization")),
        "AuthFailure.InvalidAuthorization",
    ),
    "another scheme": (
        changed(lambda request: request.with_header("Authorization", "Basic cm9vdDpyb290")),
        "AuthFailure.InvalidAuthorization",
    ),
    "SKIP": (
        changed(lambda request: request.with_header("Authorization", "SKIP")),
        "AuthFailure.InvalidAuthorization",
    ),
    "a signature cut short": (
        changed(
            lambda request: request.with_header(
                "Authorization", request.header("authorization")[:-1]
            )
        ),
        "AuthFailure.InvalidAuthorization",
    ),
    "a secret id of nobody": (
        by(lambda _: Credentials("AKIDnobody", "x")),
        "AuthFailure.SecretIdNotFound",
    ),
    "a secret id that is none": (
        by(lambda _: Credentials("' OR 1=1 --", "x")),
        "AuthFailure.InvalidAuthorization",
    ),
    "the secret of another": (
        by(lambda gateway: Credentials(gateway.root.secret_id, "x")),
        "AuthFailure.SignatureFailure",
    ),
    "no secret": (
        by(lambda gateway: Credentials(gateway.root.secret_id, "")),
        "AuthFailure.SignatureFailure",
    ),
    "five minutes late": (late(302), "AuthFailure.SignatureExpire"),
    "five minutes early": (late(-302), "AuthFailure.SignatureExpire"),
    "the scope of another day": (changed(another_day), "AuthFailure.SignatureFailure"),
    "a timestamp that is no number": (
        changed(lambda request: request.with_header("X-TC-Timestamp", "now")),
        "AuthFailure.InvalidAuthorization",
    ),
    "another body": (
        changed(lambda request: Request(request.method, "/", request.headers, b"[]")),
        "AuthFailure.SignatureFailure",
    ),
    "another host": (
        changed(lambda request: request.with_header("Host", "batch.example")),
        "AuthFailure.SignatureFailure",
    ),
    "a token with a key that has none": (
        changed(lambda request: request.with_header("X-TC-Token", "t")),
        "AuthFailure.TokenFailure",
    ),
    "an unsigned body": (
        changed(lambda request: request.with_header("X-TC-Content-SHA256", "UNSIGNED-PAYLOAD")),
        "AuthFailure.SignatureFailure",
    ),
    "no action": (
        changed(lambda request: request.without_header("X-TC-Action")),
        "MissingParameter",
    ),
    "no version": (
        changed(lambda request: request.without_header("X-TC-Version")),
        "MissingParameter",
    ),
    "an unknown action": (by_root("DescribeNothing"), "InvalidAction"),
    "an action in capitals": (by_root("DESCRIBEJOBS"), "InvalidAction"),
    "an action in small letters": (by_root("describejobs"), "InvalidAction"),
    "an action with a wildcard": (by_root("Describe*"), "InvalidAction"),
    "an action with a line": (by_root("Describe%0aJobs"), "InvalidAction"),
    "an unknown version": (by_root(version="1999-01-01"), "NoSuchVersion"),
    "the version of another service": (by_root(version="2019-01-16"), "NoSuchVersion"),
    "a version that is none": (by_root(version="latest"), "NoSuchVersion"),
    "an unknown service": (by_root(service="cvm", version="2017-03-12"), "NoSuchProduct"),
    "no JSON": (by_root("DescribeJobs", b"{"), "InvalidParameter"),
    "no body": (by_root("DescribeJobs", b""), "InvalidParameter"),
    "a JSON list": (by_root("DescribeJobs", b"[]"), "InvalidParameter"),
    "a JSON text": (by_root("DescribeJobs", b'"{}"'), "InvalidParameter"),
    "no UTF-8": (by_root("DescribeJobs", b'{"a":"\xff"}'), "InvalidParameter"),
    "a NUL": (by_root("DescribeJobs", b'{"a":"\\u0000"}'), "InvalidParameter"),
    "lists nested 20,000 deep": (
        by_root("DescribeJobs", b'{"a":' + b"[" * 20_000 + b"]" * 20_000 + b"}"),
        "InvalidParameter",
    ),
    "objects nested 20,000 deep": (
        by_root("DescribeJobs", b'{"a":' * 20_000 + b"1" + b"}" * 20_000),
        "InvalidParameter",
    ),
    "an open list 20,000 deep": (by_root("DescribeJobs", b"[" * 20_000), "InvalidParameter"),
    "a body of plain text": (by_root(content_type="text/plain"), "InvalidRequest"),
    "a multipart body": (by_root(content_type="multipart/form-data"), "InvalidRequest"),
    "an unknown parameter": (by_root("DescribeJobs", {"Jobs": 1}), "UnknownParameter"),
    "a parameter of another type": (by_root("DescribeJobs", {"Limit": "ten"}), "InvalidParameter"),
    "a list that is a text": (by_root("DescribeJobs", {"JobIds": JOB}), "InvalidParameter"),
    "a list with a null": (by_root("DescribeJobs", {"JobIds": [None]}), "InvalidParameter"),
    "a header twice": (
        changed(lambda request: request.with_another("X-TC-Region", "ap-beijing")),
        "InvalidRequest",
    ),
    "two hosts": (
        changed(lambda request: request.with_another("host", "batch.example")),
        "InvalidRequest",
    ),
    "two signatures": (
        changed(lambda request: request.with_another("AUTHORIZATION", "SKIP")),
        "InvalidRequest",
    ),
    "many headers": (changed(many_headers), "InvalidRequest"),
    "a large header": (
        changed(lambda request: request.with_another("X-Large", "x" * 16_384)),
        "InvalidRequest",
    ),
    **{
        f"the region {region!r}": (by_root(region=region), "InvalidParameter")
        for region in ("*", "ap-*", "AP-GUANGZHOU", "../..", "a:uin/1", "a b", "\xe9", "x" * 33)
    },
    **{
        f"the job id {job_id!r}": (
            by_root("DescribeJob", {"JobId": job_id}),
            "InvalidParameter.JobIdMalformed",
        )
        for job_id in (
            *("", "*", "job-*", "job-0000000", "job-000000000", "JOB-00000000", "job-0000000é"),
            *("job-00000000\n", "job-00000000:x", "job-00000000/x", " job-00000000", "x" * 10_000),
        )
    },
    **{
        f"the job id {job_id!r}": (by_root("DescribeJob", {"JobId": job_id}), "InvalidParameter")
        for job_id in (5, True, 1.5, [JOB], {"JobId": JOB})
    },
    "no job id": (by_root("DescribeJob"), "MissingParameter"),
    "a null for a job id": (by_root("DescribeJob", {"JobId": None}), "MissingParameter"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_request_gets_its_public_code_in_an_envelope(gateway: Gateway, case: str) -> None:
    make, code = REFUSED[case]
    answer = send(gateway, make(gateway))
    assert answer.code == code
    assert_well_formed(answer)


def assert_well_formed(answer: Answer) -> None:
    """HTTP 200, exactly one content type, a sentence and a RequestId, and nothing else."""
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert set(answer.members) == {"Error", "RequestId"}
    assert set(answer.members["Error"]) == {"Code", "Message"}
    assert answer.message
    assert len(answer.request_id) == 36


def test_a_lone_half_of_a_character_is_answered_in_good_utf_8(gateway: Gateway) -> None:
    body = b'{"JobId":"job-\\ud800"}'
    answer = send(gateway, signed(gateway, gateway.root, "DescribeJob", body))
    assert answer.code.startswith("InvalidParameter")
    answer.body.decode("utf-8")


def test_the_last_of_two_members_of_one_name_is_decided_on_and_served(gateway: Gateway) -> None:
    bob = gateway.key_of("bob")
    body = b'{"JobId":"job-aaaaaaaa","JobId":"job-bbbbbbbb"}'
    served = send(gateway, signed(gateway, bob, "DescribeJob", body))
    denied = send(gateway, signed(gateway, bob, "TerminateJob", body))
    assert served.code == "ResourceNotFound.Job"
    assert "job-bbbbbbbb" in served.message
    assert "job/job-bbbbbbbb)" in denied.message


def test_a_body_at_the_limit_is_read_and_one_byte_more_is_refused(gateway: Gateway) -> None:
    body = json.dumps({"Padding": ""}).encode()
    padding = b"x" * (MAX_BODY - len(body))
    at_the_limit = body.replace(b'""', b'"' + padding + b'"')
    assert len(at_the_limit) == MAX_BODY
    root = gateway.root
    answer = send(gateway, signed(gateway, root, "DescribeJobs", at_the_limit))
    assert answer.code == "UnknownParameter"
    answer = send(gateway, signed(gateway, root, "DescribeJobs", at_the_limit + b" "))
    assert answer.code == "RequestSizeLimitExceeded"
    assert_well_formed(answer)


def test_a_body_that_says_it_is_too_large_is_refused_before_it_is_sent(gateway: Gateway) -> None:
    request = signed(gateway, gateway.root, "SubmitJob")
    with open_line(gateway.port) as line:
        line.send(request.with_header("Content-Length", str(MAX_BODY + 1)).head)
        answer = line.answer()
    assert answer.code == "RequestSizeLimitExceeded"


def chunked(request: Request) -> Request:
    return request.without_header("Content-Length").with_header("Transfer-Encoding", "chunked")


def test_a_chunked_body_is_refused_as_soon_as_it_is_too_large(gateway: Gateway) -> None:
    request = chunked(signed(gateway, gateway.root, "SubmitJob"))
    chunk = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
    with open_line(gateway.port) as line:
        line.send(request.head)
        for _ in range(11):
            line.send_as_far_as_possible(chunk)
        answer = line.answer()
    assert answer.code == "RequestSizeLimitExceeded"


def test_a_chunked_body_is_read_like_any_other(gateway: Gateway) -> None:
    request = chunked(signed(gateway, gateway.root, "DescribeJobs", b'{"Limit":1}'))
    with open_line(gateway.port) as line:
        line.send(request.head + b'6\r\n{"Limi\r\n5;x=y\r\nt":1}\r\n0\r\n\r\n')
        answer = line.answer()
    assert answer.code == ""


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n{}",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +2\r\n\r\n{}",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\n{}",
        b"POST / HTTP/1.1\nHost: x\n\n",
        b"POST /\xc3\xa9 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
def test_a_request_that_could_be_read_in_two_ways_is_read_in_none(
    gateway: Gateway, request_bytes: bytes
) -> None:
    with open_line(gateway.port) as line:
        line.send(request_bytes)
        assert line.answer().status == 400
        assert line.is_closed()


@pytest.mark.parametrize(
    "target",
    ["//", "/x", "/v2", "/v2/index.php/", "/v2/Index.php", "//v2/index.php", "/./", "/livez"],
)
def test_a_path_that_is_not_served_is_not_found_and_not_redirected(
    gateway: Gateway, target: str
) -> None:
    request = signed(gateway, gateway.root, "DescribeJobs")
    answer = send(gateway, Request("POST", target, request.headers, request.body))
    assert answer.status == 404
    assert "location" not in answer.headers


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_a_method_that_is_not_served_is_refused(gateway: Gateway, method: str) -> None:
    request = signed(gateway, gateway.root, "DescribeJobs")
    assert send(gateway, Request(method, "/", request.headers, request.body)).status == 405


def test_the_host_of_an_absolute_target_means_nothing(gateway: Gateway) -> None:
    request = signed(gateway, gateway.root, "DescribeJobs")
    answer = send(gateway, Request("POST", "http://evil.example/", request.headers, request.body))
    assert answer.code == ""


def test_header_names_may_be_in_any_case(gateway: Gateway) -> None:
    request = signed(gateway, gateway.root, "DescribeJobs")
    headers = tuple((name.swapcase(), value) for name, value in request.headers)
    assert send(gateway, Request("POST", "/", headers, request.body)).code == ""


def test_requests_sent_in_one_go_are_answered_in_their_order(gateway: Gateway) -> None:
    requests = [
        signed(gateway, gateway.root, "DescribeJob", {"JobId": f"job-0000000{number}"})
        for number in range(8)
    ]
    with open_line(gateway.port) as line:
        line.send(b"".join(bytes(request) for request in requests))
        answers = [line.answer() for _ in requests]
    assert [f"job-0000000{number}" in answers[number].message for number in range(8)] == [True] * 8


def test_a_connection_lives_on_after_every_refusal(gateway: Gateway) -> None:
    with open_line(gateway.port) as line:
        for make, code in REFUSED.values():
            line.send(make(gateway))
            assert line.answer().code == code


def test_a_body_that_is_cut_off_changes_nothing(gateway: Gateway) -> None:
    before = send(gateway, signed(gateway, gateway.root, "DescribeCmqTopics", service="tdmq"))
    request = signed(
        gateway, gateway.root, "CreateCmqTopic", {"TopicName": "cut-off"}, service="tdmq"
    )
    with open_line(gateway.port) as line:
        line.send(request.head + request.body[:-1])
    after = send(gateway, signed(gateway, gateway.root, "DescribeCmqTopics", service="tdmq"))
    assert after.members["TotalCount"] == before.members["TotalCount"]


def form(body: bytes) -> Callable[[Gateway], Request]:
    """A classic request with this body, whoever may have signed it."""

    def make(gateway: Gateway) -> Request:
        request = classic(gateway, gateway.root, "SendMessage", {})
        sized = request.with_header("Content-Length", str(len(body)))
        return Request(sized.method, sized.target, sized.headers, body)

    return make


CLASSIC_REFUSED: dict[str, tuple[Callable[[Gateway], Request], int]] = {
    "no signature": (lambda g: classic(g, None, "SendMessage", {}), 4100),
    "another's secret": (
        lambda g: classic(g, Credentials(g.root.secret_id, "x"), "SendMessage", {}),
        4100,
    ),
    "an unknown action": (lambda g: classic(g, g.root, "Nothing", {}), 4000),
    "no action": (lambda g: classic(g, g.root, "", {}), 4000),
    "no queue": (lambda g: classic(g, g.root, "SendMessage", {"msgBody": "x"}), 4000),
    "a queue that is not there": (
        lambda g: classic(g, g.root, "SendMessage", {"queueName": "none", "msgBody": "x"}),
        4440,
    ),
    "a body that is no UTF-8": (form(b"Action=SendMessage&msgBody=%ff"), 4000),
    "a body that is no ASCII": (form("Action=SendMessage&msgBody=ü".encode()), 4000),
    "a broken escape": (form(b"Action=SendMessage&msgBody=100%"), 4000),
    "a name given twice": (form(b"Action=SendMessage&Action=SendMessage"), 4000),
    "a body beyond the limit": (form(b"a" * (3 * 1_048_576 + 65_537)), 4000),
    "a hostile region": (lambda g: classic(g, g.root, "SendMessage", {"Region": "*"}), 4000),
    "a signed call elsewhere": (
        lambda g: classic(g, g.root, "SendMessage", {}, target="/v2/index.php?Action=x"),
        4000,
    ),
}


def counted(gateway: Gateway, code: str) -> float:
    """How many calls were answered with a code."""
    _, text = gateway.management("/metrics")
    name = f'qcs_gateway_calls_total{{code="{code}"}} '
    found = [line.removeprefix(name) for line in text.splitlines() if line.startswith(name)]
    return float(found[0]) if found else 0


def test_a_classic_refusal_is_counted_by_its_numbers_and_not_as_an_error_of_ours(
    gateway: Gateway,
) -> None:
    before = counted(gateway, "classic-4000-10390"), counted(gateway, "InternalError")
    make, _ = CLASSIC_REFUSED["no action"]
    send(gateway, make(gateway))
    after = counted(gateway, "classic-4000-10390"), counted(gateway, "InternalError")
    assert after == (before[0] + 1, before[1])


@pytest.mark.parametrize("case", CLASSIC_REFUSED)
def test_a_bad_classic_request_gets_its_number_in_an_envelope(gateway: Gateway, case: str) -> None:
    make, number = CLASSIC_REFUSED[case]
    answer = send(gateway, make(gateway))
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.classic["code"] == number
    assert set(answer.classic) == {"code", "message", "requestId"}


def test_messages_of_a_megabyte_are_sent_however_long_they_are_on_their_way(
    gateway: Gateway,
) -> None:
    batch = {f"msgBody.{number}": "é" * 32_768 for number in range(1, 17)}
    for action, bodies in (
        ("SendMessage", {"msgBody": "é" * 524_288}),
        ("BatchSendMessage", batch),
    ):
        queue = {"queueName": f"large-{action}"}
        send(gateway, classic(gateway, gateway.root, "CreateQueue", queue))
        answer = send(gateway, classic(gateway, gateway.root, action, {**queue, **bodies}))
        assert answer.classic["code"] == 0
        received = send(gateway, classic(gateway, gateway.root, "ReceiveMessage", queue)).classic
        assert received["msgBody"] in bodies.values()


def test_a_classic_signature_does_not_open_the_other_path(gateway: Gateway) -> None:
    answer = send(gateway, classic(gateway, gateway.root, "ListQueue", {}, target="/"))
    assert answer.code == "AuthFailure.InvalidAuthorization"


def test_management_says_that_it_lives_is_ready_and_what_it_counts(gateway: Gateway) -> None:
    assert gateway.management("/livez") == (200, "ok\n")
    status, text = gateway.management("/readyz")
    # what other tests left waiting may be said behind it
    assert (status, text.partition("\n")[0]) == (200, "ok")
    status, text = gateway.management("/metrics")
    assert status == 200
    for name in ("calls_total", "call_seconds_bucket", "policy_generation", "messages_waiting"):
        assert f"\nqcs_gateway_{name}" in text
    assert gateway.management("/")[0] == 404


def test_calls_are_counted_by_their_public_code(gateway: Gateway) -> None:
    before = counted(gateway, "NoSuchProduct")
    send(gateway, signed(gateway, gateway.root, "X", service="cvm", version="2017-03-12"))
    assert counted(gateway, "NoSuchProduct") == before + 1
