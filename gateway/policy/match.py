"""Does a statement apply to a query? The one meaning that every evaluator shares."""

from collections.abc import Callable, Iterator, Mapping

from msgspec import field
from msgspec.structs import replace

from gateway.call import AttributeTest, Effect, Principal, Resource, Value
from gateway.policy.condition import Condition, Context, as_test, is_of_resource
from gateway.policy.document import Statement
from gateway.policy.resource import ResourcePattern

Variables = Mapping[str, str]
"""What the policy variables stand for, such as `uin`; one without a value is left out."""
NO_VARIABLES: Variables = {}
NEVER = AttributeTest("string_equal", "qcs:never", ("",))
"""A test of a key that nothing has: it fails, and can always be judged."""


class Query(Value, frozen=True):
    """One call, as policies see it.

    action: `service:Action`, such as `batch:SubmitJob`.
    resources: all must be allowed. deny_only: none may be denied explicitly, neither to this
    action nor to deny_only_action, a second name of what the call does with them.
    context: condition keys and their values. `qcs:app_id`, if there, fills `${app_id}`.
    attributes: the keys that are known of one resource, such as its tags.

    No repr: casbin prints every request into a log line that nobody reads.
    """

    principal: Principal
    action: str
    resources: tuple[Resource, ...]
    deny_only: tuple[Resource, ...] = ()
    context: Context = field(default_factory=dict)
    attributes: Mapping[Resource, Context] = field(default_factory=dict)
    deny_only_action: str = ""

    __repr__ = object.__repr__

    @property
    def besides(self) -> "Query | None":
        """The question of `deny_only_action`; None if there is none."""
        if not self.deny_only_action or not self.deny_only:
            return None
        return replace(self, action=self.deny_only_action, resources=(), deny_only_action="")

    def context_of(self, resource: Resource) -> Context:
        """Everything known of the call and of one of its resources."""
        found = self.attributes.get(resource) if self.attributes else None
        return {**self.context, **found} if found else self.context

    def variables(self) -> Variables:
        """The values of the policy variables for this call."""
        return variables(self.principal, app_id_of(self.context))


def applies(statement: Statement, query: Query, resource: Resource) -> bool:
    """Tell whether a statement that speaks of the action applies to a resource of the account."""
    return matches_resource(statement, query, resource) and (
        not statement.conditions or conditions_hold(statement, query, resource)
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
    return pattern.resolved(query.variables(), denies=statement.effect is Effect.DENY)


def conditions_hold(statement: Statement, query: Query, resource: Resource) -> bool:
    """Tell whether all conditions hold; if one cannot be judged, a deny applies, an allow not."""
    context = query.context_of(resource)
    return judge(statement.conditions, context, values=query.variables, effect=statement.effect)


def judge(
    conditions: tuple[Condition, ...],
    context: Context,
    *,
    values: Callable[[], Variables],
    effect: Effect,
) -> bool:
    """Tell whether all conditions hold in a context.

    values: of the policy variables; called only if a condition has one, as few do.
    Every condition is judged, so that one that cannot be is noticed in any order.
    """
    hold, known = True, NO_VARIABLES
    try:
        for one in conditions:
            if one.has_variables and known is NO_VARIABLES:
                known = values()
            if not one.holds(context, known):
                hold = False
    except ValueError:
        return effect is Effect.DENY
    return hold


def tests_left(statement: Statement, query: Query) -> tuple[AttributeTest, ...] | None:
    """Judge what depends on the call alone; give the tests that depend on each resource.

    None if the statement then applies to no resource. A deny that fails for this call still has
    to be looked at if a test of it may be impossible to judge.
    """
    of_call = tuple(one for one in statement.conditions if not is_of_resource(one))
    values = query.variables()
    tests = tuple(as_test(one, values) for one in statement.conditions if is_of_resource(one))
    try:
        holds = all([one.holds(query.context, values) for one in of_call])  # noqa: C419
    except ValueError:
        return () if statement.effect is Effect.DENY else None
    if holds:
        return tests
    return (*tests, NEVER) if tests and statement.effect is Effect.DENY else None


def variables(principal: Principal, app_id: str = "") -> Variables:
    """The values of the policy variables for a caller. app_id: empty for none.

    Only digits are let in: a value with a `*` in it would turn into a wildcard.
    """
    known = {"uin": principal.uin, "owner_uin": principal.owner_uin, "app_id": app_id}
    return {name: value for name, value in known.items() if value.isascii() and value.isdigit()}


def app_id_of(context: Context) -> str:
    """What `${app_id}` stands for in a context; empty for nothing."""
    values = context.get("qcs:app_id", ())
    return values[0] if len(values) == 1 else ""
