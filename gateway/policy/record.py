"""What is kept of one authenticated call, and how it is shown. Pure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any

from gateway.call import Decision, Principal
from gateway.policy.condition import Context
from gateway.policy.decision import Determinant, Explanation


class Outcome(Enum):
    """The effect a record has. REFUSED: nothing could be decided on the call."""

    ALLOW = "allow"
    DENY = "deny"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class RefusedCall:
    """One authenticated call that names no action, or not what it is about.

    action: as it was asked for, or "". code: of the public error it was answered with.
    """

    request_id: str
    time: datetime
    principal: Principal
    action: str
    source_ip: str
    code: str

    def public(self) -> dict[str, Any]:
        """The record as `decisions show --json` prints it, with the members of a decision."""
        return {
            **_public_call(self.request_id, self.time, self.principal),
            "Action": self.action,
            "Region": "",
            "SourceIp": self.source_ip,
            "Resources": [],
            "DenyOnly": [],
            "DenyOnlyAction": "",
            "Listed": None,
            "Context": {},
            "Attributes": {},
            "Effect": Outcome.REFUSED.value,
            "Reason": self.code,
            "Determining": [],
            "NearestMiss": None,
            "Fix": [],
            "Shadow": None,
            "Generation": 0,
        }


@dataclass(frozen=True, slots=True)
class DecisionRecord:
    """One authenticated call and what was decided of it.

    action: as policies name it, "batch:SubmitJob". resources: everything it was decided on.
    listed: for a list without ids the type it lists. attributes: by resource.
    """

    request_id: str
    time: datetime
    principal: Principal
    action: str
    region: str
    source_ip: str
    resources: tuple[str, ...]
    decision: Decision
    explanation: Explanation
    deny_only: tuple[str, ...] = ()
    deny_only_action: str = ""
    context: Context = field(default_factory=dict)
    attributes: Mapping[str, Context] = field(default_factory=dict)
    listed: str | None = None

    def public(self) -> dict[str, Any]:
        """The record as `decisions show --json` prints it."""
        why = self.explanation
        return {
            **_public_call(self.request_id, self.time, self.principal),
            "Action": self.action,
            "Region": self.region,
            "SourceIp": self.source_ip,
            "Resources": list(self.resources),
            "DenyOnly": list(self.deny_only),
            "DenyOnlyAction": self.deny_only_action,
            "Listed": self.listed,
            "Context": self.context,
            "Attributes": self.attributes,
            "Effect": self.decision.effect.value,
            "Reason": self.decision.reason.value,
            **public_explanation(why),
            "Generation": self.decision.generation,
        }


Record = DecisionRecord | RefusedCall
MakeRecord = Callable[[], Record]
"""Works a record out, which may be done later, off the call's way."""


def _public_call(request_id: str, time: datetime, principal: Principal) -> dict[str, Any]:
    return {
        "RequestId": request_id,
        "Time": time.replace(microsecond=0, tzinfo=None).isoformat() + "Z",
        "Principal": {
            "OwnerUin": principal.owner_uin,
            "Uin": principal.uin,
            "Name": principal.name,
            "Role": principal.role,
            "Session": principal.session,
            "SessionPolicy": principal.session_policy,
        },
    }


def public_explanation(why: Explanation) -> dict[str, Any]:
    """What a decision rests on, as every command and answer shows it."""
    miss, shadow = why.nearest_miss, why.shadow
    return {
        "Determining": [_public_determinant(one) for one in why.determining],
        "NearestMiss": None
        if miss is None
        else {
            "Policy": miss.policy,
            "Version": miss.version,
            "File": miss.file,
            "Statement": miss.statement,
            "Via": miss.via,
            "Element": miss.element,
            "Wanted": miss.wanted,
            "Found": miss.found,
        },
        "Fix": [
            {"AttachTo": one.attach_to, "Caution": one.caution, "Policy": one.policy()}
            for one in why.fixes
        ],
        "Shadow": None
        if shadow is None
        else {
            "Effect": shadow.decision.effect.value,
            "Reason": shadow.decision.reason.value,
            "Determining": [_public_determinant(one) for one in shadow.determining],
        },
    }


def _public_determinant(one: Determinant) -> dict[str, Any]:
    return {
        "Policy": one.policy,
        "Version": one.version,
        "File": one.file,
        "Statement": one.statement,
        "Via": one.via,
        "Pattern": one.pattern,
    }
