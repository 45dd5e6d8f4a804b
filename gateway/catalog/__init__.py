"""WHAT: every action of every service, and the resources a call of it names. Pure tables."""

from collections.abc import Mapping

from gateway.catalog import batch, cam, cmq, sts, tdmq
from gateway.catalog.actions import Access, Action
from gateway.catalog.cmq import CLASSIC
from gateway.catalog.resources import Account, Named, ResourceTemplate, fill
from gateway.catalog.unbuilt import UNBUILT
from gateway.errors import InvalidAction, NoSuchProduct, NoSuchVersion

__all__ = [
    "ACTIONS",
    "CLASSIC",
    "STREAMED",
    "UNBUILT",
    "Access",
    "Action",
    "Named",
    "ResourceTemplate",
    "find",
    "find_policy_action",
    "region_of",
    "resources_of",
    "service_of_version",
]

ACTIONS: tuple[Action, ...] = (
    *batch.ACTIONS,
    *cam.ACTIONS,
    *sts.ACTIONS,
    *tdmq.ACTIONS,
    *cmq.ACTIONS,
)

STREAMED = frozenset({("batch", "DescribeEvents")})
"""Pairs of service and action name that are answered with a stream, on a path of its own."""

_SERVICES_WITHOUT_REGION = frozenset({"cam", "sts"})


def _index() -> dict[str, dict[str, dict[str, Action]]]:
    """Every action by service, version and both spellings of its name."""
    found: dict[str, dict[str, dict[str, Action]]] = {}
    for action in ACTIONS:
        names = found.setdefault(action.service, {}).setdefault(action.version, {})
        names[action.name] = names[action.name[0].lower() + action.name[1:]] = action
    return found


_INDEX = _index()
_SERVICES = {a.version: a.service for a in ACTIONS if a.version != CLASSIC}
_POLICY_ACTIONS = {one.policy_action.lower(): one.policy_action for one in ACTIONS}


def find(service: str, version: str, action: str) -> Action:
    """Look an action up; its first letter may be lower case. Use the `name` of what is found.

    Raises NoSuchProduct, NoSuchVersion or InvalidAction.
    """
    versions = _INDEX.get(service)
    if versions is None:
        raise NoSuchProduct(f"The product `{service}` does not exist.")
    actions = versions.get(version)
    if actions is None:
        raise NoSuchVersion(f"The version `{version}` of `{service}` does not exist.")
    found = actions.get(action)
    if found is None:
        raise InvalidAction("The request `Action` is invalid or not found.")
    return found


def find_policy_action(written: str) -> str | None:
    """How policies spell an action, `batch:SubmitJob`; None if no service here has it.

    written: in any letter case, with or without `name/`.
    """
    return _POLICY_ACTIONS.get(written.removeprefix("name/").lower())


def service_of_version(version: str) -> str | None:
    """Which service has this API version, such as "2017-03-12"; each has one of its own."""
    return _SERVICES.get(version)


def region_of(service: str, region: str) -> str:
    """Where the resources of a service are for a call to `region`: "" if they are the account's."""
    return "" if service in _SERVICES_WITHOUT_REGION else region


def resources_of(
    action: Action, *, params: Mapping[str, object], owner_uin: str, region: str
) -> Named:
    """Name the resources of a call, whatever its parameters look like.

    Raises MissingParameter, InvalidParameter or InvalidParameterValue if they cannot be named.
    """
    service = action.policy_action.partition(":")[0]
    account = Account(service, region_of(service, region), owner_uin)
    return fill(action.resource, params, account=account, is_list=action.is_list)
