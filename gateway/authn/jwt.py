"""Bearer tokens: JSON web tokens of issuers that the operator trusts.

Why: nothing a token says chooses how it is checked. Each issuer has one algorithm and its keys,
given beforehand; a token that points at a key (`jku`, `x5u`, …) is refused. `iat` is required
besides `exp`, `aud` and `iss`, for without it nobody could tell how long a token lives. A token
never makes its bearer the root: the root has a key.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from typing import Any

import jwt

from gateway.authn import Identity
from gateway.call import HttpRequest, Principal
from gateway.config import SettingsError
from gateway.errors import AuthFailure

CLOCK_SKEW_S = 60
LIFETIME_S_MAX = 3_600
TOKEN_CHARACTERS_MAX = 8_192
CACHED_MAX = 4_096
MFA = "mfa"
FORBIDDEN_HEADERS = frozenset({"jku", "jwk", "x5u", "x5c", "crit", "b64"})

_UIN = re.compile(r"[0-9]{1,20}")
_NAME = re.compile(r"[\w+=,.@-]{1,64}")


class Algorithm(Enum):
    """The ways a token may be signed."""

    RS256 = "RS256"
    ES256 = "ES256"
    EDDSA = "EdDSA"
    HS256 = "HS256"


@dataclass(frozen=True, slots=True)
class Issuer:
    """Someone whose tokens are believed.

    name: the `iss` claim. key: a public key in PEM, a JSON web key set, or the secret of HS256.
    owner_uins: the accounts it may speak for; if it is one, its tokens need not say which.
    """

    name: str
    algorithm: Algorithm
    key: str = field(repr=False)
    audience: str
    owner_uins: frozenset[str]
    max_lifetime_s: int = LIFETIME_S_MAX


@dataclass(frozen=True, slots=True)
class _Trusted:
    """An issuer with its keys read, by key id; None for the id of a key that has none."""

    issuer: Issuer
    keys: Mapping[str | None, Any]


@dataclass(frozen=True, slots=True)
class _Verified:
    """A token found right. expires_at: seconds since 1970."""

    identity: Identity
    expires_at: int


class JwtAuthenticator:
    """Believes who shows a token of a trusted issuer.

    Raises SettingsError if an issuer's key cannot be used or two issuers have one name.
    """

    def __init__(self, issuers: Sequence[Issuer]) -> None:
        self._trusted = {issuer.name: _Trusted(issuer, _read_keys(issuer)) for issuer in issuers}
        if len(self._trusted) != len(issuers):
            raise SettingsError("two issuers of tokens have the same name")
        self._verified: dict[str, _Verified] = {}

    async def __call__(self, request: HttpRequest) -> Identity | None:
        """Tell who shows the token; None if there is none."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        now_s = request.received_at.timestamp()
        known = self._verified.get(token)
        if known is not None and now_s < known.expires_at:
            return known.identity
        self._verified.pop(token, None)
        verified = self._verify(token, now_s=now_s)
        if len(self._verified) >= CACHED_MAX:
            del self._verified[next(iter(self._verified))]
        self._verified[token] = verified
        return verified.identity

    def _verify(self, token: str, *, now_s: float) -> _Verified:
        if len(token) > TOKEN_CHARACTERS_MAX:
            raise _refused("it is too long")
        try:
            unproved = jwt.decode_complete(token, options={"verify_signature": False})
            trusted = self._find_issuer(unproved["payload"].get("iss"))
            claims = _verify_claims(token, trusted, header=unproved["header"])
        except jwt.MissingRequiredClaimError as error:
            raise _refused(f"its claim `{error.claim}` is missing") from None
        except jwt.PyJWTError:
            raise _refused("it is malformed, or its signature or audience is wrong") from None
        issuer = trusted.issuer
        expires_at = _check_times(claims, now_s=now_s, max_lifetime_s=issuer.max_lifetime_s)
        identity = Identity(
            _read_principal(claims, issuer),
            service=None,
            signature=None,
            expires_at=datetime.fromtimestamp(expires_at, UTC),
        )
        return _Verified(identity, expires_at)

    def _find_issuer(self, name: object) -> _Trusted:
        """The issuer of this name. Raises AuthFailure, or as PyJWT does if a token names none."""
        if name is None:
            raise jwt.MissingRequiredClaimError("iss")
        trusted = self._trusted.get(name) if isinstance(name, str) else None
        if trusted is None:
            raise _refused("its issuer is not known here")
        return trusted


