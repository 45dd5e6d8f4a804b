"""What a list may show: a caller's statements turned into patterns of ids."""

from collections.abc import Iterable, Iterator

from gateway.call import Effect, Resource, Scope
from gateway.policy.document import Statement
from gateway.policy.match import Query, conditions_hold, matches_action, resolve
from gateway.policy.resource import ResourcePattern


def scope_of(
    statements: Iterable[Statement], query: Query, *, resource_type: str, region: str
) -> Scope:
    """Give the ids of `resource_type` that the query's action is allowed on.

    An id is inside exactly if a decision on the resource `<resource_type>/<id>` would allow it.
    Conditions depend on the call alone, so they are judged here, once.
    """
    patterns: dict[Effect, set[str]] = {Effect.ALLOW: set(), Effect.DENY: set()}
    for statement in statements:
        if matches_action(statement, query.action) and conditions_hold(statement, query):
            for _, found in _id_patterns(
                statement, query, resource_type=resource_type, region=region
            ):
                patterns[statement.effect].add(found)
    return Scope(
        allow=_without_needless(patterns[Effect.ALLOW]),
        deny=_without_needless(patterns[Effect.DENY]),
    )


def showing_patterns(
    statement: Statement, query: Query, *, resource_type: str, region: str
) -> Iterator[ResourcePattern]:
    """Give the resource patterns, as written, by which a list shows or hides some ids."""
    if matches_action(statement, query.action) and conditions_hold(statement, query):
        for pattern, _ in _id_patterns(
            statement, query, resource_type=resource_type, region=region
        ):
            yield pattern


def _id_patterns(
    statement: Statement, query: Query, *, resource_type: str, region: str
) -> Iterator[tuple[ResourcePattern, str]]:
    """Give each pattern of a resource, as written, with what it leaves for the id."""
    service, _, _ = query.action.partition(":")
    anything = Resource(service, region, query.principal.owner_uin, f"{resource_type}/")
    for pattern in statement.resources:
        resolved = resolve(pattern, statement, query)
        if resolved is not None and resolved.matches_place(anything):
            for path in resolved.paths(service):
                for id_pattern in path.after(anything.path):
                    yield pattern, id_pattern


def _without_needless(patterns: set[str]) -> tuple[str, ...]:
    return ("*",) if "*" in patterns else tuple(sorted(patterns))
