"""How layers of statements settle a query: the rules that both evaluators share.

A layer (policies, boundary, session policy) says allow, deny or nothing of one resource. One
deny outweighs everything; each layer must allow; the root account needs no policies of its own.
"""

from collections.abc import Sequence
from typing import Protocol

from gateway.call import Effect, Reason, Resource
from gateway.policy.match import Query
from gateway.policy.snapshot import Layer, Rights, Snapshot

Verdict = tuple[Reason, Resource | None]
"""Why, and the resource that settled it; None if the query named none."""

EFFECTS = {
    reason: Effect.ALLOW if reason in {Reason.ROOT, Reason.EXPLICIT_ALLOW} else Effect.DENY
    for reason in Reason
}


class LayerRules(Protocol):
    """The statements of one layer that speak of one action.

    reads_resources: whether a condition asks what a resource carries, such as its tags.
    """

    @property
    def reads_resources(self) -> bool: ...

    def effect(self, query: Query, resource: Resource) -> Effect | None:
        """What they say of a resource of the caller's own account; None for nothing."""
        ...


class Rules:
    """What bears on one principal and one action."""

    __slots__ = ("_layers", "_unopposed", "reads_resources")

    def __init__(self, rights: Rights, layers: Sequence[LayerRules]) -> None:
        self._layers = tuple(
            (layer, rules) for (layer, _), rules in zip(rights.layers, layers, strict=True)
        )
        self._unopposed = Reason.ROOT if rights.is_root else Reason.EXPLICIT_ALLOW
        self.reads_resources = any(rules.reads_resources for rules in layers)

    def reason(self, query: Query, resource: Resource) -> Reason:
        """Judge one resource."""
        if resource.owner_uin != query.principal.owner_uin:
            return Reason.IMPLICIT_DENY
        reason = self._unopposed
        for layer, rules in self._layers:
            effect = rules.effect(query, resource)
            if effect is Effect.DENY:
                return Reason.EXPLICIT_DENY
            if effect is None and reason is self._unopposed:
                reason = layer.value
        return reason

    def lacking(self, query: Query, resource: Resource) -> list[Layer]:
        """The layers that say nothing of a resource."""
        return [layer for layer, rules in self._layers if rules.effect(query, resource) is None]

    def settle(self, query: Query) -> Verdict:
        """Judge all resources: the first that is not allowed settles it.

        A query without resources is denied, for there is nothing an allow could match, except to
        the root account.
        """
        for resource in query.resources:
            reason = self.reason(query, resource)
            if reason is not self._unopposed:
                return reason, resource
        for resource in query.deny_only:
            if self.reason(query, resource) is Reason.EXPLICIT_DENY:
                return Reason.EXPLICIT_DENY, resource
        if query.resources:
            return self._unopposed, query.resources[0]
        if self._unopposed is Reason.ROOT and not self._layers:
            return Reason.ROOT, None
        return Reason.IMPLICIT_DENY, None


class Evaluator(Protocol):
    """Works out the rules of a principal and an action; may be asked by several threads."""

    def rules(self, snapshot: Snapshot, rights: Rights, query: Query) -> Rules:
        """The rules of the query's principal and action. rights: the principal's own."""
        ...
