"""Who signed a request: the SDK's own signatures are believed, everything else is not."""

from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.authn import Identity, authenticate
from gateway.authn.signed import ClassicAuthenticator, Tc3Authenticator
from gateway.call import HttpRequest
from gateway.errors import ApiError, AuthFailure, InvalidRequest
from tests.authn.requests import (
    ALICE,
    NOW,
    KeyRing,
    alice_key,
    authorization,
    by_the_document,
    classic_request,
    http_request,
    sdk_request,
)

EXPIRY = datetime(2100, 1, 1, tzinfo=UTC)
TOKEN_SHA256 = sha256(b"t0ken").digest()
RING = KeyRing(
    alice_key(),
    alice_key(secret_id="AKIDoff", active=False),
    alice_key(secret_id="AKIDtemp", token_sha256=TOKEN_SHA256, expires_at=EXPIRY),
)
TC3 = Tc3Authenticator(RING)
CLASSIC = ClassicAuthenticator(RING)
ENDPOINTS = [
    "127.0.0.1:18999",
    "http://127.0.0.1:18999",
    "http://127.0.0.1:18999/batch/",
    "Batch.Example.COM",
    "https://batch.example.com",
]

texts = st.text(max_size=12)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
params = st.dictionaries(st.text("abcXYZ", min_size=1, max_size=6), values, max_size=4)


def identify(request: HttpRequest, *authenticators: Any) -> Identity:
    """Run the coroutine to its end: with keys in memory it never waits."""
    try:
        authenticate(request, authenticators or (TC3, CLASSIC)).send(None)
    except StopIteration as finished:
        identity: Identity = finished.value
        return identity
    raise AssertionError("it waited for something")


def refusal(request: HttpRequest, *authenticators: Any) -> str:
    with pytest.raises(AuthFailure) as refused:
        identify(request, *authenticators)
    return refused.value.code


@settings(max_examples=60)
@given(params=params, method=st.sampled_from(["GET", "POST"]), endpoint=st.sampled_from(ENDPOINTS))
def test_what_the_sdk_signs_is_believed_wherever_it_is_sent(
    params: dict[str, Any], method: str, endpoint: str
) -> None:
    request = sdk_request("DescribeJobs", params, method=method, endpoint=endpoint)
    identity = identify(request)
    assert identity.principal == ALICE
    assert identity.service == "batch"
    assert identity.signature is not None
    assert identity.signature.signed_at == int(request.headers["x-tc-timestamp"])


@settings(max_examples=40)
@given(params=params, method=st.sampled_from(["GET", "POST"]), extra=st.binary(min_size=1))
def test_what_was_changed_after_signing_is_refused(
    params: dict[str, Any], method: str, extra: bytes
) -> None:
    request = sdk_request("TerminateJob", params, method=method)
    changed = replace(request, body=request.body + extra)
    assert refusal(changed) == "AuthFailure.SignatureFailure"
    asked_more = replace(request, query=request.query + "&a=1")
    assert refusal(asked_more) == "AuthFailure.SignatureFailure"
    other_host = replace(request, headers={**request.headers, "host": "elsewhere"})
    assert refusal(other_host) == "AuthFailure.SignatureFailure"


@pytest.mark.parametrize("content_type", ["application/json", "Application/JSON; charset=UTF-8"])
@pytest.mark.parametrize("names", [(), ("x-tc-action",), ("x-tc-action", "x-tc-region")])
def test_a_signature_by_the_document_is_believed(content_type: str, names: tuple[str, ...]) -> None:
    request = by_document(content_type, names)
    assert identify(request).principal == ALICE


def test_a_signed_action_cannot_be_changed() -> None:
    request = by_document("application/json", ("x-tc-action",))
    changed = replace(request, headers={**request.headers, "x-tc-action": "TerminateJob"})
    assert refusal(changed) == "AuthFailure.SignatureFailure"


def by_document(content_type: str, names: tuple[str, ...]) -> HttpRequest:
    headers = {
        "content-type": content_type,
        "host": " Batch.Example.com ",
        "x-tc-action": "DescribeJob",
        "x-tc-region": "ap-guangzhou",
        "x-tc-timestamp": "1700000000",
    }
    request = http_request(headers=headers)
    header = by_the_document(request, "content-type", "host", *names)
    return replace(request, headers={**headers, "authorization": header})


