"""Signed requests as the official SDK makes them, and keys to check them with."""

import base64
import hashlib
import hmac
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from tencentcloud.common.abstract_client import AbstractClient
from tencentcloud.common.credential import Credential
from tencentcloud.common.http.request import RequestInternal
from tencentcloud.common.profile.client_profile import ClientProfile
from tencentcloud.common.profile.http_profile import HttpProfile

from gateway.call import HttpRequest, Key, Principal

NOW = datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)  # 1700000000
SECRET_ID, SECRET_KEY = "AKIDtest", "sk-test"
ALICE = Principal(owner_uin="100000000001", uin="100000000101", name="alice")


class KeyRing:
    """Keys in memory."""

    def __init__(self, *keys: Key) -> None:
        self._keys = {key.secret_id: key for key in keys}

    async def find_key(self, secret_id: str) -> Key | None:
        return self._keys.get(secret_id)


def alice_key(**changes: Any) -> Key:
    fields: dict[str, Any] = {"secret_id": SECRET_ID, "secret_key": SECRET_KEY, "principal": ALICE}
    return Key(**(fields | changes))


def http_request(**changes: Any) -> HttpRequest:
    fields: dict[str, Any] = {
        "method": "POST",
        "path": "/",
        "query": "",
        "headers": {},
        "body": b"{}",
        "source_ip": "127.0.0.1",
        "received_at": NOW,
    }
    return HttpRequest(**(fields | changes))


def authorization(
    signature: str,
    *,
    date: str = "2023-11-14",
    service: str = "batch",
    signed_headers: str = "content-type;host",
    secret_id: str = SECRET_ID,
) -> str:
    return (
        f"TC3-HMAC-SHA256 Credential={secret_id}/{date}/{service}/tc3_request, "
        f"SignedHeaders={signed_headers}, Signature={signature}"
    )


def by_the_document(request: HttpRequest, *names: str, date: str = "2023-11-14") -> str:
    """Sign as the document says: header values trimmed and in lower case. Shares no code."""

    def hmac_of(key: bytes, text: str) -> bytes:
        return hmac.new(key, text.encode(), hashlib.sha256).digest()

    headers = "".join(f"{name}:{request.headers[name].strip().lower()}\n" for name in names)
    lines = (request.method, "/", request.query, headers, ";".join(names))
    text = "\n".join([*lines, hashlib.sha256(request.body).hexdigest()])
    scope = f"{date}/batch/tc3_request"
    digest = hashlib.sha256(text.encode("latin-1")).hexdigest()
    to_sign = f"TC3-HMAC-SHA256\n{request.headers['x-tc-timestamp']}\n{scope}\n{digest}"
    key = hmac_of(hmac_of(f"TC3{SECRET_KEY}".encode(), date), "batch")
    signature = hmac_of(hmac_of(key, "tc3_request"), to_sign).hex()
    return authorization(signature, signed_headers=";".join(names), date=date)


class _Client(AbstractClient):
    _apiVersion = "2017-03-12"  # noqa: N815  # the SDK's name
    _service = "batch"


def sdk_request(
    action: str,
    params: dict[str, Any],
    *,
    method: str = "POST",
    endpoint: str = "127.0.0.1:18999",
    token: str | None = None,
    unsigned_payload: bool = False,
) -> HttpRequest:
    """The request that the SDK would send now, signed by the SDK's own code."""
    http = HttpProfile(endpoint=endpoint, reqMethod=method, protocol="http")
    profile = ClientProfile(httpProfile=http)
    profile.unsignedPayload = unsigned_payload
    client = _Client(Credential(SECRET_ID, SECRET_KEY, token), "ap-guangzhou", profile)
    made = RequestInternal(endpoint, method, "/", header={})
    client._build_req_inter(action, params, made)  # noqa: SLF001  # signs and does not send
    headers = {name.lower(): value for name, value in made.header.items()}
    return http_request(
        method=method,
        query=made.data if method == "GET" else "",
        body=b"" if method == "GET" else made.data.encode(),
        headers=headers,
        received_at=datetime.fromtimestamp(int(headers["x-tc-timestamp"]), UTC),
    )


def classic_request(
    params: dict[str, str],
    *,
    method: str = "GET",
    signature_method: str | None = None,
    host: str = "127.0.0.1:18999",
    late_s: int = 0,
) -> HttpRequest:
    """A request of the classic queue API, signed as its document says."""
    form = {"SecretId": SECRET_ID, "Nonce": "11886", "Timestamp": "1700000000", **params}
    if signature_method is not None:
        form["SignatureMethod"] = signature_method
    text = "&".join(f"{name.replace('_', '.')}={form[name]}" for name in sorted(form))
    digest = hmac.new(
        SECRET_KEY.encode(),
        f"{method}{host}/v2/index.php?{text}".encode(),
        hashlib.sha256 if signature_method == "HmacSHA256" else hashlib.sha1,
    ).digest()
    encoded = urlencode({**form, "Signature": base64.b64encode(digest).decode()})
    return http_request(
        method=method,
        path="/v2/index.php",
        query=encoded if method == "GET" else "",
        body=b"" if method == "GET" else encoded.encode(),
        headers={"host": host, "content-type": "application/x-www-form-urlencoded"},
        received_at=NOW + timedelta(seconds=late_s),
    )
