"""The way of every call: authenticate, name, decide, record, forward."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import Enum

from msgspec.structs import replace

from gateway import audit, catalog, protocol
from gateway.authn import Authenticator, Identity, authenticate
from gateway.authn.replay import ReplayGuard, claim_of
from gateway.call import (
    Call,
    Decision,
    Grant,
    HttpRequest,
    Principal,
    Reply,
    Resource,
    Scope,
    Upstream,
    Value,
)
from gateway.catalog import Access, Action, Named
from gateway.context import Edge, context_of
from gateway.errors import ApiError, UnsupportedOperation
from gateway.policy.condition import Context
from gateway.policy.decision_point import DecisionPoint
from gateway.policy.match import Query
from gateway.policy.resource import REGIONS

Attributes = Callable[[Sequence[Resource]], Awaitable[Mapping[Resource, Context]]]
"""Tells what resources carry, such as tags. One that does not exist carries nothing."""


class Dialect(Enum):
    """How a request writes down what it asks for."""

    API = "API 3.0"
    CLASSIC = "the classic queue API"
    STREAM = "the stream of events"


class Admitted(Value, frozen=True):
    """A call that may go on.

    identity: as it was proved. query: as it was decided on. lists: for a list without ids the
    type it lists.
    """

    call: Call
    identity: Identity
    query: Query
    lists: str | None
    grant: Grant


class Pipeline:
    """Answers a request, or raises the ApiError that answers it.

    attributes: by service, asked only if a policy of the caller has a condition on them.
    """

    def __init__(
        self,
        *,
        authenticators: Sequence[Authenticator],
        replay: ReplayGuard,
        policies: DecisionPoint,
        decisions: audit.DecisionLog,
        attributes: Mapping[str, Attributes],
        upstreams: Mapping[str, Upstream],
        default_region: str,
        edge: Edge,
    ) -> None:
        self._authenticators = authenticators
        self._replay = replay
        self.policies = policies
        self._decisions = decisions
        self.attributes = attributes
        self._upstreams = upstreams
        self._default_region = default_region
        self._edge = edge

    async def __call__(self, request: HttpRequest, *, request_id: str, classic: bool) -> Reply:
        """Take one request the whole way."""
        dialect = Dialect.CLASSIC if classic else Dialect.API
        admitted = await self.admit(request, request_id=request_id, dialect=dialect)
        call = admitted.call
        if (call.service, call.action) in catalog.UNBUILT:
            raise UnsupportedOperation(f"The action `{call.action}` is not served here yet.")
        if (call.service, call.action) in catalog.STREAMED:
            raise UnsupportedOperation(f"`{call.action}` is a stream, which has its own path.")
        return await self._upstreams[call.service](call, admitted.grant)

    async def identify(self, request: HttpRequest) -> Identity:
        """Find out who makes a request. Raises AuthFailure."""
        return await authenticate(request, self._authenticators)

    async def admit(self, request: HttpRequest, *, request_id: str, dialect: Dialect) -> Admitted:
        """Take one request as far as its record. Raises the ApiError of what may not go on."""
        identity = await self.identify(request)
        try:
            asked = self._name(request, identity, request_id=request_id, dialect=dialect)
            query = await self._with_attributes(asked.query, asked.action.service)
        except ApiError as error:
            await audit.record_refused(
                self._decisions,
                request,
                principal=identity.principal,
                request_id=request_id,
                source_ip=self._edge.source_ip(request),
                code=error.code,
            )
            raise
        call, action = asked.call, asked.action
        decision, scope, explain = self._decide(query, lists=asked.lists, parts=action.parts)
        await audit.record(
            self._decisions,
            call,
            query=query,
            decision=decision,
            explain=explain,
            listed=asked.lists,
            durably=action.access is Access.WRITE or not decision.allowed,
        )
        if not decision.allowed:
            raise protocol.denial(decision, request_id=request_id, action=action.policy_action)
        grant = Grant(query.principal, decision, scope)
        return Admitted(call, identity, query, asked.lists, grant)

    def _name(
        self, request: HttpRequest, identity: Identity, *, request_id: str, dialect: Dialect
    ) -> "_Asked":
        """Find out what is asked for. Raises the ApiError of what cannot be."""
        principal = identity.principal
        call = self._read(request, service=identity.service, request_id=request_id, dialect=dialect)
        action = catalog.find(call.service, call.version, call.action)
        # from here on an action and a region have one name, the one that policies are matched by
        call = replace(
            call,
            action=action.name,
            region=REGIONS.get(call.region, call.region),
            source_ip=self._edge.source_ip(request),
        )
        if identity.signature is not None:
            claim = claim_of(call, mutating=action.access is Access.WRITE)
            self._replay.check(identity.signature, claim=claim, now=call.received_at)
        named = catalog.resources_of(
            action, params=call.params, owner_uin=principal.owner_uin, region=call.region
        )
        app_id = self.policies.snapshot.app_ids.get(principal.owner_uin, "")
        context = context_of(call, principal, vpc=self._edge.vpc(request), app_id=app_id)
        query = _query(action, principal=principal, named=named, context=context)
        return _Asked(call, action, query, named.lists)

    def _read(
        self, request: HttpRequest, *, service: str | None, request_id: str, dialect: Dialect
    ) -> Call:
        if dialect is Dialect.CLASSIC:
            return protocol.read_classic_call(
                request, request_id=request_id, default_region=self._default_region
            )
        if dialect is Dialect.STREAM:
            return protocol.read_stream_call(
                request,
                service=service,
                request_id=request_id,
                default_region=self._default_region,
            )
        return protocol.read_call(
            request,
            service=service,
            request_id=request_id,
            service_of_version=catalog.service_of_version,
            default_region=self._default_region,
        )

    async def _with_attributes(self, query: Query, service: str) -> Query:
        attributes = self.attributes.get(service)
        if attributes is None or not self.policies.reads_resources(query):
            return query
        return replace(query, attributes=await attributes((*query.resources, *query.deny_only)))

    def _decide(
        self, query: Query, *, lists: str | None, parts: str
    ) -> tuple[Decision, Scope | None, audit.Explain]:
        """The decision, what a list may show, and how to have it explained later as of now.

        parts: see `Action`.
        """
        policies = self.policies
        if lists is None:
            scope = self._but_denied(query, parts) if parts else None
            return policies.decide(query), scope, policies.explain_as_now
        listing = {"resource_type": lists, "region": query.resources[0].region}
        decision, scope = policies.decide_list(query, **listing)
        return decision, scope, policies.explain_list_as_now(**listing)

    def _but_denied(self, query: Query, parts: str) -> Scope:
        """All parts of this type but those that the query's action is explicitly denied on."""
        region = query.resources[0].region
        return Scope(deny=self.policies.scope(query, resource_type=parts, region=region).deny)


class _Asked(Value, frozen=True):
    """What a request asks for. lists: for a list without ids the type it lists."""

    call: Call
    action: Action
    query: Query
    lists: str | None


def _query(action: Action, *, principal: Principal, named: Named, context: Context) -> Query:
    return Query(
        principal=principal,
        action=action.policy_action,
        resources=named.resources,
        deny_only=named.deny_only,
        context=context,
        deny_only_action=action.deny_only_action or "",
    )
