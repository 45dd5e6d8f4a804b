"""Which resources a call names: templates read once at import, filled in from its parameters."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from itertools import chain

from gateway.call import Resource, Value
from gateway.errors import ApiError, InvalidParameter, InvalidParameterValue, MissingParameter

RESOURCES_MAX = 1_000
"""More distinct resources than this are refused: each one costs a decision."""


BATCH_IDS = frozenset({"JobId", "EnvId", "TaskTemplateId", "ComputeNodeId"})
NAME_CHARACTERS_MAX = 512
"""No name of anything is longer; each one is compared with many patterns, and kept."""


class Form(Enum):
    """How the value of a parameter is written into a resource's name."""

    TEXT = "text"
    NUMBER = "number"
    ROLE = "role"
    OWNER = "owner"


@dataclass(frozen=True, slots=True)
class Step:
    """One member on the way to a value; every element counts if it is a list."""

    name: str
    is_list: bool


@dataclass(frozen=True, slots=True)
class Placeholder:
    """A place in the parameters whose value stands in a resource's name."""

    steps: tuple[Step, ...]
    form: Form


@dataclass(frozen=True, slots=True)
class Path:
    """The name of one kind of resource.

    service: empty for the service of the action itself.
    literals: the text before, between and after the placeholders, one more than those.
    when: a parameter and the value it must have, else nothing is named.
    is_whole: one parameter holds all six segments.
    """

    service: str
    literals: tuple[str, ...]
    placeholders: tuple[Placeholder, ...]
    when: tuple[str, str] | None
    is_whole: bool


@dataclass(frozen=True)
class ResourceTemplate:
    """What an action is decided on.

    named: each group must be allowed; within a group, the paths whose parameters were given.
    deny_only: what only an explicit deny is looked for.
    """

    named: tuple[tuple[Path, ...], ...]
    deny_only: tuple[Path, ...] = ()

    @cached_property
    def one(self) -> tuple[str, str, str] | None:
        """For the most common kind, one name with one text in it: what stands before the text,
        the parameter that holds it, what stands after it. None for any other kind.
        """
        if self.deny_only or len(self.named) > 1 or len(self.named[0]) > 1:
            return None
        [[path]] = self.named
        if path.service or path.when or path.is_whole or len(path.placeholders) != 1:
            return None
        [place] = path.placeholders
        if place.form is not Form.TEXT or len(place.steps) != 1 or place.steps[0].is_list:
            return None
        return path.literals[0], place.steps[0].name, path.literals[1]


class Named(Value, frozen=True):
    """The resources one call names.

    resources: all must be allowed. deny_only: none may be explicitly denied.
    lists: for a list without ids the type it lists, such as "job"; `resources` is then all of it,
    `job/*`.
    """

    resources: tuple[Resource, ...]
    deny_only: tuple[Resource, ...] = ()
    lists: str | None = None


class Account(Value, frozen=True):
    """Where the resources of one call live."""

    service: str
    region: str
    owner_uin: str


_PATH = re.compile(r"(?:([a-z]+):)?(\S+)(?: when (\w+)=(\w+))?")
_PLACEHOLDER = re.compile(r"\$\{([^}:]*)(?::(\w+))?\}")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,18}")
_ROLE = re.compile(r"qcs::cam::uin/([0-9]+):((?:role|roleName)/[^\s:]+)")


def template(named: str, *deny_only: str) -> ResourceTemplate:
    """Read the resources of an action as the vendor's tables write them.

    `*` has no resource level, `job/*` is literal, `job/${JobId}` takes an id from a parameter,
    `job/${JobIds[]}` every id of a list, `computeenv/${Job.Tasks[].EnvId}` goes deeper.
    `:number` after a parameter reads a decimal, `:role` a whole role name; `${owner}` is the
    root account. `&` joins names that are all needed, `|` names of which one is. In `deny_only`
    a name of another service starts with it (`cmqqueue:`), and `when Protocol=queue` limits it.
    """
    return ResourceTemplate(
        named=tuple(
            tuple(_read_path(text) for text in group.split(" | ")) for group in named.split(" & ")
        ),
        deny_only=tuple(_read_path(text) for text in deny_only),
    )


