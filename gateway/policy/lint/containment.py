"""What one pattern or statement says besides another: inside it, or never together with it."""

from collections.abc import Iterable

from gateway.policy.action import ActionPattern
from gateway.policy.condition import Condition
from gateway.policy.document import Statement
from gateway.policy.pattern import VARIABLES, Wildcard, fits
from gateway.policy.resource import Place, ResourcePattern

_SIGNS = "\ue000\ue001\ue002"
"""Characters of no policy, each in the place of one variable while patterns are compared."""


def statement_inside(inner: Statement, outer: Statement) -> bool:
    """Whether `outer` applies wherever `inner` does; effects are not looked at.

    True only if it can be told from patterns and from conditions that are written alike.
    """
    return (
        _all_inside(inner.actions, outer.actions)
        and all(
            any(resource_inside(one, other) for other in outer.resources) for one in inner.resources
        )
        and _texts(outer.conditions) <= _texts(inner.conditions)
    )


def _texts(conditions: Iterable[Condition]) -> set[tuple[str, str, tuple[str, ...]]]:
    return {(one.name, one.key, one.written) for one in conditions}


def _all_inside(inner: Iterable[ActionPattern], outer: Iterable[ActionPattern]) -> bool:
    outer = tuple(one for one in outer if not one.is_set)
    return all(
        not one.is_set and any(fits(other.folded, one.folded) for other in outer) for one in inner
    )


def resource_inside(inner: ResourcePattern, outer: ResourcePattern) -> bool:
    """Whether every resource that `inner` matches, `outer` matches too.

    A pattern is inside another if it matches it as a text: a `*` in the text is then covered by
    a `*` of the other, whatever it stands for.
    """
    if not _place_inside(inner.place, outer.place):
        return False
    service = inner.place.service
    is_batch = service is not None and service.text == "batch"
    return all(
        any(fits(_signed(wide), _signed(path)) for wide in outer.paths(kind))
        for kind in (("batch",) if is_batch else ("batch", "other"))
        for path in inner.paths(kind)
    )


def _place_inside(inner: Place, outer: Place) -> bool:
    return outer.has_project and all(
        wide is None or (narrow is not None and fits(wide.text, narrow.text))
        for narrow, wide in (
            (inner.service, outer.service),
            (inner.region, outer.region),
            (inner.account, outer.account),
        )
    )


def _signed(path: str) -> str:
    for name, sign in zip(VARIABLES, _SIGNS, strict=True):
        path = path.replace(f"${{{name}}}", sign)
    return path


def can_name(pattern: ResourcePattern, service: str, path: str) -> bool:
    """Whether the pattern matches some resource of a service whose path begins with `path`."""
    if not _is_of_service(pattern, service):
        return False
    return any(list(Wildcard.read(_loosened(one)).after(path)) for one in pattern.paths(service))


def names_exactly(pattern: ResourcePattern, service: str, path: str) -> bool:
    """Whether the pattern matches the one resource of a service with this path."""
    return _is_of_service(pattern, service) and any(
        fits(_loosened(one), path) for one in pattern.paths(service)
    )


def _is_of_service(pattern: ResourcePattern, service: str) -> bool:
    return pattern.place.service is None or pattern.place.service.matches(service)


def _loosened(path: str) -> str:
    """The path with `*` for each variable: what it may match for some caller."""
    for name in VARIABLES:
        path = path.replace(f"${{{name}}}", "*")
    return path
