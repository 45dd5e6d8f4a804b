"""Bytes to calls and back: what clients send is read, what they would misread is never sent."""

import json
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import protocol
from gateway.call import Call, Decision, Effect, HttpRequest, Reason, Reply, Resource
from gateway.errors import (
    ApiError,
    AuthFailure,
    ClassicError,
    InternalError,
    InvalidParameter,
    UnauthorizedOperation,
    UpstreamError,
)
from tests.authn.requests import NOW, http_request, sdk_request

REQUEST_ID = "6b8b1b1c-0000-4000-8000-000000000000"
HEADERS = {
    "content-type": "application/json",
    "x-tc-action": "DescribeJob",
    "x-tc-version": "2017-03-12",
    "x-tc-region": "ap-shanghai",
}
VERSIONS = {"2017-03-12": "batch", "2019-01-16": "cam"}


def read(request: HttpRequest, service: str | None = "batch") -> Call:
    return protocol.read_call(
        request,
        service=service,
        request_id=REQUEST_ID,
        service_of_version=VERSIONS.get,
        default_region="ap-guangzhou",
    )


def post(body: bytes, **headers: str) -> HttpRequest:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return http_request(headers={**HEADERS, **named}, body=body)


def get(query: str) -> HttpRequest:
    return http_request(method="GET", headers=HEADERS, query=query, body=b"")


def refusal(request: HttpRequest, service: str | None = "batch") -> str:
    with pytest.raises(ApiError) as refused:
        read(request, service)
    return refused.value.code


def test_a_json_call_is_read() -> None:
    assert read(post(b'{"JobId":"job-97zcl3wt"}')) == Call(
        request_id=REQUEST_ID,
        service="batch",
        version="2017-03-12",
        action="DescribeJob",
        region="ap-shanghai",
        params={"JobId": "job-97zcl3wt"},
        source_ip="127.0.0.1",
        received_at=NOW,
    )


texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6)


@settings(max_examples=40)
@given(
    filters=st.lists(
        st.fixed_dictionaries(
            {
                "Name": texts,
                "Values": st.lists(texts, min_size=1, max_size=12),
            }
        ),
        min_size=1,
        max_size=12,
    )
)
def test_a_get_and_a_post_of_the_sdk_are_the_same_call(filters: list[dict[str, Any]]) -> None:
    params = {"Filters": filters}
    calls = [read(sdk_request("DescribeJobs", params, method=m)) for m in ("GET", "POST")]
    assert calls[0].params == calls[1].params == params
    assert calls[0].action == calls[1].action == "DescribeJobs"


def test_a_form_is_read_like_a_query() -> None:
    body = urlencode({"Filters.1.Name": "b", "Filters.0.Name": "a c", "Limit": "5"}).encode()
    form = post(body, content_type="application/x-www-form-urlencoded; charset=utf-8")
    assert read(form).params == {"Filters": [{"Name": "a c"}, {"Name": "b"}], "Limit": "5"}


def test_an_absent_region_is_the_default_one() -> None:
    headers = {name: value for name, value in HEADERS.items() if name != "x-tc-region"}
    assert read(http_request(headers=headers)).region == "ap-guangzhou"


def test_an_action_may_begin_with_a_small_letter() -> None:
    assert read(post(b"{}", x_tc_action="describeJob")).action == "DescribeJob"


def test_a_caller_without_scope_gets_the_service_that_has_the_version() -> None:
    assert read(post(b"{}", x_tc_version="2019-01-16"), None).service == "cam"
    assert refusal(post(b"{}", x_tc_version="2099-01-01"), None) == "NoSuchVersion"


@pytest.mark.parametrize("text", ["application/json; charset=utf-8", "Application/JSON"])
def test_a_content_type_may_be_written_in_other_ways(text: str) -> None:
    assert read(post(b'{"A":1}', content_type=text)).params == {"A": 1}


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"x-tc-action": ""}, "MissingParameter"),
        ({"x-tc-action": "Describe Job"}, "InvalidAction"),
        ({"x-tc-action": "D" * 65}, "InvalidAction"),
        ({"x-tc-action": "D\u00e9"}, "InvalidAction"),
        ({"x-tc-version": ""}, "MissingParameter"),
        ({"x-tc-version": "latest"}, "NoSuchVersion"),
        ({"x-tc-version": "2017-03-12\n"}, "NoSuchVersion"),
        ({"x-tc-region": "ap_guangzhou"}, "InvalidParameter"),
        ({"x-tc-region": "*"}, "InvalidParameter"),
        ({"content-type": "text/plain"}, "InvalidRequest"),
        ({"content-type": ""}, "InvalidRequest"),
        ({"content-type": "multipart/form-data; boundary=x"}, "InvalidRequest"),
    ],
)
def test_a_header_that_is_wrong_is_named(changes: dict[str, str], code: str) -> None:
    assert refusal(http_request(headers=HEADERS | changes)) == code


