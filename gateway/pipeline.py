"""The way of every call: authenticate, name, decide, record, forward."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from gateway import audit, catalog, protocol
from gateway.authn import Authenticator, authenticate
from gateway.authn.replay import ReplayGuard, claim_of
from gateway.call import (
    Call,
    Decision,
    Effect,
    Grant,
    HttpRequest,
    Principal,
    Reason,
    Reply,
    Resource,
    Scope,
    Upstream,
)
from gateway.catalog import Access, Action, Named
from gateway.clock import wire_time
from gateway.errors import UnsupportedOperation
from gateway.policy.enforcer import Enforcer
from gateway.policy.match import Query
from gateway.policy.resource import REGIONS


class Pipeline:
    """Answers a request, or raises the ApiError that answers it."""

    def __init__(
        self,
        *,
        authenticators: Sequence[Authenticator],
        replay: ReplayGuard,
        enforcer: Enforcer,
        decisions: audit.DecisionLog,
        upstreams: Mapping[str, Upstream],
        default_region: str,
    ) -> None:
        self._authenticators = authenticators
        self._replay = replay
        self._enforcer = enforcer
        self._decisions = decisions
        self._upstreams = upstreams
        self._default_region = default_region

    async def __call__(self, request: HttpRequest, *, request_id: str, classic: bool) -> Reply:
        """Take one request the whole way."""
        identity = await authenticate(request, self._authenticators)
        principal = identity.principal
        call = self._read(request, service=identity.service, request_id=request_id, classic=classic)
        action = catalog.find(call.service, call.version, call.action)
        # from here on an action and a region have one name, the one that policies are matched by
        region = REGIONS.get(call.region, call.region)
        call = replace(call, action=action.name, region=region)
        mutating = action.access is Access.WRITE
        if identity.signature is not None:
            claim = claim_of(call, mutating=mutating)
            self._replay.check(identity.signature, claim=claim, now=call.received_at)
        named = catalog.resources_of(
            action, params=call.params, owner_uin=principal.owner_uin, region=call.region
        )
        query = _query(action, call, principal=principal, named=named)
        explain = self._enforcer.explain_as_now
        if named.lists is not None:
            explain = self._enforcer.explain_list_as_now(
                resource_type=named.lists, region=call.region
            )
        decision, scope = self._decide(action, query, named=named, region=call.region)
        await audit.record(
            self._decisions,
            call,
            principal=principal,
            query=query,
            decision=decision,
            explain=explain,
            durably=mutating or not decision.allowed,
        )
        if not decision.allowed:
            raise protocol.denial(decision, request_id=request_id, action=action.policy_action)
        if (call.service, call.action) in catalog.UNBUILT:
            raise UnsupportedOperation(f"The action `{call.action}` is not served here yet.")
        return await self._upstreams[call.service](call, Grant(principal, decision, scope))

    def _read(
        self, request: HttpRequest, *, service: str | None, request_id: str, classic: bool
    ) -> Call:
        if classic:
            return protocol.read_classic_call(
                request, request_id=request_id, default_region=self._default_region
            )
        return protocol.read_call(
            request,
            service=service,
            request_id=request_id,
            service_of_version=catalog.service_of_version,
            default_region=self._default_region,
        )

    def _decide(
        self, action: Action, query: Query, *, named: Named, region: str
    ) -> tuple[Decision, Scope | None]:
        if named.lists is not None:
            return self._decide_list(query, lists=named.lists, region=region)
        decision = self._enforcer.decide(query)
        if decision.allowed and action.deny_only_action is not None:
            besides = replace(query, action=action.deny_only_action, resources=())
            denial = self._enforcer.decide(besides)
            if denial.reason is Reason.EXPLICIT_DENY:
                decision = denial
        return decision, None

    def _decide_list(
        self, query: Query, *, lists: str, region: str
    ) -> tuple[Decision, Scope | None]:
        """A list shows what the caller may see; who may see nothing of it is denied.

        `query` asks for the whole type: its answer tells why, if nothing is left to show.
        """
        scope = self._enforcer.scope(query, resource_type=lists, region=region)
        decision = self._enforcer.decide(query)
        if decision.allowed or scope.is_nothing:
            return decision, scope
        return replace(decision, effect=Effect.ALLOW, reason=Reason.EXPLICIT_ALLOW), scope


def _query(action: Action, call: Call, *, principal: Principal, named: Named) -> Query:
    resources = named.resources
    if named.lists is not None:
        service = action.policy_action.partition(":")[0]
        whole = Resource(service, call.region, principal.owner_uin, f"{named.lists}/*")
        resources = (whole,)
    return Query(
        principal=principal,
        action=action.policy_action,
        resources=resources,
        deny_only=named.deny_only,
        context={
            "qcs:ip": (call.source_ip,),
            "qcs:current_time": (wire_time(call.received_at) or "",),
            "qcs:uin": (principal.uin,),
            "qcs:owner_uin": (principal.owner_uin,),
        },
    )
