"""What the catalogue knows, in the words that `gateway.policy.lint` takes."""

from collections.abc import Iterable

from gateway.cam.identities import KNOWN_ACTIONS, SERVICES
from gateway.catalog import ACTIONS, Action
from gateway.catalog.resources import Path
from gateway.policy.lint import Kind, KnownAction, Vocabulary

COMPLETE = frozenset({"sts"})
"""Services of which the catalogue has every action, though a policy may name others."""


def vocabulary() -> Vocabulary:
    """Every action of the catalogue, by the name that policies use."""
    named: dict[str, set[Kind]] = {}
    denied: dict[str, set[Kind]] = {}
    for action in ACTIONS:
        for name, kinds in _denied(action):
            named.setdefault(name, set())
            denied.setdefault(name, set()).update(kinds)
        named[action.policy_action].update(_named(action))
    return Vocabulary(
        actions=tuple(
            KnownAction(name, frozenset(named[name]), frozenset(denied[name]))
            for name in sorted(named)
        ),
        complete=frozenset(KNOWN_ACTIONS) | COMPLETE,
        served=SERVICES,
    )


def _named(action: Action) -> frozenset[Kind]:
    return frozenset(_kind(action, path) for group in action.resource.named for path in group)


def _denied(action: Action) -> Iterable[tuple[str, frozenset[Kind]]]:
    """What is looked at for a deny, under each name of the action."""
    kinds = frozenset(_kind(action, path) for path in action.resource.deny_only)
    yield action.policy_action, kinds
    if action.deny_only_action is not None:
        yield action.deny_only_action, kinds


def _kind(action: Action, path: Path) -> Kind:
    """What one template names: everything that begins as it does, if a parameter goes on."""
    if path.is_whole:  # the template of a role, six segments in one parameter
        return Kind("cam", "role", is_whole=False)
    service = path.service or action.policy_action.partition(":")[0]
    start = path.literals[0]
    if action.is_list:
        return Kind(service, start.rstrip("*"), is_whole=False)
    return Kind(service, start, is_whole=not path.placeholders)