def _read_path(text: str) -> Path:
    found = _PATH.fullmatch(text)
    if found is None:
        raise ValueError(f"not a resource template: {text!r}")
    service, path, parameter, value = found.groups()
    pieces = _PLACEHOLDER.split(path)
    return Path(
        service=service or "",
        literals=tuple(pieces[::3]),
        placeholders=tuple(map(_read_placeholder, pieces[1::3], pieces[2::3])),
        when=(parameter, value) if parameter else None,
        is_whole=":role}" in path,
    )


def _read_placeholder(place: str, form: str | None) -> Placeholder:
    if place == "owner":
        return Placeholder((), Form.OWNER)
    steps = tuple(Step(s.removesuffix("[]"), s.endswith("[]")) for s in place.split("."))
    return Placeholder(steps, Form(form or "text"))


def fill(
    resource: ResourceTemplate, params: Mapping[str, object], *, account: Account, is_list: bool
) -> Named:
    """Name the resources of one call.

    Every id counts once. Raises MissingParameter for an id that is needed and absent,
    InvalidParameter for one of the wrong type, InvalidParameterValue for none or too many in a
    list that is needed.
    """
    if resource.one is not None:
        before, name, after = resource.one
        value = params.get(name)
        if isinstance(value, str) and _is_name(value):
            path = before + value + after
            return Named((Resource(account.service, account.region, account.owner_uin, path),))
    denied = [
        found
        for path in resource.deny_only
        if _applies(path, params)
        for found in _fill_path(path, params, account=account, needed=False)
    ]
    if is_list and not any(_is_given(path, params) for path in resource.named[0]):
        listed = resource.named[0][0].literals[0].rstrip("/*")
        whole = Resource(account.service, account.region, account.owner_uin, f"{listed}/*")
        return Named((whole,), deny_only=_distinct(denied), lists=listed)
    named = [
        found
        for group in resource.named
        for path in _given(group, params)
        for found in _fill_path(path, params, account=account, needed=True)
    ]
    return Named(_distinct(named), deny_only=_distinct(denied))


def denied_besides(resource: ResourceTemplate, path: str) -> Iterator[str]:
    """The paths, of the same service, that a call on one path is looked at for a deny on.

    Only what the path itself tells: of `subscription/t/s` that its topic is `topic/t`.
    """
    for named in chain.from_iterable(resource.named):
        found = _pattern(named).fullmatch(path)
        if found is None:
            continue
        places = [place.steps for place in named.placeholders]
        values = dict(zip(places, found.groups(), strict=True))
        for denied in resource.deny_only:
            texts = [values.get(place.steps, "") for place in denied.placeholders]
            if not denied.service and denied.when is None and all(texts):
                rest = zip(texts, denied.literals[1:], strict=True)
                yield denied.literals[0] + "".join(chain.from_iterable(rest))


def _pattern(path: Path) -> re.Pattern[str]:
    """What fits a path; the names in it have no `*` and no `/`."""
    return re.compile(r"([^/*]+)".join(map(re.escape, path.literals)))


def _given(group: tuple[Path, ...], params: Mapping[str, object]) -> tuple[Path, ...]:
    """The paths of a group to name: all that were given, else the first, which will be missed."""
    if len(group) == 1:
        return group
    return tuple(path for path in group if _is_given(path, params)) or group[:1]


def _is_given(path: Path, params: Mapping[str, object]) -> bool:
    return any(
        value is not None
        for placeholder in path.placeholders
        for _, value in _find(params, placeholder.steps, at="")
    )


def _applies(path: Path, params: Mapping[str, object]) -> bool:
    if path.when is None:
        return True
    parameter, value = path.when
    return str(params.get(parameter)).lower() == value


