"""TC3-HMAC-SHA256, the signature of API 3.0 (v3): pure functions, no clock, no key store.

Source: Tencent Cloud API 3.0, "Signature Method v3", and what the official SDKs send.

Why: three points on which the document and the SDKs differ. The signed path is `/` whatever the
real one is, for the SDKs sign that. The query is signed as it was sent, neither sorted nor
encoded anew. A header's value is tried as it was sent (the SDKs' way), then trimmed and in lower
case (the document's way).
"""

import hashlib
import hmac
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

from gateway.call import HttpRequest
from gateway.errors import AuthFailure

SCHEME = "TC3-HMAC-SHA256"
SKEW_S_MAX = 300
UNSIGNED_PAYLOAD = "UNSIGNED-PAYLOAD"
REQUIRED_HEADERS = frozenset({"content-type", "host"})
CACHED_MAX = 4_096

_CREDENTIAL = re.compile(
    SCHEME + r" Credential=(?P<secret_id>[^/,\s]*)/(?P<date>[0-9]{4}-[0-9]{2}-[0-9]{2})"
    r"/(?P<service>[a-z0-9]{1,32})/tc3_request, ?SignedHeaders=(?P<headers>[a-z0-9;-]{1,512}), ?"
)
_SECRET_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
_SIGNATURE = re.compile(r"[0-9a-f]{64}")
_TIMESTAMP = re.compile(r"[0-9]{1,19}")


@dataclass(frozen=True, slots=True)
class Credential:
    """What an Authorization header says besides the signature itself.

    date, service: the credential scope; date as "YYYY-MM-DD".
    signed_headers: names in lower case, sorted, with content-type and host among them.
    """

    secret_id: str
    date: str
    service: str
    signed_headers: tuple[str, ...]


def parse_authorization(header: str) -> tuple[Credential, str] | None:
    """Split an Authorization header into credential and signature; None for another scheme.

    Raises AuthFailure.InvalidAuthorization, or InvalidSecretId, if it is malformed.
    """
    if not header.startswith(SCHEME):
        return None
    front, _, signature = header.rpartition("Signature=")
    if not _SIGNATURE.fullmatch(signature):
        raise _malformed("its signature is not 64 hexadecimal digits in lower case")
    return _parse_credential(front), signature


@lru_cache(CACHED_MAX)
def _parse_credential(front: str) -> Credential:
    """Read what stands before the signature; the same all day for one caller, so kept."""
    match = _CREDENTIAL.fullmatch(front)
    if match is None:
        raise _malformed(
            f"it must be `{SCHEME} Credential=<SecretId>/<YYYY-MM-DD>/<service>/tc3_request, "
            "SignedHeaders=<names>, Signature=<signature>`"
        )
    if not _SECRET_ID.fullmatch(match["secret_id"]):
        raise AuthFailure("The SecretId does not have the form of one.", detail="InvalidSecretId")
    names = tuple(match["headers"].split(";"))
    if list(names) != sorted(set(names)):
        raise _malformed("its SignedHeaders are not sorted, or one is named twice")
    if not REQUIRED_HEADERS.issubset(names):
        raise _malformed("its SignedHeaders must name `content-type` and `host`")
    return Credential(match["secret_id"], match["date"], match["service"], names)


def read_timestamp(request: HttpRequest) -> int:
    """The second the caller says it is, from X-TC-Timestamp, since 1970."""
    text = request.headers.get("x-tc-timestamp", "")
    if not _TIMESTAMP.fullmatch(text):
        raise _malformed("`X-TC-Timestamp` must be a whole number of seconds since 1970")
    return int(text)


def check_freshness(signed_at: int, *, now: datetime) -> None:
    """Raise AuthFailure.SignatureExpire if the caller's clock and ours are too far apart.

    signed_at: seconds since 1970.
    """
    if abs(int(now.timestamp()) - signed_at) > SKEW_S_MAX:
        raise AuthFailure(
            "The signature is expired, please request again.", detail="SignatureExpire"
        )


