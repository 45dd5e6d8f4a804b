"""WHO: finds out who makes a call, and believes nobody.

Read on in `tc3` (the API's own signature), `hmac_v1` (the classic queue API's), `signed` (the
two as authenticators), `jwt` (bearer tokens) and `replay` (what a signature is good for twice).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from gateway.call import HttpRequest, Key, Principal, Value
from gateway.errors import AuthFailure


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature that was found right.

    value: in hexadecimal. signed_at: the second it was made, in seconds since 1970.
    """

    value: str = field(repr=False)
    signed_at: int


class Identity(Value, frozen=True):
    """Who makes a call, as proved.

    service: the service the signature was made for; None if the method names none.
    signature: what the replay guard has to check; None for a bearer token, which is meant to be
    shown again and again. expires_at: when the key or token is good for nothing; None if it lasts.
    """

    principal: Principal
    service: str | None
    signature: Signature | None
    expires_at: datetime | None = None


class Keys(Protocol):
    """Where authentication learns secrets."""

    async def find_key(self, secret_id: str) -> Key | None:
        """Find the key of this id, a disabled one too."""


class Authenticator(Protocol):
    """One way of proving who one is."""

    async def __call__(self, request: HttpRequest) -> Identity | None:
        """Tell who made the request; None if it does not use this way.

        Raises AuthFailure if it does, and wrongly.
        """


async def authenticate(request: HttpRequest, authenticators: Sequence[Authenticator]) -> Identity:
    """Ask each authenticator in turn. Raises AuthFailure if no one knows the caller."""
    for authenticator in authenticators:
        identity = await authenticator(request)
        if identity is not None:
            return identity
    raise AuthFailure(
        "The request has no `Authorization` of a kind that is accepted here.",
        detail="InvalidAuthorization",
    )