def _verify_claims(
    token: str, trusted: _Trusted, *, header: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Check signature, audience and issuer; the times come later, with the request's own clock."""
    if not FORBIDDEN_HEADERS.isdisjoint(header):
        raise _refused("its header may not say how it is to be checked")
    key = _choose_key(trusted.keys, header.get("kid"))
    if key is None:
        raise _refused("its issuer has no key of this id")
    claims: dict[str, Any] = _VERIFIER.decode(
        token,
        key,
        algorithms=[trusted.issuer.algorithm.value],
        audience=trusted.issuer.audience,
        issuer=trusted.issuer.name,
    )
    return claims


def _choose_key(keys: Mapping[str | None, Any], key_id: str | None) -> Any:
    """Find the key a token names. An only key needs no name, and a key without id has any."""
    is_only = len(keys) == 1 and (key_id is None or None in keys)
    return next(iter(keys.values())) if is_only else keys.get(key_id)


_VERIFIER = jwt.PyJWT(
    {
        "require": ["exp", "iat", "aud", "iss"],
        "verify_exp": False,
        "verify_iat": False,
        "verify_nbf": False,
        "enforce_minimum_key_length": True,
    }
)


def _check_times(claims: Mapping[str, Any], *, now_s: float, max_lifetime_s: int) -> int:
    """Give the second at which the token expires, if it is valid now and not for too long."""
    issued_at, expires_at = _read_time(claims, "iat"), _read_time(claims, "exp")
    if expires_at <= now_s:
        raise _refused("it has expired")
    if max(issued_at, _read_time(claims, "nbf", default=0)) > now_s + CLOCK_SKEW_S:
        raise _refused("it is not valid yet")
    if expires_at - issued_at > max_lifetime_s:
        raise _refused(f"it lives longer than {max_lifetime_s} seconds")
    return expires_at


def _read_time(claims: Mapping[str, Any], name: str, *, default: int | None = None) -> int:
    value = claims.get(name, default)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value):
        raise _refused(f"its claim `{name}` is not a time")
    return int(value)


def _read_principal(claims: Mapping[str, Any], issuer: Issuer) -> Principal:
    """Read who the token speaks of: claims `owner_uin`, `uin` (or `sub`), `name` and `amr`.

    Why: a uin may stand in a policy's `${uin}`, so nothing but digits is one.
    """
    only_owner = next(iter(issuer.owner_uins)) if len(issuer.owner_uins) == 1 else None
    owner_uin = _read_uin(claims.get("owner_uin", only_owner), claim="owner_uin")
    uin = _read_uin(claims.get("uin", claims.get("sub")), claim="uin")
    if owner_uin not in issuer.owner_uins:
        raise _refused("its issuer may not speak for this account")
    if uin == owner_uin:
        raise _refused("it names the root, who has a key instead")
    name = claims.get("name")
    named = isinstance(name, str) and _NAME.fullmatch(name) is not None
    return Principal(
        owner_uin=owner_uin,
        uin=uin,
        name=str(name) if named else uin,
        mfa=_read_mfa(claims),
        bearer=True,
    )


def _read_mfa(claims: Mapping[str, Any]) -> bool:
    """Read whether the bearer proved more than one thing. Source: RFC 8176, claim `amr`."""
    methods = claims.get("amr", [])
    if not isinstance(methods, list) or not all(isinstance(one, str) for one in methods):
        raise _refused("its claim `amr` is not a list of strings")
    return MFA in methods


def _read_uin(value: object, *, claim: str) -> str:
    text = str(value) if isinstance(value, int | str) else ""
    if not _UIN.fullmatch(text):
        raise _refused(f"its claim `{claim}` is not a uin")
    return text


def _read_keys(issuer: Issuer) -> Mapping[str | None, Any]:
    """Read the issuer's keys, by key id.

    Raises SettingsError if there is none for its algorithm, or one is of another kind or weak.
    """
    algorithm = jwt.get_algorithm_by_name(issuer.algorithm.value)
    try:
        if issuer.key.lstrip().startswith("{"):
            keys = _read_key_set(issuer)
        else:
            keys = {None: algorithm.prepare_key(issuer.key)}
    except (jwt.PyJWTError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise SettingsError(f"issuer `{issuer.name}`: its key cannot be used") from error
    if not keys:
        raise SettingsError(f"issuer `{issuer.name}`: no key for {issuer.algorithm.value}")
    for key in keys.values():
        if weakness := algorithm.check_key_length(key):
            raise SettingsError(f"issuer `{issuer.name}`: {weakness}")
    return keys


def _read_key_set(issuer: Issuer) -> dict[str | None, Any]:
    """Read the keys of a JSON web key set that are for the issuer's algorithm; others may be."""
    keys: dict[str | None, Any] = {}
    for each in json.loads(issuer.key)["keys"]:
        is_for_it = each.get("alg", issuer.algorithm.value) == issuer.algorithm.value
        is_for_signing = each.get("use", "sig") == "sig"
        if not (is_for_it and is_for_signing and each["kty"] == _KEY_TYPES[issuer.algorithm]):
            continue
        if each.get("kid") in keys:
            raise ValueError("two keys of the set have the same id")
        keys[each.get("kid")] = jwt.PyJWK(each, issuer.algorithm.value).key
    return keys


_KEY_TYPES = {
    Algorithm.RS256: "RSA",
    Algorithm.ES256: "EC",
    Algorithm.EDDSA: "OKP",
    Algorithm.HS256: "oct",
}


def _refused(why: str) -> AuthFailure:
    return AuthFailure(f"The bearer token is not accepted: {why}.", detail="TokenFailure")
