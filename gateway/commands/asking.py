"""From what was typed to a question for the decision point. Raises ValueError for what is wrong."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from difflib import get_close_matches
from itertools import product
from pathlib import Path

from msgspec import structs

from gateway.call import Principal, Resource
from gateway.cam.identities import KNOWN_ACTIONS, check_keys
from gateway.catalog import ACTIONS, Action, find_policy_action, region_of, resources_of
from gateway.catalog.resources import Form, denied_besides
from gateway.catalog.resources import Path as ResourcePath
from gateway.clock import wire_time
from gateway.policy.action import ActionPattern
from gateway.policy.condition import Context, caller_context, carried_by_tags
from gateway.policy.document import Document, parse
from gateway.policy.match import Query
from gateway.policy.pattern import fits
from gateway.policy.question import Question, read_caller, read_resource
from gateway.policy.resource import long_region
from gateway.policy.snapshot import Snapshot, declared_callers

_ATTRIBUTE = re.compile(r"(qcs:(?:[^:=]*:){4}[^:=]+):([a-z][a-z0-9_-]*(?::[^=]+)?)=(.*)", re.DOTALL)


def _by_name() -> dict[str, list[Action]]:
    found: dict[str, list[Action]] = {}
    for action in ACTIONS:
        found.setdefault(action.policy_action, []).append(action)
    return found


_ACTIONS = _by_name()
_SERVICES = frozenset(name.partition(":")[0] for name in _ACTIONS)


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What is known of a call besides who does what to what.

    region: where resources are that are not written out. context, attributes: by condition key;
    attributes are of one resource, by its text.
    """

    region: str
    now: datetime
    context: Context = field(default_factory=dict)
    attributes: Mapping[str, Context] = field(default_factory=dict)

    def context_of(self, principal: Principal) -> Context:
        """What a call without a second factor carries, made now; what was given counts more.

        The address is not among it: nobody knows where such a call would come from.
        """
        moment = wire_time(self.now)
        return {"qcs:current_time": (moment,), **caller_context(principal), **self.context}


def find_callers(
    snapshot: Snapshot,
    *,
    callers: Sequence[str] = (),
    users: Sequence[str] = (),
    roles: Sequence[str] = (),
    owner_uin: str,
) -> list[Principal]:
    """Whom is meant. callers: `owner/uin`; users, roles: names in the account.

    A caller need not be declared: nobody is whoever has no policy.
    """
    declared = list(declared_callers(snapshot))
    by_uin = {(one.owner_uin, one.uin): one for one in declared}
    by_name = {(bool(one.role), one.name): one for one in declared if one.owner_uin == owner_uin}
    found = []
    for text in callers:
        caller = read_caller(text)
        found.append(by_uin.get((caller.owner_uin, caller.uin), caller))
    for kind, names in (("user", users), ("role", roles)):
        for name in names:
            if (kind == "role", name) not in by_name:
                raise ValueError(f"accounts.toml declares no {kind} `{name}` in {owner_uin}")
            found.append(by_name[kind == "role", name])
    return found


def is_declared(snapshot: Snapshot, principal: Principal) -> bool:
    """Whether the policies know of a caller."""
    if principal.is_root:
        return any(account.uin == principal.uin for account in snapshot.accounts)
    return principal in declared_callers(snapshot)


def find_actions(text: str) -> list[str]:
    """The actions meant by `batch:*`, of those that are served; an exact name may be another's.

    Raises ValueError for an action that its service does not have.
    """
    pattern = ActionPattern.read(text)
    if "*" in pattern.folded:
        found = [name for name in _ACTIONS if pattern.matches(name)]
        if not found:
            raise ValueError(f"no action fits `{text}`")
        return found
    known = find_policy_action(text)
    if known is not None:
        return [known]
    name = text.removeprefix("name/")
    service, _, _ = name.partition(":")
    if service.lower() in _SERVICES:
        near = get_close_matches(name, _ACTIONS, n=1)
        hint = f"; is `{near[0]}` meant?" if near else ""
        raise ValueError(f"the action `{name}` does not exist{hint}")
    return [name]


def find_action(text: str) -> str:
    """The one action that is meant. Raises ValueError."""
    found = find_actions(text)
    if "*" in text:
        raise ValueError(f"`{text}` is not one action; `policy simulate` takes patterns")
    return found[0]


def ask(
    principal: Principal,
    action: str,
    *,
    resources: Sequence[str] = (),
    deny_only: Sequence[str] = (),
    lists: str = "",
    known: Circumstances,
) -> Question:
    """Put a question. resources: as policies name them, or the last segment alone, `job/job-x`.

    deny_only: more than what a call on these resources is looked at for a deny on anyway.

    Without resources and `lists`, the action is asked on everything that it may touch, `job/*`.
    """
    asked = tuple(_read(text, action, principal=principal, known=known) for text in resources)
    denied = tuple(_read(text, action, principal=principal, known=known) for text in deny_only)
    entry = _ACTIONS[action][0] if action in _ACTIONS else None
    if lists:
        asked = (_read(f"{lists}/*", action, principal=principal, known=known),)
    elif not asked and entry is not None:
        lists, asked = _template(entry, owner_uin=principal.owner_uin, region=known.region)
    if not asked:
        raise ValueError(f"on which resource? No service here has the action `{action}`")
    denied = tuple(dict.fromkeys((*denied, *_denied_besides(action, asked))))
    query = Query(
        principal=principal,
        action=action,
        resources=asked,
        deny_only=denied,
        context=known.context_of(principal),
        attributes={
            one: known.attributes[str(one)]
            for one in (*asked, *denied)
            if str(one) in known.attributes
        },
        deny_only_action=deny_only_action(action, denied),
    )
    return Question(query, lists)


