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

DENY, ALLOW = Effect.DENY, Effect.ALLOW
EXPLICIT_DENY, IMPLICIT_DENY = Reason.EXPLICIT_DENY, Reason.IMPLICIT_DENY
EXPLICIT_ALLOW, ROOT = Reason.EXPLICIT_ALLOW, Reason.ROOT


def effect_of(reason: Reason) -> Effect:
    """Whether the call may go on."""
    return ALLOW if reason is EXPLICIT_ALLOW or reason is ROOT else DENY


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

    __slots__ = ("_kinds", "_layers", "_only", "_unopposed", "reads_resources")

    def __init__(self, rights: Rights, layers: Sequence[LayerRules]) -> None:
        self._kinds = [layer for layer, _ in rights.layers]
        reasons: list[Reason] = [layer.value for layer in self._kinds]
        self._layers = tuple(zip(reasons, layers, strict=True))
        self._only = layers[0] if len(layers) == 1 and not rights.is_root else None
        self._unopposed = ROOT if rights.is_root else EXPLICIT_ALLOW
        self.reads_resources = any(rules.reads_resources for rules in layers)

    def reason(self, query: Query, resource: Resource) -> Reason:
        """Judge one resource."""
        if resource.owner_uin != query.principal.owner_uin:
            return IMPLICIT_DENY
        if self._only is not None:  # a user without boundary and session: nearly everybody
            effect = self._only.effect(query, resource)
            if effect is ALLOW:
                return EXPLICIT_ALLOW
            return IMPLICIT_DENY if effect is None else EXPLICIT_DENY
        reason = unopposed = self._unopposed
        for lacking, rules in self._layers:
            effect = rules.effect(query, resource)
            if effect is DENY:
                return EXPLICIT_DENY
            if effect is None and reason is unopposed:
                reason = lacking
        return reason

    def lacking(self, query: Query, resource: Resource) -> list[Layer]:
        """The layers that say nothing of a resource."""
        return [
            kind
            for kind, (_, rules) in zip(self._kinds, self._layers, strict=True)
            if rules.effect(query, resource) is None
        ]

    def settle(self, query: Query) -> Verdict:
        """Judge all resources: the first that is not allowed settles it.

        A query without resources is denied, for there is nothing an allow could match, except to
        the root account that nothing narrows.
        """
        unopposed, resources = self._unopposed, query.resources
        for resource in resources:
            reason = self.reason(query, resource)
            if reason is not unopposed:
                return reason, resource
        for resource in query.deny_only:
            if self.reason(query, resource) is EXPLICIT_DENY:
                return EXPLICIT_DENY, resource
        if resources:
            return unopposed, resources[0]
        if unopposed is ROOT and not self._layers:
            return ROOT, None
        return IMPLICIT_DENY, None


class Evaluator(Protocol):
    """Works out the rules of a principal and an action; may be asked by several threads."""

    def rules(self, snapshot: Snapshot, rights: Rights, query: Query) -> Rules:
        """The rules of the query's principal and action. rights: the principal's own."""
        ...
