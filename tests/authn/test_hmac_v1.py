"""The classic signature: the published vectors, and the two ways of sorting."""

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tencentcloud.common.sign import Sign

from gateway.authn import hmac_v1
from gateway.errors import AuthFailure

API_3 = (
    "GET",
    "cvm.tencentcloudapi.com",
    "/",
    {
        "Action": "DescribeInstances",
        "InstanceIds.0": "ins-09dx96dg",
        "Limit": "20",
        "Nonce": "11886",
        "Offset": "0",
        "Region": "ap-guangzhou",
        "SecretId": "AKIDz8krbsJ5yKBZQpn74WFkmLPx3EXAMPLE",
        "Timestamp": "1465185768",
        "Version": "2017-03-12",
    },
    "Gu5t9xGARNpq86cd98joQYCN3EXAMPLE",
    "EliP9YW3pW28FpsEdkXt/+WcGeI=",
)
CMQ = (
    "GET",
    "cvm.api.qcloud.com",
    "/v2/index.php",
    {
        "Action": "DescribeInstances",
        "Nonce": "11886",
        "Region": "gz",
        "SecretId": "AKIDz8krbsJ5yKBZQpn74WFkmLPx3gnPhESA",
        "Timestamp": "1465185768",
        "instanceIds.0": "ins-09dx96dg",
        "limit": "20",
        "offset": "0",
    },
    "Gu5t9xGARNpq86cd98joQYCN3Cozk1qA",
    "NSI3UqqD99b/UJb4tbG/xZpRW64=",
)


@pytest.mark.parametrize(
    ("method", "host", "path", "form", "secret_key", "signature"), [API_3, CMQ]
)
def test_the_documents_own_examples_come_out(
    method: str, host: str, path: str, form: dict[str, str], secret_key: str, signature: str
) -> None:
    pairs = (*reversed(form.items()), ("Signature", signature))
    claimed = hmac_v1.read_claimed(pairs)
    assert claimed.method == "HmacSHA1"
    assert hmac_v1.verify(
        pairs, claimed, http_method=method, host=host, path=path, secret_key=secret_key
    )
    assert not hmac_v1.verify(
        pairs, claimed, http_method="POST", host=host, path=path, secret_key=secret_key
    )


names = st.text("aAzZ._019", min_size=1, max_size=6)
forms = st.dictionaries(names, st.text(max_size=8), max_size=8)


@given(form=forms, algorithm=st.sampled_from(["HmacSHA1", "HmacSHA256"]), first=st.booleans())
def test_both_ways_of_sorting_are_believed(
    form: dict[str, str], algorithm: str, first: bool
) -> None:
    full = {**form, "SecretId": "AKIDtest", "Timestamp": "1", "Nonce": "1"}
    full["SignatureMethod"] = algorithm
    written = {name: name.replace("_", ".") for name in full}
    in_order = sorted(full) if first else sorted(full, key=lambda name: (written[name], full[name]))
    text = "&".join(f"{written[name]}={full[name]}" for name in in_order)
    signature = Sign.sign("sk-test", f"POSThost/v2/index.php?{text}", algorithm)
    assert believed({**full, "Signature": signature})
    assert not believed({**full, "Signature": signature, "added": "@1"})


def believed(form: dict[str, str]) -> bool:
    pairs = tuple(form.items())
    return hmac_v1.verify(
        pairs,
        hmac_v1.read_claimed(pairs),
        http_method="POST",
        host="host",
        path="/v2/index.php",
        secret_key="sk-test",
    )


@pytest.mark.parametrize(
    ("changes", "detail"),
    [
        ({"Nonce": ""}, "InvalidAuthorization"),
        ({"Signature": ""}, "InvalidAuthorization"),
        ({"Signature": "not base64"}, "InvalidAuthorization"),
        ({"Signature": "\u00e9"}, "InvalidAuthorization"),
        ({"Timestamp": "1e9"}, "InvalidAuthorization"),
        ({"Timestamp": "-1"}, "InvalidAuthorization"),
        ({"Timestamp": "9" * 40}, "InvalidAuthorization"),
        ({"SignatureMethod": "none"}, "InvalidAuthorization"),
        ({"SecretId": "AKID/1"}, "InvalidSecretId"),
    ],
)
def test_malformed_signing_parameters_are_refused(changes: dict[str, Any], detail: str) -> None:
    signature = base64.b64encode(b"x" * 20).decode()
    form = {"SecretId": "AKID1", "Nonce": "1", "Timestamp": "1", "Signature": signature}
    with pytest.raises(AuthFailure) as refused:
        hmac_v1.read_claimed(tuple((form | changes).items()))
    assert refused.value.detail == detail
