"""The words every room shares: a call, who makes it, what was decided, what is answered.

All are frozen plain values that can be serialised, so that a service in this process, one in
another process and a test double are reached in the same way; but for `HAS_LEFT`, which is true of
a connection and of no value.
"""

from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any

import msgspec


class Value(msgspec.Struct, frozen=True):
    """A value of which one is made for every call, attempt or event.

    Why no dataclass: a frozen one takes ten times as long to make, longer than a decision takes to
    find.
    """


class HttpRequest(Value, frozen=True):
    """One HTTP request as received, before anybody is believed.

    headers: names in lower case; a repeated header was refused before.
    query: the raw query string, neither decoded nor sorted: signatures cover it as sent.
    """

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes
    source_ip: str
    received_at: datetime


@dataclass(frozen=True, slots=True)
class Principal:
    """Who makes a call.

    owner_uin: the root account; uin: the caller, equal to owner_uin for the root itself, the
    role's id for a session of a role.
    role: the name of the role that was assumed, or "". session: the name of a temporary session,
    or "". session_policy: the document that narrows the session, as JSON, or "".
    mfa: whether the caller proved more than a secret. bearer: whether by a token, which ends soon.
    """

    owner_uin: str
    uin: str
    name: str
    role: str = ""
    session: str = ""
    session_policy: str = field(default="", repr=False)
    mfa: bool = False
    bearer: bool = False

    @property
    def is_root(self) -> bool:
        """Whether this is the account itself, which needs no policy."""
        return self.uin == self.owner_uin and not self.role


@dataclass(frozen=True, slots=True)
class Key:
    """A secret key and whose it is.

    token_sha256: for a temporary key, the hash of the text that must come with every call; None
    for a lasting key. expires_at: the moment from which a temporary key is good for nothing.
    """

    secret_id: str
    secret_key: str = field(repr=False)
    principal: Principal
    active: bool = True
    token_sha256: bytes | None = field(default=None, repr=False)
    expires_at: datetime | None = None


class Call(Value, frozen=True):
    """One call, read once: the decision and the backend see the same values.

    params: the decoded parameters, by their wire names.
    """

    request_id: str
    service: str
    version: str
    action: str
    region: str
    params: Mapping[str, Any]
    source_ip: str
    received_at: datetime


class Resource(Value, frozen=True):
    """One thing a call touches, named as policies name it.

    path: the last segment, such as "job/job-97zcl3wt"; "*" alone for an action that has no
    resource level.
    """

    service: str
    region: str
    owner_uin: str
    path: str

    def __str__(self) -> str:
        if self.path == "*":
            return "*"
        return f"qcs::{self.service}:{self.region}:uin/{self.owner_uin}:{self.path}"


class Effect(Enum):
    """What a policy statement, or a decision, says."""

    ALLOW = "allow"
    DENY = "deny"


class Reason(Enum):
    """Why a decision is what it is; a closed vocabulary."""

    ROOT = "root"
    EXPLICIT_ALLOW = "explicit-allow"
    EXPLICIT_DENY = "explicit-deny"
    IMPLICIT_DENY = "implicit-deny"
    BOUNDARY = "boundary"
    SESSION_POLICY = "session-policy"


class Decision(Value, frozen=True):
    """The answer to "may they?".

    resource: the one that settled it: the first one denied, or the first one asked for; None if
    the call names none. generation: the number of the policy snapshot that judged.
    """

    effect: Effect
    reason: Reason
    resource: Resource | None
    generation: int

    @property
    def allowed(self) -> bool:
        """Whether the call may go on."""
        return self.effect is Effect.ALLOW


@dataclass(frozen=True, slots=True)
class AttributeTest:
    """A condition on what a resource carries, as a policy writes it; variables are filled in.

    operator: such as "for_any_value:string_equal". key: such as "qcs:resource_tag".
    """

    operator: str
    key: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Clause:
    """Some ids: those that fit `pattern`, in which `*` is any run, and pass every test."""

    pattern: str
    tests: tuple[AttributeTest, ...] = ()


@dataclass(frozen=True, slots=True)
class Scope:
    """Which ids of one resource type a list may show.

    Those that, in every layer of `allow` (policies, boundary, session policy), fit one clause,
    and fit no clause of `deny`. A test that cannot be judged makes a deny fit and an allow not.
    """

    allow: tuple[tuple[Clause, ...], ...] = ((Clause("*"),),)
    deny: tuple[Clause, ...] = ()

    @property
    def is_everything(self) -> bool:
        """Whether the whole type is visible and nothing narrower is denied."""
        return not self.deny and all(EVERY_ID in layer for layer in self.allow)

    @property
    def is_nothing(self) -> bool:
        """Whether no id at all can be visible."""
        return EVERY_ID in self.deny or not all(self.allow)


EVERY_ID = Clause("*")


class Grant(Value, frozen=True):
    """What a service is given besides the call: who it is, and what they may do or see.

    scope: for a list without ids, what it may show, and for what lists the parts of one resource
    which of them; None for every other call.
    """

    principal: Principal
    decision: Decision
    scope: Scope | None = None


class Reply(Value, frozen=True):
    """A service's answer.

    members: a JSON object, encoded: the members of `Response` without its RequestId.
    """

    members: bytes = b"{}"


Upstream = Callable[[Call, Grant], Awaitable[Reply]]


def _is_here() -> bool:
    return False


HAS_LEFT: ContextVar[Callable[[], bool]] = ContextVar("HAS_LEFT", default=_is_here)
"""Whether the caller has hung up, as of now; set by the corridor for the call that is served.

Asked by what waits before it takes what only one caller can have: nobody would read the answer.
A call is never ended for it: what it has begun to write it writes to the end.
"""