def ask_each(
    callers: Sequence[Principal],
    actions: Sequence[str],
    *,
    resources: Sequence[str],
    known: Circumstances,
) -> Iterator[Question]:
    """Put every question of a matrix. actions: as `find_actions` takes them.

    Of an action that was written with a `*`, only what it can be about is asked.
    """
    for caller, text in product(callers, actions):
        for action, chosen in product(find_actions(text), [[one] for one in resources] or [[]]):
            question = ask(caller, action, resources=chosen, known=known)
            if "*" not in text or all(can_name(action, one) for one in question.query.resources):
                yield question


def can_name(action: str, resource: Resource) -> bool:
    """Tell whether a call of this action can be about this resource; True if nobody knows."""
    entries = _ACTIONS.get(action)
    return entries is None or any(
        _fits(path, action, resource)
        for entry in entries
        for group in entry.resource.named
        for path in group
    )


def _denied_besides(action: str, resources: Sequence[Resource]) -> Iterator[Resource]:
    """What a call of this action on these resources is looked at for a deny on, if they tell it."""
    for resource, entry in product(resources, _ACTIONS.get(action, ())):
        if resource.service == _service(action):
            for path in denied_besides(entry.resource, resource.path):
                yield structs.replace(resource, path=path)


def deny_only_action(action: str, deny_only: Sequence[Resource]) -> str:
    """The second name under which a deny holds on what is only checked for one; "" for none.

    An API and its classic form share an action. Only the classic calls have a second name, and
    are told by the resources of the old services that they name.
    """
    second_names = [entry.deny_only_action or "" for entry in _ACTIONS.get(action, ())]
    if "" in second_names:
        services = {resource.service for resource in deny_only}
        second_names = [name for name in second_names if name.partition(":")[0] in services]
    return next(iter(second_names), "")


def resource_named(text: str, *, action: str, owner_uin: str, region: str) -> Resource:
    """Read a resource as decisions name it; `*` is an action's that has no resource level."""
    service = _service(action)
    region = region_of(service, long_region(region))
    return read_resource(text, service=service, region=region, owner_uin=owner_uin)


def read_context(written: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Read `key=value`; a key that comes again has several values."""
    found: dict[str, tuple[str, ...]] = {}
    for text in written:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ValueError(f"the context `{text}` is not key=value")
        found[key] = (*found.get(key, ()), value)
    return found


def read_attributes(written: Sequence[str]) -> dict[str, dict[str, tuple[str, ...]]]:
    """Read `RESOURCE:key=value`; a tag, `qcs:resource_tag=key&value`, is known by all its keys."""
    found: dict[str, dict[str, tuple[str, ...]]] = {}
    for text in written:
        read = _ATTRIBUTE.fullmatch(text)
        if read is None:
            raise ValueError(f"the attribute `{text}` is not RESOURCE:key=value")
        resource = read_resource(read[1], service="", region="", owner_uin="")
        resource = structs.replace(resource, region=long_region(resource.region))
        carried = found.setdefault(str(resource), {})
        for key, values in _carried(read[2], read[3]).items():
            carried[key] = (*carried.get(key, ()), *values)
    return found


def read_policy(file: Path) -> Document:
    """Read a policy document that is not declared, as strictly as one that is.

    Raises OSError, InvalidParameter or PolicySetRefused.
    """
    text = file.read_text(encoding="utf-8")
    document = parse(text, name=file.stem, file=str(file), known_actions=KNOWN_ACTIONS)
    check_keys(document)
    return document


def _carried(key: str, value: str) -> Context:
    if key not in {"qcs:resource_tag", "qcs:tag"}:
        return {key: (value,)}
    tag, _, tag_value = value.partition("&")
    return carried_by_tags([(tag, tag_value)])


def _read(text: str, action: str, *, principal: Principal, known: Circumstances) -> Resource:
    service = _service(action)
    region = region_of(service, known.region)
    if text == "*" or text.startswith("qcs:"):
        found = read_resource(text, service=service, region=region, owner_uin=principal.owner_uin)
        return structs.replace(found, region=long_region(found.region))
    if "/" not in text:
        raise ValueError(f"the resource `{text}` is not qcs::… or type/id")
    return Resource(service, region, principal.owner_uin, text)


def _template(action: Action, *, owner_uin: str, region: str) -> tuple[str, tuple[Resource, ...]]:
    """What an action may touch: the type that it lists, or resources with `*` for every id."""
    if action.is_list:
        named = resources_of(action, params={}, owner_uin=owner_uin, region=region)
        return named.lists or "", named.resources
    resources = []
    for group in action.resource.named:
        path = group[0]
        service = "cam" if path.is_whole else path.service or _service(action.policy_action)
        where = region_of(service, region)
        resources.append(Resource(service, where, owner_uin, _pattern(path, owner_uin)))
    return "", tuple(dict.fromkeys(resources))


def _service(action: str) -> str:
    return action.partition(":")[0]


def _pattern(path: ResourcePath, owner_uin: str) -> str:
    """The path with `*` for what a call's parameters would say."""
    if path.is_whole:
        return "roleName/*"
    text = path.literals[0]
    for placeholder, literal in zip(path.placeholders, path.literals[1:], strict=True):
        text += (owner_uin if placeholder.form is Form.OWNER else "*") + literal
    return text


def _fits(path: ResourcePath, action: str, resource: Resource) -> bool:
    if path.is_whole:
        return resource.service == "cam" and resource.path.startswith("role")
    service = path.service or _service(action)
    pattern = _pattern(path, resource.owner_uin)
    if not path.placeholders:
        return resource.service == service and resource.path == pattern
    return resource.service == service and fits(pattern, resource.path)
