"""The API's signature: the published vectors, and what must not be taken for one."""

import hashlib

import pytest

from gateway.authn import tc3
from gateway.errors import AuthFailure
from tests.authn.requests import NOW, authorization, http_request

DOCUMENT_SIGNATURE = "5da7a33f6993f0614b047e5df4582db9e9bf4672ba50567dba16c6ccf174c474"
VECTORS = {
    "http://127.0.0.1:18999": "ca91720cdc837daf61ee8b3f7b4b37f0bc5f68c93f44fe3dc61eb0b62996f87e",
    "http://127.0.0.1:18999/batch/": (
        "b63891aea68be5ec8a92a9117d848619768d49fdade8b76d45d6a4e21261f349"
    ),
    "127.0.0.1:18999": "881189ea789ddc3038835b63da588d015f17955942e708ba1f9dfbafce2fd5d3",
}
UNSIGNED_VECTOR = "48919b2370f2a776e818a178e97928b23a482e815c2ccd9ddcd9a273f18efa34"


def test_the_documents_own_example_comes_out() -> None:
    request = http_request(
        method="GET",
        query="Limit=10&Offset=0",
        body=b"",
        headers={
            "content-type": "application/x-www-form-urlencoded",
            "host": "cvm.tencentcloudapi.com",
            "x-tc-timestamp": "1539084154",
        },
    )
    header = authorization(DOCUMENT_SIGNATURE, date="2018-10-09", service="cvm")
    parsed = tc3.parse_authorization(header)
    assert parsed is not None
    credential, signature = parsed
    canonical = tc3.canonical_request(
        request, credential.signed_headers, lowered=False, unsigned_payload=False
    )
    assert hashlib.sha256(canonical.encode()).hexdigest() == (
        "91c9c192c14460df6c1ffc69e34e6c5e90708de2a6d282cccf957dbf1aa7f3a7"
    )
    assert tc3.verify(
        request, credential, signature=signature, secret_key="Gu5t9xGARNpq86cd98joQYCN3EXAMPLE"
    )


@pytest.mark.parametrize(("host", "signature"), VECTORS.items())
@pytest.mark.parametrize("path", ["/", "/batch/"])
def test_a_host_is_signed_as_it_was_sent_whatever_the_path(
    host: str, signature: str, path: str
) -> None:
    request = http_request(path=path, headers=_headers(host=host))
    assert tc3.verify(request, _credential(), signature=signature, secret_key="sk-test")
    others = [other for other in VECTORS.values() if other != signature]
    for other in others:
        assert not tc3.verify(request, _credential(), signature=other, secret_key="sk-test")


def test_an_unsigned_payload_covers_no_body() -> None:
    for body in (b"{}", b'{"JobId":"job-other000"}'):
        request = http_request(headers=_headers(), body=body)
        assert tc3.verify(
            request,
            _credential(),
            signature=UNSIGNED_VECTOR,
            secret_key="sk-test",
            unsigned_payload=True,
        )
        assert not tc3.verify(
            request, _credential(), signature=UNSIGNED_VECTOR, secret_key="sk-test"
        )


@pytest.mark.parametrize(
    ("header", "detail"),
    [
        ("TC3-HMAC-SHA256", "InvalidAuthorization"),
        ("TC3-HMAC-SHA256 ", "InvalidAuthorization"),
        (authorization("0" * 63), "InvalidAuthorization"),
        (authorization("A" * 64), "InvalidAuthorization"),
        (authorization("\u0660" * 64), "InvalidAuthorization"),
        (authorization("0" * 64 + "\n"), "InvalidAuthorization"),
        (authorization("0" * 64) + f", Signature={'0' * 64}", "InvalidAuthorization"),
        (authorization("0" * 64).replace(", Signature", "Signature"), "InvalidAuthorization"),
        (authorization("0" * 64, signed_headers="content-type"), "InvalidAuthorization"),
        (authorization("0" * 64, signed_headers="host"), "InvalidAuthorization"),
        (authorization("0" * 64, signed_headers="host;content-type"), "InvalidAuthorization"),
        (authorization("0" * 64, signed_headers="content-type;host;host"), "InvalidAuthorization"),
        (authorization("0" * 64, signed_headers="Content-Type;Host"), "InvalidAuthorization"),
        (authorization("0" * 64, signed_headers="h;" * 40_000), "InvalidAuthorization"),
        (authorization("0" * 64, service="../batch"), "InvalidAuthorization"),
        (authorization("0" * 64, service=""), "InvalidAuthorization"),
        (authorization("0" * 64, date="2023-11-1\u0664"), "InvalidAuthorization"),
        (authorization("0" * 64, secret_id=""), "InvalidSecretId"),
        (authorization("0" * 64, secret_id="AKID\0"), "InvalidSecretId"),
        (authorization("0" * 64, secret_id="AKID\u00e9"), "InvalidSecretId"),
        (authorization("0" * 64, secret_id="A" * 129), "InvalidSecretId"),
    ],
)
def test_a_malformed_authorization_is_refused_for_what_it_is(header: str, detail: str) -> None:
    with pytest.raises(AuthFailure) as refused:
        tc3.parse_authorization(header)
    assert refused.value.detail == detail


@pytest.mark.parametrize("header", ["", "SKIP", "Bearer x", "tc3-hmac-sha256 Credential=x"])
def test_another_scheme_is_left_to_others(header: str) -> None:
    assert tc3.parse_authorization(header) is None


@pytest.mark.parametrize(
    "text", ["", "1e9", "-1", "+1700000000", " 1700000000", "1.7", "\u0661", "1\0", "9" * 40]
)
def test_a_timestamp_is_a_whole_number_of_seconds(text: str) -> None:
    with pytest.raises(AuthFailure) as refused:
        tc3.read_timestamp(http_request(headers={"x-tc-timestamp": text}))
    assert refused.value.detail == "InvalidAuthorization"


@pytest.mark.parametrize("off_s", [-300, 0, 300])
def test_a_clock_may_be_five_minutes_off(off_s: int) -> None:
    tc3.check_freshness(1_700_000_000 + off_s, now=NOW)


@pytest.mark.parametrize("off_s", [-1_700_000_000, -301, 301, 10**18])
def test_a_signature_expires_after_five_minutes_on_either_side(off_s: int) -> None:
    with pytest.raises(AuthFailure) as refused:
        tc3.check_freshness(1_700_000_000 + off_s, now=NOW)
    assert refused.value.detail == "SignatureExpire"


def test_the_scopes_day_is_the_timestamps_day_and_no_other() -> None:
    last_second_of_the_day = 1_700_006_399
    tc3.check_scope(_credential(), signed_at=last_second_of_the_day)
    with pytest.raises(AuthFailure) as refused:
        tc3.check_scope(_credential(), signed_at=last_second_of_the_day + 1)
    assert refused.value.detail == "SignatureFailure"


def test_a_character_that_no_byte_can_be_matches_nothing() -> None:
    request = http_request(headers=_headers(host="\u4e2d"))
    assert not tc3.verify(request, _credential(), signature="0" * 64, secret_key="sk-test")


def _headers(host: str = "127.0.0.1:18999") -> dict[str, str]:
    return {"host": host, "content-type": "application/json", "x-tc-timestamp": "1700000000"}


def _credential() -> tc3.Credential:
    return tc3.Credential("AKIDtest", "2023-11-14", "batch", ("content-type", "host"))
