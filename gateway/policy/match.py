"""Does a statement apply to a query? The one meaning that every evaluator shares."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from gateway.call import Effect, Principal, Resource
from gateway.policy.condition import Context
from gateway.policy.document import Statement
from gateway.policy.resource import ResourcePattern


@dataclass(frozen=True, slots=True, repr=False)
class Query:
    """One call, as policies see it.

    action: `service:Action`, such as `batch:SubmitJob`.
    resources: all must be allowed. deny_only: none may be denied explicitly.
    context: condition keys and their values. `qcs:app_id`, if there, fills `${app_id}`.

    No repr: casbin prints every request into a log line that nobody reads.
    """

    principal: Principal
    action: str
    resources: tuple[Resource, ...]
    deny_only: tuple[Resource, ...] = ()
    context: Context = field(default_factory=dict)


def applies(statement: Statement, query: Query, resource: Resource) -> bool:
    """Tell whether `statement` speaks of this action on this resource under these conditions."""
    return (
        resource.owner_uin == query.principal.owner_uin
        and matches_action(statement, query.action)
        and matches_resource(statement, query, resource)
        and (not statement.conditions or conditions_hold(statement, query))
    )


def matches_action(statement: Statement, action: str) -> bool:
    """Tell whether one of the statement's actions is `action`."""
    for pattern in statement.actions:  # noqa: SIM110  # any() makes a generator: twice as slow
        if pattern.matches(action):
            return True
    return False


def matches_resource(statement: Statement, query: Query, resource: Resource) -> bool:
    """Tell whether one of the statement's resources is `resource`."""
    for pattern in statement.resources:
        if pattern.has_variables:
            resolved = resolve(pattern, statement, query)
            if resolved is not None and resolved.matches(resource):
                return True
        elif pattern.matches(resource):
            return True
    return False


def matching_patterns(
    statement: Statement, query: Query, resource: Resource
) -> Iterator[ResourcePattern]:
    """Give the statement's resource patterns, as written, that match `resource`."""
    for pattern in statement.resources:
        resolved = resolve(pattern, statement, query)
        if resolved is not None and resolved.matches(resource):
            yield pattern


def resolve(pattern: ResourcePattern, statement: Statement, query: Query) -> ResourcePattern | None:
    """Put the caller's values for the pattern's variables; None if it can match nothing."""
    if not pattern.has_variables:
        return pattern
    return pattern.resolved(variables(query), denies=statement.effect is Effect.DENY)


def conditions_hold(statement: Statement, query: Query) -> bool:
    """Tell whether all conditions hold; if one cannot be judged, a deny applies, an allow not.

    Every condition is judged, so that one that cannot be is noticed in any order.
    """
    values = variables(query)
    try:
        return all([one.holds(query.context, values) for one in statement.conditions])  # noqa: C419
    except ValueError:
        return statement.effect is Effect.DENY


def variables(query: Query) -> Mapping[str, str]:
    """The values of the policy variables for this caller.

    Only digits are let in: a value with a `*` in it would turn into a wildcard.
    """
    known = {"uin": query.principal.uin, "owner_uin": query.principal.owner_uin}
    app_id = query.context.get("qcs:app_id", ())
    if len(app_id) == 1:
        known["app_id"] = app_id[0]
    return {name: value for name, value in known.items() if value.isascii() and value.isdigit()}