def test_a_call_signed_before_midnight_may_arrive_after_it() -> None:
    headers = {"content-type": "x", "host": "h", "x-tc-timestamp": "1700006399"}
    request = http_request(headers=headers)
    signed = {**headers, "authorization": by_the_document(request, "content-type", "host")}
    arrived = replace(request, headers=signed, received_at=NOW + timedelta(seconds=6_401))
    assert identify(arrived).principal == ALICE


def test_a_day_that_is_not_the_timestamps_is_refused_though_rightly_signed() -> None:
    headers = {"content-type": "x", "host": "h", "x-tc-timestamp": "1700000000"}
    request = http_request(headers=headers)
    header = by_the_document(request, "content-type", "host", date="2023-11-15")
    signed = replace(request, headers={**headers, "authorization": header})
    assert refusal(signed) == "AuthFailure.SignatureFailure"


@pytest.mark.parametrize("off_s", [-301, 301])
def test_five_minutes_are_the_limit(off_s: int) -> None:
    request = sdk_request("DescribeJobs", {})
    late = replace(request, received_at=request.received_at + timedelta(seconds=off_s))
    assert refusal(late) == "AuthFailure.SignatureExpire"


@pytest.mark.parametrize("secret_id", ["AKIDnobody", "AKIDoff"])
def test_an_unknown_key_and_a_disabled_one_are_not_found(secret_id: str) -> None:
    assert refusal(signed_as(secret_id)) == "AuthFailure.SecretIdNotFound"


@pytest.mark.parametrize("token", ["", "t0ke", "T0KEN", "t\u00f6ken", TOKEN_SHA256.hex()])
def test_a_temporary_key_needs_its_own_token(token: str) -> None:
    request = signed_as("AKIDtemp")
    request = replace(request, headers={**request.headers, "x-tc-token": token})
    assert refusal(request) == "AuthFailure.TokenFailure"


def test_a_temporary_key_is_believed_with_its_token() -> None:
    request = signed_as("AKIDtemp")
    request = replace(request, headers={**request.headers, "x-tc-token": "t0ken"})
    assert identify(request).principal == ALICE


def test_a_temporary_key_is_good_until_its_last_moment_and_no_longer() -> None:
    request = signed_as("AKIDtemp")
    request = replace(request, headers={**request.headers, "x-tc-token": "t0ken"})
    for left_us, is_good in ((1, True), (0, False), (-1, False)):
        expires_at = request.received_at + timedelta(microseconds=left_us)
        changes = {"token_sha256": TOKEN_SHA256, "expires_at": expires_at}
        authenticator = Tc3Authenticator(KeyRing(alice_key(secret_id="AKIDtemp", **changes)))
        if is_good:
            assert identify(request, authenticator).principal == ALICE
        else:
            assert refusal(request, authenticator) == "AuthFailure.TokenFailure"


def test_a_temporary_key_works_on_the_classic_path_with_its_token_too() -> None:
    signed = {"Action": "SendMessage", "SecretId": "AKIDtemp"}
    assert identify(classic_request({**signed, "Token": "t0ken"})).principal == ALICE
    assert refusal(classic_request({**signed, "Token": "other"})) == "AuthFailure.TokenFailure"
    assert refusal(classic_request(signed)) == "AuthFailure.TokenFailure"


def test_a_lasting_key_has_no_token() -> None:
    assert refusal(sdk_request("DescribeJobs", {}, token="t0ken")) == "AuthFailure.TokenFailure"


def test_a_wrong_signature_is_said_before_a_wrong_token() -> None:
    request = http_request(
        headers={
            "content-type": "application/json",
            "host": "h",
            "x-tc-timestamp": "1700000000",
            "authorization": authorization("0" * 64, secret_id="AKIDtemp"),
        }
    )
    assert refusal(request) == "AuthFailure.SignatureFailure"


def signed_as(secret_id: str) -> HttpRequest:
    request = sdk_request("DescribeJobs", {})
    header = request.headers["authorization"].replace("=AKIDtest/", f"={secret_id}/")
    return replace(request, headers={**request.headers, "authorization": header})