def check_scope(credential: Credential, *, signed_at: int) -> None:
    """Raise AuthFailure.SignatureFailure unless the scope's day is the timestamp's day, in UTC.

    signed_at: seconds since 1970, found fresh before.

    Why: no source says which code this has. It is not SignatureExpire, which tells the caller to
    send the same again; this one would be wrong again.
    """
    if credential.date != _day(signed_at // 86_400):
        raise AuthFailure(
            "The date of the credential scope is not the date of `X-TC-Timestamp` in UTC.",
            detail="SignatureFailure",
        )


@lru_cache(16)
def _day(number: int) -> str:
    """The date of the day `number` days after 1970-01-01."""
    return datetime.fromtimestamp(number * 86_400, UTC).strftime("%Y-%m-%d")


@lru_cache(CACHED_MAX)
def signing_key(secret_key: str, *, date: str, service: str) -> bytes:
    """Derive the 32-byte key that signs one day's calls to one service.

    date: UTC day of the credential scope, "YYYY-MM-DD", not the server's own day.
    Source: "Signature Method v3", step 3.
    """
    day = hmac.digest(f"TC3{secret_key}".encode(), date.encode(), "sha256")
    return hmac.digest(hmac.digest(day, service.encode(), "sha256"), b"tc3_request", "sha256")


def canonical_request(
    request: HttpRequest, signed_headers: tuple[str, ...], *, lowered: bool, unsigned_payload: bool
) -> str:
    """Write the request in the form that is signed.

    lowered: header values trimmed and in lower case, rather than as sent.
    unsigned_payload: the body is not covered, only the statement that it is not.
    Raises AuthFailure.InvalidAuthorization if a header that should be signed is absent.
    """
    headers = request.headers
    try:
        if lowered:
            lines = [f"{name}:{headers[name].strip().lower()}\n" for name in signed_headers]
        else:
            lines = [f"{name}:{headers[name]}\n" for name in signed_headers]
    except KeyError as error:
        raise _malformed(f"the signed header `{error.args[0]}` is absent") from None
    payload = UNSIGNED_PAYLOAD.encode() if unsigned_payload else request.body
    digest = hashlib.sha256(payload).hexdigest()
    names = ";".join(signed_headers)
    return f"{request.method}\n/\n{request.query}\n{''.join(lines)}\n{names}\n{digest}"


def sign(canonical: str, credential: Credential, *, secret_key: str, timestamp: str) -> str:
    """Compute the signature, 64 hexadecimal digits.

    canonical: of characters up to U+00FF, each one byte as received.
    timestamp: X-TC-Timestamp as sent.
    """
    digest = hashlib.sha256(canonical.encode("latin-1")).hexdigest()
    scope = f"{credential.date}/{credential.service}/tc3_request"
    key = signing_key(secret_key, date=credential.date, service=credential.service)
    to_sign = f"{SCHEME}\n{timestamp}\n{scope}\n{digest}"
    return hmac.digest(key, to_sign.encode(), "sha256").hex()


def verify(
    request: HttpRequest,
    credential: Credential,
    *,
    signature: str,
    secret_key: str,
    unsigned_payload: bool = False,
) -> bool:
    """Tell whether the secret key made this signature over this request."""
    timestamp = request.headers["x-tc-timestamp"]
    signed = credential.signed_headers
    as_sent = canonical_request(request, signed, lowered=False, unsigned_payload=unsigned_payload)
    if not as_sent.isascii() and max(as_sent) > "\xff":
        return False
    expected = sign(as_sent, credential, secret_key=secret_key, timestamp=timestamp)
    if hmac.compare_digest(expected, signature):
        return True
    lowered = canonical_request(request, signed, lowered=True, unsigned_payload=unsigned_payload)
    if lowered == as_sent:
        return False
    expected = sign(lowered, credential, secret_key=secret_key, timestamp=timestamp)
    return hmac.compare_digest(expected, signature)


def _malformed(why: str) -> AuthFailure:
    return AuthFailure(
        f"The request's authorization is malformed: {why}.", detail="InvalidAuthorization"
    )
