"""What a list may show: a caller's statements turned into patterns of ids."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from gateway.call import EVERY_ID, AttributeTest, Clause, Effect, Resource, Scope
from gateway.policy.document import Statement
from gateway.policy.match import Query, resolve, tests_left
from gateway.policy.pattern import Wildcard
from gateway.policy.resource import ResourcePattern
from gateway.policy.snapshot import Candidate, Layer, Rights


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
    """Ids that one statement shows or hides by one of its resource patterns.

    id_pattern: what the pattern leaves for the id.
    """

    candidate: Candidate
    pattern: ResourcePattern
    id_pattern: str


def find_shown(rights: Rights, query: Query, listing: Listing) -> tuple[Shown, ...]:
    """Give the patterns of ids in all statements that speak of the query's action.

    They depend on the principal alone, unless a pattern has `${app_id}`.
    """
    anything = listing.resource(query, "")
    return tuple(
        Shown(candidate, pattern, id_pattern)
        for candidate in rights.candidates(query.action)
        for pattern in candidate.statement.resources
        for id_pattern in _id_patterns(pattern, candidate.statement, query, anything=anything)
    )


def _id_patterns(
    pattern: ResourcePattern, statement: Statement, query: Query, *, anything: Resource
) -> Iterator[str]:
    if not pattern.place.contains(anything):
        return
    resolved = resolve(pattern, statement, query)
    if resolved is not None:
        for path in resolved.paths(anything.service):
            yield from Wildcard.read(path).after(anything.path)


def scope_of(shown: Iterable[Shown], query: Query, *, rights: Rights) -> Scope:
    """Give the ids that the query's action is allowed on.

    shown: by `find_shown`. An id is inside exactly if a decision on its resource would allow it.
    Conditions on the call are judged here, once; those on each resource are left to whoever lists
    them.
    """
    allow: dict[Layer, set[Clause]] = {layer: set() for layer, _ in rights.layers}
    deny: set[Clause] = set()
    for one, tests in _applying(shown, query):
        denies = one.candidate.statement.effect is Effect.DENY
        clauses = deny if denies else allow[one.candidate.layer]
        clauses.add(Clause(one.id_pattern, tests))
    return Scope(tuple(_sorted(clauses) for clauses in allow.values()), _sorted(deny))


def showing(shown: Iterable[Shown], query: Query) -> Iterator[Shown]:
    """Give those by which a list shows some ids."""
    for one, _ in _applying(shown, query):
        if one.candidate.statement.effect is Effect.ALLOW:
            yield one


def _applying(
    shown: Iterable[Shown], query: Query
) -> Iterator[tuple[Shown, tuple[AttributeTest, ...]]]:
    """Those whose conditions on the call hold, with the tests that are left for each resource."""
    left: dict[int, tuple[AttributeTest, ...] | None] = {}  # by the statement's identity
    for one in shown:
        statement = one.candidate.statement
        if not statement.conditions:
            yield one, ()
            continue
        if id(statement) not in left:
            left[id(statement)] = tests_left(statement, query)
        tests = left[id(statement)]
        if tests is not None:
            yield one, tests


def _sorted(clauses: set[Clause]) -> tuple[Clause, ...]:
    """In an order of their own; none besides the one that takes in every id."""
    if EVERY_ID in clauses:
        return (EVERY_ID,)
    return tuple(sorted(clauses, key=lambda one: (one.pattern, repr(one.tests))))
