"""The CAM actions that are served: so far one of our own, by which callers ask why."""

from collections.abc import Mapping
from typing import Any

import msgspec

from gateway.call import AttributeTest, Call, Clause, Grant, Scope
from gateway.cam.decisions.log import DecisionLog, find_row
from gateway.errors import ApiError, ResourceNotFound
from gateway.policy.condition import read_test
from gateway.policy.pattern import Wildcard
from gateway.service import Operation, Service, Wire
from gateway.store import Store

TOLD = ("RequestId", "Time", "Action", "Region", "SourceIp", "Resources", "DenyOnly", "Listed")
TOLD_OF_PRINCIPAL = ("OwnerUin", "Uin", "Name", "Role", "Session")
TOLD_OF_VERDICT = ("Effect", "Reason", "Generation")
TOLD_OF_STATEMENT = ("Policy", "Version", "Statement", "Element")


class DescribeDecisionRequest(Wire):
    """decision_request_id: the RequestId of the call that was decided on."""

    decision_request_id: str


class DescribeDecisionResponse(Wire):
    """decision: the record as `decisions show --json` prints it, or less; see `redacted`."""

    decision: msgspec.Raw


class CamApi:
    """Handlers of the CAM actions."""

    def __init__(self, store: Store, decisions: DecisionLog) -> None:
        self._store = store
        self._decisions = decisions

    @property
    def operations(self) -> Mapping[str, Operation]:
        """The handlers by action."""
        return {"DescribeDecision": Operation(DescribeDecisionRequest, self.describe_decision)}

    async def describe_decision(
        self, call: Call, grant: Grant, request: DescribeDecisionRequest
    ) -> DescribeDecisionResponse:
        """Show a decision on a call of the account, made by a user whom the caller may see.

        Whoever may not see everyone's is not told what policies say. Raises ResourceNotFound, in
        the same words whether there is none or it may not be seen.
        """
        request_id, scope = request.decision_request_id, grant.scope
        row = await self._store.read_point(lambda tx: find_row(tx, request_id))
        if row is None:  # it may be waiting to be written
            await self._decisions.flush()
            row = await self._store.read_point(lambda tx: find_row(tx, request_id))
        if (
            row is None
            or scope is None
            or row["owner_uin"] != grant.principal.owner_uin
            or not is_inside(scope, row["uin"])
        ):
            raise ResourceNotFound(f"Decision `{request_id}` does not exist.", detail="Decision")
        record: bytes = row["record"]
        if not scope.is_everything:
            record = msgspec.json.encode(redacted(msgspec.json.decode(record)))
        return DescribeDecisionResponse(decision=msgspec.Raw(record))


def build_service(store: Store, decisions: DecisionLog) -> Service:
    """The CAM service."""
    return Service(CamApi(store, decisions).operations)


def is_inside(scope: Scope, uin: str) -> bool:
    """Whether a scope over users holds this one. Users carry no attributes."""
    allowed = all(any(_fits(one, uin, unclear=False) for one in layer) for layer in scope.allow)
    return allowed and not any(_fits(one, uin, unclear=True) for one in scope.deny)


def _fits(clause: Clause, uin: str, *, unclear: bool) -> bool:
    """Whether a clause holds a user. unclear: the answer if a test cannot be judged."""
    if not Wildcard.read(clause.pattern).matches(uin):
        return False
    try:
        return all(_holds(test) for test in clause.tests)
    except (ApiError, ValueError):
        return unclear


def _holds(test: AttributeTest) -> bool:
    return read_test(test).holds({}, {})


def redacted(public: Mapping[str, Any]) -> dict[str, Any]:
    """A record, in its public form, for whom it concerns but who may not read policies.

    Which policy and statement settled it stays; what they say goes, and all that a boundary or a
    session policy says. The fix stays without whom it is for: it is made of the call alone. Why a
    list of what stays: what is added to records later must not come out by itself.
    """
    miss, shadow = public.get("NearestMiss"), public.get("Shadow")
    return {
        **_only(public, TOLD),
        "Principal": _only(public["Principal"], TOLD_OF_PRINCIPAL),
        **_verdict(public),
        "NearestMiss": None if miss is None else _only(miss, TOLD_OF_STATEMENT),
        "Fix": [_only(one, ("Policy",)) for one in public.get("Fix", ())],
        "Shadow": None if shadow is None else _verdict(shadow),
    }


def _verdict(public: Mapping[str, Any]) -> dict[str, Any]:
    determining = [_only(one, TOLD_OF_STATEMENT) for one in public.get("Determining", ())]
    return {**_only(public, TOLD_OF_VERDICT), "Determining": determining}


def _only(members: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: members[name] for name in names if name in members}
