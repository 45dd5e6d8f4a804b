"""One record per decision: made here, kept by whoever implements `DecisionLog`."""

import re
from collections.abc import Callable
from typing import Protocol

from gateway.call import Call, Decision, HttpRequest, Principal
from gateway.policy.decision import Explanation
from gateway.policy.match import Query
from gateway.policy.record import DecisionRecord, MakeRecord, RefusedCall

_ACTION = re.compile(r"[A-Za-z0-9]{1,64}")

Explain = Callable[[Query], Explanation]


class DecisionLog(Protocol):
    """Where decision records are kept."""

    async def record(self, make: MakeRecord, *, durably: bool) -> None:
        """Keep a record. durably: return only when it is on disk; else it is there in a second.

        make: works the record out, which for a plain read is done later, off the call's way.
        Raises ServiceUnavailable if the record cannot be kept: the call must not go on.
        """
        ...


async def record(
    log: DecisionLog,
    call: Call,
    *,
    query: Query,
    decision: Decision,
    explain: Explain,
    listed: str | None,
    durably: bool,
) -> None:
    """Record what was decided of one call, with the statements that settled it."""
    request_id, received_at = call.request_id, call.received_at  # a record that waits keeps no call
    region, source_ip = call.region, call.source_ip

    def make() -> DecisionRecord:
        return DecisionRecord(
            request_id=request_id,
            time=received_at,
            principal=query.principal,
            action=query.action,
            region=region,
            source_ip=source_ip,
            resources=tuple(str(resource) for resource in query.resources)
            or (str(decision.resource or "*"),),
            decision=decision,
            explanation=explain(query),
            deny_only=tuple(str(resource) for resource in query.deny_only),
            deny_only_action=query.deny_only_action,
            context=query.context,
            attributes={str(one): carried for one, carried in query.attributes.items()},
            listed=listed,
        )

    await log.record(make, durably=durably)


async def record_refused(
    log: DecisionLog,
    request: HttpRequest,
    *,
    principal: Principal,
    request_id: str,
    source_ip: str,
    code: str,
) -> None:
    """Record a call of somebody known on which nothing could be decided.

    code: of the public error it is answered with.
    """
    asked = request.headers.get("x-tc-action", "")
    action = asked if _ACTION.fullmatch(asked) else ""
    record = RefusedCall(request_id, request.received_at, principal, action, source_ip, code)
    await log.record(lambda: record, durably=False)
