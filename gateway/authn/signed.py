"""The authenticators of signed requests: TC3 for the API, v1 for the classic queue API.

Here meet the pure rules, the key store and the time at which a request came in.
"""

import hmac
from datetime import datetime
from hashlib import sha256

from gateway.authn import Identity, Keys, Signature, hmac_v1, tc3
from gateway.call import HttpRequest, Key, Principal
from gateway.errors import AuthFailure, InvalidRequest
from gateway.forms import Pairs, read_pairs

CLASSIC_PATH = "/v2/index.php"

# Why: a signature is computed even if nobody has the key, so that it takes as long to hear
# "no such key" as "wrong signature".
_NOBODY = Key(secret_id="", secret_key="0" * 32, principal=Principal(owner_uin="", uin="", name=""))


class Tc3Authenticator:
    """Believes who signed a request with TC3-HMAC-SHA256.

    unsigned_payload: accept requests whose signature does not cover their body.
    """

    def __init__(self, keys: Keys, *, unsigned_payload: bool = False) -> None:
        self._keys = keys
        self._unsigned_payload = unsigned_payload

    async def __call__(self, request: HttpRequest) -> Identity | None:
        """Tell who signed the request; None if nobody did in this way, and on the classic path.

        Why not there: TC3 signs neither path nor action, so bytes signed for the API could be read
        as another call of the classic one.
        """
        if request.path == CLASSIC_PATH:
            return None
        parsed = tc3.parse_authorization(request.headers.get("authorization", ""))
        if parsed is None:
            return None
        credential, signature = parsed
        signed_at = tc3.read_timestamp(request)
        tc3.check_freshness(signed_at, now=request.received_at)
        tc3.check_scope(credential, signed_at=signed_at)
        unsigned = self._is_payload_unsigned(request)
        key = await self._keys.find_key(credential.secret_id)
        matches = tc3.verify(
            request,
            credential,
            signature=signature,
            secret_key=(key or _NOBODY).secret_key,
            unsigned_payload=unsigned,
        )
        token = request.headers.get("x-tc-token", "")
        believed = _believe(key, matches=matches, token=token, now=request.received_at)
        return Identity(
            believed.principal,
            credential.service,
            Signature(signature, signed_at),
            expires_at=believed.expires_at,
        )

    def _is_payload_unsigned(self, request: HttpRequest) -> bool:
        if request.headers.get("x-tc-content-sha256") != tc3.UNSIGNED_PAYLOAD:
            return False
        if not self._unsigned_payload:
            raise AuthFailure(
                f"`{tc3.UNSIGNED_PAYLOAD}` is not accepted here: sign the body.",
                detail="SignatureFailure",
            )
        return True


class ClassicAuthenticator:
    """Believes who signed a request of the classic queue API, on its own path only."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    async def __call__(self, request: HttpRequest) -> Identity | None:
        """Tell who signed the request; None if it is for another path.

        Raises InvalidRequest for a form that cannot be read, besides AuthFailure.
        """
        if request.path != CLASSIC_PATH:
            return None
        pairs = _read_form(request)
        claimed = hmac_v1.read_claimed(pairs)
        tc3.check_freshness(claimed.signed_at, now=request.received_at)
        key = await self._keys.find_key(claimed.secret_id)
        matches = hmac_v1.verify(
            pairs,
            claimed,
            http_method=request.method,
            host=request.headers.get("host", ""),
            path=request.path,
            secret_key=(key or _NOBODY).secret_key,
        )
        believed = _believe(key, matches=matches, token=claimed.token, now=request.received_at)
        # Why: not the text of the signature, for several base64 texts stand for one digest.
        signature = Signature(claimed.digest.hex(), claimed.signed_at)
        return Identity(believed.principal, "cmq", signature, expires_at=believed.expires_at)


def _read_form(request: HttpRequest) -> Pairs:
    """The parameters, signature and all. Raises InvalidRequest.

    Why no AuthFailure: nobody's identity is in doubt yet, and who sends a broken form would look
    for the fault in their keys.
    """
    try:
        return read_pairs(request.query if request.method == "GET" else request.body)
    except ValueError as error:
        raise InvalidRequest(f"The request's parameters cannot be read: {error}.") from None


def _believe(key: Key | None, *, matches: bool, token: str, now: datetime) -> Key:
    """Give the key if it proves who its owner is, or raise the AuthFailure that fits.

    Why: a disabled key is "not found", for the vendor's text for that code speaks of keys that
    were deleted or disabled.
    """
    if key is None or not key.active:
        raise AuthFailure(
            "The SecretId is not found, please ensure that your SecretId is correct.",
            detail="SecretIdNotFound",
        )
    if not matches:
        raise AuthFailure(
            "The provided credentials could not be validated. "
            "Please check your signature is correct.",
            detail="SignatureFailure",
        )
    if not _has_token(key, token):
        raise AuthFailure(
            "The token of the temporary key is missing or wrong, or this key has none.",
            detail="TokenFailure",
        )
    if key.expires_at is not None and key.expires_at <= now:
        raise AuthFailure(
            "The temporary key has expired: ask for a new one.", detail="TokenFailure"
        )
    return key


def _has_token(key: Key, token: str) -> bool:
    if key.token_sha256 is None:
        return not token
    return hmac.compare_digest(key.token_sha256, sha256(token.encode("utf-8", "replace")).digest())