def test_an_unsigned_body_is_refused_unless_switched_on() -> None:
    request = sdk_request("DescribeJobs", {}, unsigned_payload=True)
    assert refusal(request) == "AuthFailure.SignatureFailure"
    assert identify(request, Tc3Authenticator(RING, unsigned_payload=True)).principal == ALICE


@pytest.mark.parametrize("header", [None, "", "SKIP", "Basic eDp5", "TC4-HMAC-SHA256 x"])
def test_who_does_not_sign_is_nobody(header: str | None) -> None:
    headers = {} if header is None else {"authorization": header}
    assert refusal(http_request(headers=headers)) == "AuthFailure.InvalidAuthorization"


@pytest.mark.parametrize("absent", ["content-type", "host", "x-tc-timestamp"])
def test_a_signed_header_that_is_absent_is_refused(absent: str) -> None:
    request = sdk_request("DescribeJobs", {})
    headers = {name: value for name, value in request.headers.items() if name != absent}
    assert refusal(replace(request, headers=headers)) == "AuthFailure.InvalidAuthorization"


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("algorithm", [None, "HmacSHA1", "HmacSHA256"])
def test_a_classic_call_is_believed_on_its_path(method: str, algorithm: str | None) -> None:
    request = classic_request(
        {"Action": "SendMessage", "queueName": "q", "msgBody": "a b&c=ü", "Filters.0.Name": "x"},
        method=method,
        signature_method=algorithm,
    )
    identity = identify(request)
    assert (identity.principal, identity.service) == (ALICE, "cmq")
    elsewhere = replace(request, path="/")
    assert refusal(elsewhere) == "AuthFailure.InvalidAuthorization"


def test_a_classic_call_is_refused_when_changed_or_late() -> None:
    request = classic_request({"Action": "ReceiveMessage", "queueName": "q"})
    changed = replace(request, query=request.query.replace("queueName=q", "queueName=r"))
    assert refusal(changed) == "AuthFailure.SignatureFailure"
    added = replace(request, query=request.query + "&x=%40unsigned")
    assert refusal(added) == "AuthFailure.SignatureFailure"
    twice = replace(request, query=request.query + "&queueName=q")
    with pytest.raises(InvalidRequest):
        identify(twice)
    late = classic_request({"Action": "ReceiveMessage"}, late_s=301)
    assert refusal(late) == "AuthFailure.SignatureExpire"


def test_a_classic_signature_spelled_differently_is_still_the_same_one() -> None:
    request = classic_request({"Action": "DeleteQueue", "queueName": "q"})
    respelled = replace(request, query=_respell_padding(request.query))
    assert respelled.query != request.query
    assert identify(request).signature == identify(respelled).signature


def _respell_padding(query: str) -> str:
    """Change bits that base64 does not use: 20 bytes end in a character with two spare bits."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    front, _, padding = query.rpartition("%3D")
    last = alphabet.index(front[-1])
    assert front[-3] != "%", "choose a nonce whose signature ends in a letter"
    return f"{front[:-1]}{alphabet[last ^ 1]}%3D{padding}"


hostile = st.text(st.characters(codec="utf-8"), max_size=40) | st.sampled_from(
    ["TC3-HMAC-SHA256 ", authorization("0" * 64), "1700000000", "UNSIGNED-PAYLOAD", "\0", "1e9"]
)
names = st.sampled_from(
    ["authorization", "host", "content-type", "x-tc-timestamp", "x-tc-token", "x-tc-content-sha256"]
)


@settings(max_examples=300)
@given(
    headers=st.dictionaries(names, hostile),
    query=hostile,
    body=st.binary(max_size=60),
    method=st.sampled_from(["GET", "POST", "PUT"]),
    path=st.sampled_from(["/", "/v2/index.php"]),
)
def test_nothing_hostile_does_more_than_be_refused(
    headers: dict[str, str], query: str, body: bytes, method: str, path: str
) -> None:
    request = http_request(headers=headers, query=query, body=body, method=method, path=path)
    with pytest.raises(ApiError):
        identify(request)
