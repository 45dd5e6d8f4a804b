"""The least privilege: policies made from the calls that somebody needs."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from msgspec import structs

from gateway.call import Resource
from gateway.errors import ApiError
from gateway.policy.document import LENGTH_MAX
from gateway.policy.question import RecordedCall
from gateway.policy.resource import SEGMENTS, read_resource_pattern

IDS_MAX = 5
RESOURCE_LENGTH_MAX = 1_000
"""A longer id is no one's id: its type is suggested instead."""
ACTIONS_LENGTH_MAX = 2_400
RESOURCES_LENGTH_MAX = 3_400
"""Of one statement, in characters of JSON: with its frame it fits into a document of its own."""

Statement = tuple[tuple[str, ...], tuple[str, ...]]
"""Actions and resources that are allowed together."""


@dataclass(frozen=True, slots=True)
class Suggestion:
    """Policies that together allow what is needed.

    documents: as JSON objects, each within the length that CAM takes. left_out: resources that no
    pattern can name, such as another account's.
    """

    documents: tuple[dict[str, Any], ...]
    left_out: tuple[str, ...]


class Needs:
    """Gathers what calls were made on. A list needs what it was shown by, or its type, `job/*`.

    What is only checked for a deny needs no allow, and conditions are left to whoever reads the
    suggestion: what was seen of addresses and times does not say which of them are meant.
    calls: how many. first, last: when the first and the last of them were made.
    """

    def __init__(self) -> None:
        self.calls = 0
        self.first: datetime | None = None
        self.last: datetime | None = None
        self._resources: dict[str, dict[Resource, None]] = {}
        self._patterns: dict[str, dict[str, None]] = {}
        self._left_out: dict[str, None] = {}

    def add(self, call: RecordedCall) -> None:
        """Take one more call into account."""
        self.calls += 1
        self.first = min(self.first or call.time, call.time)
        self.last = max(self.last or call.time, call.time)
        query = call.question.query
        patterns = _patterns_of(call)
        self._patterns.setdefault(query.action, {}).update(dict.fromkeys(patterns))
        for resource in query.resources:
            if patterns:
                continue
            if resource.owner_uin != query.principal.owner_uin:
                self._left_out[str(resource)] = None
            else:
                self._resources.setdefault(query.action, {})[resource] = None

    def suggest(self, *, keep_ids: bool = False, ids_max: int = IDS_MAX) -> Suggestion:
        """Write the policies.

        ids_max: from more distinct ids of one type on, an action gets the whole type. keep_ids:
        never.
        """
        left_out = dict(self._left_out)
        grouped: dict[tuple[str, ...], list[str]] = {}
        for action in sorted(self._resources.keys() | self._patterns.keys()):
            resources = self._resources.get(action, {})
            written = dict(self._patterns.get(action, {}))
            for resource in _generalised(resources, ids_max=None if keep_ids else ids_max):
                text = _writable(resource)
                (left_out if text is None else written)[text or str(resource)] = None
            if written:
                grouped.setdefault(tuple(sorted(_uncovered(written))), []).append(action)
        statements = sorted((tuple(actions), texts) for texts, actions in grouped.items())
        return Suggestion(tuple(_documents(statements)), tuple(left_out))


def _patterns_of(call: RecordedCall) -> list[str]:
    """The patterns of a list's ids, put where the list was made; none if its whole type was shown.

    Whoever may see a part of a type shall not be given all of it.
    """
    if not call.shown_by or not call.question.lists:
        return []
    [whole] = call.question.query.resources
    begin = f"{call.question.lists}/"
    paths = [text.split(":", SEGMENTS - 1)[-1] for text in call.shown_by]
    if any(path == f"{begin}*" or not path.startswith(begin) for path in paths):
        return []
    return [str(structs.replace(whole, path=path)) for path in paths]


def _generalised(resources: Iterable[Resource], *, ids_max: int | None) -> Iterator[Resource]:
    """The resources of one action, whole types in the place of many ids."""
    by_type: dict[Resource, list[Resource]] = {}
    for resource in resources:
        by_type.setdefault(_type_of(resource), []).append(resource)
    for whole, members in by_type.items():
        if ids_max is not None and len(members) > ids_max:
            yield whole
        else:
            yield from members


def _type_of(resource: Resource) -> Resource:
    """Everything of the resource's type, in its region; itself if it has no type."""
    kind, slash, _ = resource.path.partition("/")
    return structs.replace(resource, path=f"{kind}/*") if slash else resource


def _writable(resource: Resource) -> str | None:
    """The narrowest pattern for a resource: itself, or its type if its id cannot be written."""
    for one in (resource, _type_of(resource)):
        text = str(one)
        try:
            pattern = read_resource_pattern(text)
        except ApiError:
            continue
        is_short = _length(text) <= RESOURCE_LENGTH_MAX
        if is_short and not pattern.has_variables and pattern.matches(resource):
            return text
    return None


def _uncovered(texts: Iterable[str]) -> list[str]:
    """Leave out what is within `*` or the whole of its type.

    Why an action without resource level gets `*`, although `qcs::batch:gz::*` would be narrower:
    the vendor's guide asks for it, and the suggestion shall be good there, too.
    """
    found = set(texts)
    if "*" in found:
        return ["*"]
    return [text for text in found if (whole := _whole(text)) == text or whole not in found]


def _whole(text: str) -> str:
    *place, path = text.split(":", SEGMENTS - 1)
    kind, slash, _ = path.partition("/")
    return ":".join([*place, f"{kind}/*"]) if slash else text


def _documents(statements: Sequence[Statement]) -> Iterator[dict[str, Any]]:
    """Pack statements into as few documents as they fit into, in their order."""
    packed: list[dict[str, Any]] = []
    for piece in _pieces(statements):
        if packed and _length(_document([*packed, piece])) > LENGTH_MAX:
            yield _document(packed)
            packed = []
        packed.append(piece)
    if packed:
        yield _document(packed)


def _document(statements: list[dict[str, Any]]) -> dict[str, Any]:
    return {"version": "2.0", "statement": statements}


def _pieces(statements: Iterable[Statement]) -> Iterator[dict[str, Any]]:
    for actions, resources in statements:
        for some_actions in _chunks(actions, length_max=ACTIONS_LENGTH_MAX):
            for some in _chunks(resources, length_max=RESOURCES_LENGTH_MAX):
                yield {"effect": "allow", "action": some_actions, "resource": some}


def _chunks(texts: Iterable[str], *, length_max: int) -> Iterator[list[str]]:
    chunk: list[str] = []
    length = 0
    for text in texts:
        more = _length(text) + 1
        if chunk and length + more > length_max:
            yield chunk
            chunk, length = [], 0
        chunk.append(text)
        length += more
    yield chunk


def _length(value: object) -> int:
    """Characters of JSON, blanks between its parts not counted."""
    return len(json.dumps(value, ensure_ascii=False, separators=(",", ":")))
