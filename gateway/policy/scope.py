"""What a list may show: a caller's statements turned into patterns of ids."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from gateway.call import EVERY_ID, Clause, Effect, Resource, Scope
from gateway.policy.match import Query, matches_action, resolve, tests_left
from gateway.policy.pattern import Wildcard
from gateway.policy.resource import ResourcePattern
from gateway.policy.snapshot import Candidate, Held, Layer, Rights


@dataclass(frozen=True, slots=True)
class Listing:
    """What is listed: the resources of one type, such as `job`, in one region."""

    resource_type: str
    region: str

    def resource(self, query: Query, id_: str) -> Resource:
        """One of them."""
        service, _, _ = query.action.partition(":")
        owner_uin = query.principal.owner_uin
        return Resource(service, self.region, owner_uin, f"{self.resource_type}/{id_}")


@dataclass(frozen=True, slots=True)
class Shown:
    """Ids that one statement shows or hides by one of its resource patterns."""

    candidate: Candidate
    pattern: ResourcePattern
    clause: Clause


def scope_of(rights: Rights, query: Query, listing: Listing) -> Scope:
    """Give the ids that the query's action is allowed on.

    An id is inside exactly if a decision on its resource would allow it. Conditions on the call
    are judged here, once; those on each resource are left to whoever lists them.
    """
    allow: list[tuple[Clause, ...]] = []
    deny: list[Clause] = []
    for layer, held in rights.layers:
        shown = list(_shown(layer, held, query, listing=listing))
        allow.append(_clauses(shown, Effect.ALLOW))
        deny += _clauses(shown, Effect.DENY)
    return Scope(tuple(allow), _distinct(deny))


def showing(rights: Rights, query: Query, listing: Listing) -> Iterator[Shown]:
    """Give the statements by which a list shows some ids."""
    for layer, held in rights.layers:
        for one in _shown(layer, held, query, listing=listing):
            if one.candidate.statement.effect is Effect.ALLOW:
                yield one


def _shown(
    layer: Layer, policies: Iterable[Held], query: Query, *, listing: Listing
) -> Iterator[Shown]:
    anything = listing.resource(query, "")
    for held in policies:
        for statement in held.policy.document.statements:
            if not matches_action(statement, query.action):
                continue
            tests = tests_left(statement, query)
            if tests is None:
                continue
            candidate = Candidate(layer, held.subject, held.policy, statement)
            for pattern in statement.resources:
                resolved = resolve(pattern, statement, query)
                if resolved is not None and resolved.place.contains(anything):
                    for path in resolved.paths(anything.service):
                        for id_pattern in Wildcard.read(path).after(anything.path):
                            yield Shown(candidate, pattern, Clause(id_pattern, tests))


def _clauses(shown: Iterable[Shown], effect: Effect) -> tuple[Clause, ...]:
    return _distinct(one.clause for one in shown if one.candidate.statement.effect is effect)


def _distinct(clauses: Iterable[Clause]) -> tuple[Clause, ...]:
    """Each clause once, in an order of their own; none besides the one that takes in every id."""
    found = set(clauses)
    if EVERY_ID in found:
        return (EVERY_ID,)
    return tuple(sorted(found, key=lambda one: (one.pattern, repr(one.tests))))
