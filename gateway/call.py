"""The words every room shares: a call, who makes it, what was decided, what is answered.

All are frozen plain values that can be serialised, so that a service in this process, one in
another process and a test double are reached in the same way.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any


@dataclass(frozen=True, slots=True)
class HttpRequest:
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

    owner_uin: the root account; uin: the caller, equal to owner_uin for the root itself.
    """

    owner_uin: str
    uin: str
    name: str

    @property
    def is_root(self) -> bool:
        """Whether this is the account itself, which needs no policy."""
        return self.uin == self.owner_uin


@dataclass(frozen=True, slots=True)
class Key:
    """A secret key and whose it is.

    token: for a temporary key, the text that must come with every call; None for a lasting key.
    """

    secret_id: str
    secret_key: str = field(repr=False)
    principal: Principal
    active: bool = True
    token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Call:
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


@dataclass(frozen=True, slots=True)
class Resource:
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


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer to "may they?".

    resource: the resource that settled it: the first one denied, or the first one asked for.
    generation: the number of the policy snapshot that judged.
    """

    effect: Effect
    reason: Reason
    resource: str
    generation: int

    @property
    def allowed(self) -> bool:
        """Whether the call may go on."""
        return self.effect is Effect.ALLOW


@dataclass(frozen=True, slots=True)
class Scope:
    """Which ids of one resource type a list may show: matched by an allow and by no deny.

    allow, deny: patterns for the id, in which `*` stands for any run of characters.
    """

    allow: tuple[str, ...] = ("*",)
    deny: tuple[str, ...] = ()

    @property
    def is_everything(self) -> bool:
        """Whether the whole type is visible and nothing narrower is denied."""
        return "*" in self.allow and not self.deny

    @property
    def is_nothing(self) -> bool:
        """Whether no id at all can be visible."""
        return not self.allow or "*" in self.deny


@dataclass(frozen=True, slots=True)
class Grant:
    """What a service is given besides the call: who it is, and what they may do or see.

    scope: for a list without ids, what it may show; None for every other call.
    """

    principal: Principal
    decision: Decision
    scope: Scope | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """A service's answer.

    members: a JSON object, encoded: the members of `Response` without its RequestId.
    """

    members: bytes = field(default=b"{}")


Upstream = Callable[[Call, Grant], Awaitable[Reply]]
