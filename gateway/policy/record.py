"""What is kept of one authenticated call, and how it is shown. Pure."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any

from msgspec import field

from gateway.call import Decision, Principal, Value
from gateway.policy.condition import Context
from gateway.policy.decision import Determinant, Explanation, Fix, NearestMiss, ShadowVerdict

NOTHING_KNOWN: Mapping[str, Any] = {}


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
        return _public(self, effect=Outcome.REFUSED.value, reason=self.code, why=_public_why())


class DecisionRecord(Value, frozen=True):
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
        return _public(
            self,
            region=self.region,
            resources=self.resources,
            deny_only=self.deny_only,
            deny_only_action=self.deny_only_action,
            listed=self.listed,
            context=self.context,
            attributes=self.attributes,
            effect=self.decision.effect.value,
            reason=self.decision.reason.value,
            why=public_explanation(self.explanation),
            generation=self.decision.generation,
        )


Record = DecisionRecord | RefusedCall
MakeRecord = Callable[[], Record]
"""Works a record out, which may be done later, off the call's way."""


def _public(
    record: Record,
    *,
    effect: str,
    reason: str,
    why: Mapping[str, Any],
    region: str = "",
    resources: Sequence[str] = (),
    deny_only: Sequence[str] = (),
    deny_only_action: str = "",
    listed: str | None = None,
    context: Context = NOTHING_KNOWN,
    attributes: Mapping[str, Context] = NOTHING_KNOWN,
    generation: int = 0,
) -> dict[str, Any]:
    """Every member of a record; what is left out is what a call has on which nothing is decided."""
    who = record.principal
    return {
        "RequestId": record.request_id,
        "Time": record.time.replace(microsecond=0, tzinfo=None).isoformat() + "Z",
        "Principal": {
            "OwnerUin": who.owner_uin,
            "Uin": who.uin,
            "Name": who.name,
            "Role": who.role,
            "Session": who.session,
            "SessionPolicy": who.session_policy,
        },
        "Action": record.action,
        "Region": region,
        "SourceIp": record.source_ip,
        "Resources": list(resources),
        "DenyOnly": list(deny_only),
        "DenyOnlyAction": deny_only_action,
        "Listed": listed,
        "Context": context,
        "Attributes": attributes,
        "Effect": effect,
        "Reason": reason,
        **why,
        "Generation": generation,
    }


def public_explanation(why: Explanation) -> dict[str, Any]:
    """What a decision rests on, as every command and answer shows it."""
    return _public_why(why.determining, miss=why.nearest_miss, fixes=why.fixes, shadow=why.shadow)


def _public_why(
    determining: Iterable[Determinant] = (),
    *,
    miss: NearestMiss | None = None,
    fixes: Iterable[Fix] = (),
    shadow: ShadowVerdict | None = None,
) -> dict[str, Any]:
    return {
        "Determining": [_public_determinant(one) for one in determining],
        "NearestMiss": None if miss is None else _public_miss(miss),
        "Fix": [
            {"AttachTo": one.attach_to, "Caution": one.caution, "Policy": one.policy()}
            for one in fixes
        ],
        "Shadow": None
        if shadow is None
        else {
            "Effect": shadow.decision.effect.value,
            "Reason": shadow.decision.reason.value,
            "Determining": [_public_determinant(one) for one in shadow.determining],
        },
    }


def _public_miss(one: NearestMiss) -> dict[str, Any]:
    return {
        "Policy": one.policy,
        "Version": one.version,
        "File": one.file,
        "Statement": one.statement,
        "Via": one.via,
        "Element": one.element,
        "Wanted": one.wanted,
        "Found": one.found,
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