def _fill_path(
    path: Path, params: Mapping[str, object], *, account: Account, needed: bool
) -> list[Resource]:
    if path.is_whole:
        [whole] = _values(path.placeholders[0], params, account=account, needed=needed)
        owner_uin, name = whole.split(":", 1)
        return [Resource("cam", "", owner_uin, name)]
    service = path.service or account.service
    names = [path.literals[0]]
    for placeholder, literal in zip(path.placeholders, path.literals[1:], strict=True):
        values = _values(placeholder, params, account=account, needed=needed)
        names = [name + value + literal for name in names for value in values]
    return [Resource(service, account.region, account.owner_uin, name) for name in names]


def _values(
    placeholder: Placeholder, params: Mapping[str, object], *, account: Account, needed: bool
) -> list[str]:
    if placeholder.form is Form.OWNER:
        return [account.owner_uin]
    found = _find(params, placeholder.steps, at="")
    missing = [at for at, value in found if value is None]
    if needed and missing:
        raise MissingParameter(f"The request is missing a required parameter `{missing[0]}`.")
    if needed and not found:  # it was given, as an empty list
        name = ".".join(step.name for step in placeholder.steps)
        raise InvalidParameterValue(f"`{name}` is empty; it must name at least one.")
    # An empty text names nothing that could be denied; where an id is needed, it is a bad id.
    return [
        _write(value, placeholder.form, at=at)
        for at, value in found
        if value is not None and (needed or value != "")
    ]


def _find(value: object, steps: tuple[Step, ...], *, at: str) -> list[tuple[str, object]]:
    """Every value that `steps` lead to, with its place; None where a member is absent."""
    if not steps or value is None:
        return [(at, value)]
    if not isinstance(value, Mapping):
        raise _wrong_type(at)
    step, rest = steps[0], steps[1:]
    at = f"{at}.{step.name}" if at else step.name
    member = value.get(step.name)
    if not step.is_list or member is None:
        return _find(member, rest, at=at)
    if isinstance(member, Mapping):  # older clients send one object where a list is meant
        member = [member]
    if not isinstance(member, list):
        raise _wrong_type(at)
    found: list[tuple[str, object]] = []
    for index, element in enumerate(member):
        if element is None:
            raise _wrong_type(f"{at}[{index}]")
        found += _find(element, rest, at=f"{at}[{index}]")
    return found


def _write(value: object, form: Form, *, at: str) -> str:
    """Write a value as it stands in a name, each in one way only, so that no deny is evaded.

    Why a `*` is refused: nothing is called so, and a record that names it would read as if the
    call had been about everything.
    """
    if form is Form.NUMBER and isinstance(value, int):
        value = str(value)
    if not isinstance(value, str):
        raise _wrong_type(at)
    if form is Form.NUMBER and not _NUMBER.fullmatch(value):
        raise _wrong_type(at)
    if form is Form.ROLE:
        role = _ROLE.fullmatch(value)
        if role is None:
            raise _wrong_type(at)
        value = f"{role[1]}:{role[2]}"
    if not _is_name(value):
        raise _no_name(at)
    return value


def _is_name(value: str) -> bool:
    return len(value) <= NAME_CHARACTERS_MAX and "*" not in value


def _no_name(at: str) -> ApiError:
    """The refusal of what nothing can be called; Batch has a code for each kind of id."""
    kind = re.sub(r".*\.|s?(\[[0-9]+\])?$", "", at)
    if kind in BATCH_IDS:
        return InvalidParameter(f"The {kind} at `{at}` is malformed.", detail=f"{kind}Malformed")
    return InvalidParameterValue(f"The value of parameter `{at}` cannot be a name.")


def _distinct(resources: list[Resource]) -> tuple[Resource, ...]:
    if len(resources) <= 1:  # nearly always: hashing would cost more than all the rest
        return tuple(resources)
    distinct = tuple(dict.fromkeys(resources))
    if len(distinct) > RESOURCES_MAX:
        text = f"A call may name at most {RESOURCES_MAX} resources."
        raise InvalidParameterValue(text, detail="LimitExceeded")
    return distinct


def _wrong_type(at: str) -> ApiError:
    return InvalidParameter(f"The value type of parameter `{at}` is not valid.")