def test_parameters_stand_in_one_place_only() -> None:
    assert refusal(http_request(headers=HEADERS, query="JobId=job-1")) == "InvalidRequest"
    both = http_request(headers=HEADERS, method="GET", query="JobId=job-1", body=b"{}")
    assert refusal(both) == "InvalidRequest"
    assert refusal(http_request(headers=HEADERS, method="PUT")) == "InvalidRequest"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'"x"',
        b"{",
        b"{}x",
        b'{"a":NaN}',
        b'{"a":1e999}',
        b'{"a":"\xff"}',
        b'{"a":"\xed\xa0\x80"}',
        b'{"a":"\\ud800"}',
        b'{"a":"\\u0000"}',
        b'{"a":"\\\\\\u0000"}',
        b'{"\\u0000":1}',
        b"\xef\xbb\xbf{}",
        b"[" * 20_000,
        b'{"a":' * 20_000 + b"1" + b"}" * 20_000,
        b'{"a":' + b"[" * 64 + b"]" * 64 + b"}",
        b'{"a":[' + b'"]",[' * 70 + b'"[","["' + b"]" * 71 + b"}",
    ],
)
def test_a_body_that_is_no_plain_object_is_refused(body: bytes) -> None:
    assert refusal(post(body)) == "InvalidParameter"


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":' + b"[" * 63 + b"]" * 63 + b"}",
        b'{"a":[' + b"{}," * 500 + b"{}]}",
        b'{"a":"' + b"[" * 500 + b'"}',
        b'{"a":"\\\\u0000"}',
        b'{"a":"\\"[[[[' + b"{" * 90 + b'\\\\"}',
    ],
)
def test_a_body_that_only_looks_strange_is_read(body: bytes) -> None:
    assert read(post(body)).params == json.loads(body)


def test_a_body_over_the_limit_is_refused() -> None:
    padding = protocol.MAX_BODY - len(b'{"a":""}')
    assert read(post(b'{"a":"%b"}' % (b"x" * padding)))
    too_large = post(b'{"a":"%b"}' % (b"x" * (padding + 1)))
    assert refusal(too_large) == "RequestSizeLimitExceeded"


@pytest.mark.parametrize(
    "query",
    [
        "Filters.999999999.Name=x",
        "Filters.1.Name=x",
        "Filters.0=a&Filters.2=b",
        "Filters.00=a",
        "Filters.0=a&Filters.Name=b",
        "A=1&A.B=2",
        "A.B=2&A=1",
        "A=1&A=2",
        "A..B=1",
        ".A=1",
        "A.=1",
        "=1",
        "A=%ff",
        "A=%00",
        ".".join(["A"] * 100) + "=1",
        "A.\u00b2=1",
        "A.%C2%B2=1",
        "&".join(f"A{n}=1" for n in range(10_001)),
    ],
)
def test_a_query_that_is_no_plain_tree_is_refused(query: str) -> None:
    assert refusal(get(query)) == "InvalidParameter"


def test_a_thousand_elements_come_back_in_their_order() -> None:
    query = "&".join(f"Ids.{n}={n}" for n in reversed(range(1_000)))
    assert read(get(query)).params == {"Ids": [str(n) for n in range(1_000)]}


headers = st.dictionaries(
    st.sampled_from([*HEADERS, "host"]),
    st.text(max_size=20) | st.sampled_from(list(HEADERS.values())),
)
bodies = st.binary(max_size=80) | st.text(alphabet='{}[]",:\\u0aA1. ', max_size=80).map(
    lambda text: text.encode()
)


@settings(max_examples=400)
@given(
    changes=headers,
    query=st.text(alphabet="aA01.=&%+\u00e9\0", max_size=40) | st.text(max_size=20),
    body=bodies,
    method=st.sampled_from(["GET", "POST", "HEAD"]),
)
def test_nothing_hostile_does_more_than_be_refused(
    changes: dict[str, str], query: str, body: bytes, method: str
) -> None:
    request = http_request(
        headers=HEADERS | changes,
        query=query if method == "GET" else "",
        body=body if method == "POST" else b"",
        method=method,
    )
    for reader in (read, read_classic):
        try:
            call = reader(request)
        except ApiError as error:
            json.loads(protocol.failure(error, REQUEST_ID))
            json.loads(protocol.classic_failure(error, REQUEST_ID))
        else:
            assert json.loads(json.dumps(call.params)) == call.params


