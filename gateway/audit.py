"""One record per decision: made here, kept by whoever implements `DecisionLog`."""

from collections.abc import Callable
from typing import Protocol

from gateway.call import Call, Decision, Principal
from gateway.policy.decision import Explanation
from gateway.policy.match import Query
from gateway.policy.record import DecisionRecord

Explain = Callable[[Query], Explanation]


class DecisionLog(Protocol):
    """Where decision records are kept."""

    async def record(self, make: Callable[[], DecisionRecord], *, durably: bool) -> None:
        """Keep a record. durably: return only when it is on disk; else it is there in a second.

        make: works the record out, which for a plain read is done later, off the call's way.
        Raises ServiceUnavailable if the record cannot be kept: the call must not go on.
        """
        ...


async def record(
    log: DecisionLog,
    call: Call,
    *,
    principal: Principal,
    query: Query,
    decision: Decision,
    explain: Explain,
    listed: str | None,
    durably: bool,
) -> None:
    """Record what was decided of one call, with the statements that settled it."""

    def make() -> DecisionRecord:
        return DecisionRecord(
            request_id=call.request_id,
            time=call.received_at,
            principal=principal,
            action=query.action,
            region=call.region,
            source_ip=call.source_ip,
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
