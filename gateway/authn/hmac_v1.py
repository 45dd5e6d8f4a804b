"""HmacSHA1 and HmacSHA256, the signature of the classic queue API (v1): pure functions.

Source: CMQ 2017 and API 3.0, "Signature Method v1", and what the classic Python SDK sends.

Why: its SDK leaves the values of a POST that begin with `@` unsigned. They are signed here, so
that SDK has to encode such a message (its `set_encoding`): else whoever sees a call on its way
could add parameters to it. What cannot be mended is that `&` inside a value looks like the end
of it in the text that is signed; that is why this method is taken on the classic path only.
"""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.errors import AuthFailure
from gateway.forms import Pairs

METHODS: Mapping[str, Callable[..., Any]] = {
    "HmacSHA1": hashlib.sha1,
    "HmacSHA256": hashlib.sha256,
}
DEFAULT_METHOD = "HmacSHA1"

_NUMBER = re.compile(r"[0-9]{1,19}")
_SECRET_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")


@dataclass(frozen=True, slots=True)
class Claimed:
    """What a form says about who signed it.

    digest: the decoded signature. signed_at: seconds since 1970. token: "" if there is none.
    """

    secret_id: str
    method: str
    digest: bytes = field(repr=False)
    signed_at: int
    token: str = field(repr=False)


def read_claimed(pairs: Pairs) -> Claimed:
    """Read the signing parameters of a form. Raises AuthFailure if one is absent or malformed."""
    form = dict(pairs)
    for name in ("SecretId", "Signature", "Timestamp", "Nonce"):
        if not form.get(name):
            raise _malformed(f"the parameter `{name}` is absent")
    if not _SECRET_ID.fullmatch(form["SecretId"]):
        raise AuthFailure("The SecretId does not have the form of one.", detail="InvalidSecretId")
    method = form.get("SignatureMethod") or DEFAULT_METHOD
    if method not in METHODS:
        raise _malformed("`SignatureMethod` must be HmacSHA1 or HmacSHA256")
    for name in ("Timestamp", "Nonce"):
        if not _NUMBER.fullmatch(form[name]):
            raise _malformed(f"`{name}` must be a whole number")
    return Claimed(
        secret_id=form["SecretId"],
        method=method,
        digest=_decode_signature(form["Signature"]),
        signed_at=int(form["Timestamp"]),
        token=form.get("Token", ""),
    )


def _decode_signature(text: str) -> bytes:
    try:
        return base64.b64decode(text.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raise _malformed("the `Signature` is not base64") from None


def strings_to_sign(pairs: Pairs, *, method: str, host: str, path: str) -> Iterator[str]:
    """Yield the texts that a client may have signed, the likeliest first.

    method: of HTTP. host: as sent, with its port.
    Why: the classic SDK sorts the names, then writes `.` for `_` in them; the API 3.0 SDK writes
    first and sorts then. That differs only if a name has a `_`, and both cover every parameter.
    """
    signed = [(name, value) for name, value in pairs if name != "Signature"]
    sorted_first = [(name.replace("_", "."), value) for name, value in sorted(signed)]
    written_first = sorted(sorted_first)
    yield _join(sorted_first, start=f"{method}{host}{path}?")
    if written_first != sorted_first:
        yield _join(written_first, start=f"{method}{host}{path}?")


def _join(pairs: list[tuple[str, str]], *, start: str) -> str:
    return start + "&".join([f"{name}={value}" for name, value in pairs])


def sign(text: str, *, secret_key: str, method: str) -> bytes:
    """Compute the digest that, in base64, is the signature."""
    return hmac.new(secret_key.encode(), text.encode(), METHODS[method]).digest()


def verify(
    pairs: Pairs, claimed: Claimed, *, http_method: str, host: str, path: str, secret_key: str
) -> bool:
    """Tell whether the secret key made the form's signature."""
    return any(
        hmac.compare_digest(
            sign(text, secret_key=secret_key, method=claimed.method), claimed.digest
        )
        for text in strings_to_sign(pairs, method=http_method, host=host, path=path)
    )


def _malformed(why: str) -> AuthFailure:
    return AuthFailure(
        f"The request's authorization is malformed: {why}.", detail="InvalidAuthorization"
    )