def read_classic(request: HttpRequest) -> Call:
    return protocol.read_classic_call(request, request_id=REQUEST_ID, default_region="ap-guangzhou")


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_classic_call_keeps_its_names_and_texts(method: str) -> None:
    form = {
        "Action": "batchSendMessage",
        "SecretId": "AKIDtest",
        "Signature": "x",
        "Timestamp": "1700000000",
        "queueName": "q",
        "msgBody.1": "a",
        "msgBody.2": "",
    }
    encoded = urlencode(form)
    request = http_request(
        method=method,
        path="/v2/index.php",
        query=encoded if method == "GET" else "",
        body=encoded.encode() if method == "POST" else b"",
    )
    call = read_classic(request)
    assert (call.service, call.version) == ("cmq", "classic")
    assert (call.action, call.region) == ("BatchSendMessage", "ap-guangzhou")
    assert call.params == {"queueName": "q", "msgBody.1": "a", "msgBody.2": ""}


@pytest.mark.parametrize(
    ("changes", "pair"),
    [
        ({"method": "GET", "body": b"", "query": "queueName=q"}, (4000, 10390)),
        ({"method": "PUT"}, (4000, 10410)),
        ({"body": b"Action=a&Action=b"}, (4000, 10420)),
        ({"body": b"Action=%ff"}, (4000, 10420)),
        ({"body": b"Action=SendMessage", "query": "queueName=q"}, (4000, 10420)),
        ({"body": b"Action=SendMessage&msgBody=" + b"x" * 3_300_000}, (4000, 10420)),
        ({"body": b"Action=Send%20Message"}, (4000, 10280)),
        ({"body": b"Action=SendMessage&Region=*"}, (4000, 10000)),
    ],
)
def test_a_classic_call_that_cannot_be_read_gets_its_numbers(
    changes: dict[str, Any], pair: tuple[int, int]
) -> None:
    with pytest.raises(ApiError) as refused:
        read_classic(http_request(**changes))
    assert protocol.classic_pair(refused.value) == pair


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        (b"{}", {}),
        (b" { } ", {}),
        (b'{"JobId":"job-97zcl3wt"}', {"JobId": "job-97zcl3wt"}),
        (b'{"Jobs":[{}],"TotalCount":1}\n', {"Jobs": [{}], "TotalCount": 1}),
    ],
)
def test_a_reply_is_put_into_its_envelope(members: bytes, expected: dict[str, Any]) -> None:
    reply = Reply(members)
    answer = json.loads(protocol.success(reply, REQUEST_ID))
    assert answer == {"Response": {**expected, "RequestId": REQUEST_ID}}
    classic = json.loads(protocol.classic_success(reply, REQUEST_ID))
    assert classic == {"code": 0, "message": "", **expected, "requestId": REQUEST_ID}


def test_an_error_is_put_into_its_envelope() -> None:
    error = InvalidParameter("`\ud800` is \u975e", detail="JobName")
    assert json.loads(protocol.failure(error, REQUEST_ID)) == {
        "Response": {
            "Error": {"Code": "InvalidParameter.JobName", "Message": "`?` is \u975e"},
            "RequestId": REQUEST_ID,
        }
    }


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (
            ClassicError("topic is not existed", number=4440, module=10600),
            4440,
            "(10600) topic is not existed",
        ),
        (AuthFailure("no", detail="SignatureFailure"), 4100, "(10030) no"),
        (AuthFailure("no", detail="SecretIdNotFound"), 4100, "(10270) no"),
        (UnauthorizedOperation("no"), 4000, "(10461) no"),
        (UpstreamError("slow down", code="RequestLimitExceeded"), 4420, "(10250) slow down"),
        (UpstreamError("gone", code="ResourceNotFound.Queue"), 4440, "(10100) gone"),
        (InternalError("sorry"), 6000, "(10050) sorry"),
    ],
)
def test_a_classic_error_is_a_pair_of_numbers(error: ApiError, code: int, message: str) -> None:
    assert json.loads(protocol.classic_failure(error, REQUEST_ID)) == {
        "code": code,
        "message": message,
        "requestId": REQUEST_ID,
    }


@pytest.mark.parametrize("action", ["batch:SubmitJob", "name/batch:SubmitJob"])
def test_a_denial_reads_as_the_clouds_does(action: str) -> None:
    resource = Resource("batch", "ap-guangzhou", "100000000001", "job/*")
    decision = Decision(Effect.DENY, Reason.IMPLICIT_DENY, resource, 1)
    error = protocol.denial(decision, request_id=REQUEST_ID, action=action)
    assert error.code == "UnauthorizedOperation"
    assert error.message == (
        f"[request id:{REQUEST_ID}]you are not authorized to perform operation (batch:SubmitJob)\n"
        "resource (qcs::batch:ap-guangzhou:uin/100000000001:job/*) has no permission\n"
    )


def test_the_content_type_is_the_one_the_sdk_checks_errors_under() -> None:
    assert protocol.CONTENT_TYPE == "application/json"
