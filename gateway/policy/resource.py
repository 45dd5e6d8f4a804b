"""The resource element: `*`, or six segments that are each matched on their own."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

from gateway.call import Resource
from gateway.errors import InvalidParameter
from gateway.policy.pattern import (
    VARIABLES,
    Wildcard,
    expand,
    fits,
    has_variables,
    is_known_template,
    reduced,
)

REGIONS: Mapping[str, str] = {
    "gz": "ap-guangzhou",
    "sh": "ap-shanghai",
    "bj": "ap-beijing",
    "tj": "ap-beijing-1",
    "cd": "ap-chengdu",
    "hk": "ap-hongkong",
    "ca": "na-toronto",
    "sg": "ap-singapore",
    "sgp": "ap-singapore",
    "shjr": "ap-shanghai-fsi",
    "szjr": "ap-shenzhen-fsi",
    "usw": "na-siliconvalley",
    "kr": "ap-seoul",
    "de": "eu-frankfurt",
    "ger": "eu-frankfurt",
}
BATCH_TYPES = ("job", "computeenv", "tasktemplate")
SEGMENTS = 6
PLACES_MAX = 4_096

_PROJECT = re.compile(r"(?:|\*|id/\*|id/[0-9]+)")
_SERVICE = re.compile(r"[a-z0-9_*-]*")
_REGION = re.compile(r"[a-z0-9*-]*")
_ACCOUNT = re.compile(r"(?:|\*|uin/-1|uin/[0-9*]+)")


class Segment(Enum):
    """The segments that are matched, by the vendor's names."""

    PROJECT = "project_id"
    SERVICE = "service_type"
    REGION = "region"
    ACCOUNT = "account"
    PATH = "resource"


@dataclass(frozen=True, slots=True)
class Place:
    """Where resources are: every segment but the last. None: it matches whatever stands there.

    text: as written, up to the last segment; empty for the resource `*`.
    has_project: the project segment takes in the default project, where every resource lives.
    account: for the digits of the uin; None is the account that owns the policy, which needs no
    test here, because another account's resource is refused before any pattern is looked at.

    Why a project other than `id/0` matches nothing: resources cannot be put into projects any
    more, so none of them is in the one that is named.
    """

    text: str
    has_project: bool
    service: Wildcard | None
    region: Wildcard | None
    account: Wildcard | None

    def contains(self, resource: Resource) -> bool:
        """Tell whether all segments but the last fit."""
        return (
            self.has_project
            and (self.service is None or self.service.matches(resource.service))
            and (self.region is None or self.region.matches(long_region(resource.region)))
            and (self.account is None or self.account.matches(resource.owner_uin))
        )


EVERYWHERE = Place("", has_project=True, service=None, region=None, account=None)


@dataclass(frozen=True, slots=True)
class ResourcePattern:
    """Which resources a statement speaks of. path: the last segment; its `*` spans `/`.

    Why the path `*` also matches an action without resource level: the guide asks for the
    resource `*` there, and `qcs::batch:gz::*` is the same promise, kept to one region. No other
    path does: what is asked is the text `*`, which no literal character of a pattern can match.

    Why `type/id/*` matches `type/id`: the guide's table of resource types writes the first, its
    table of actions the second. One of the two would otherwise deny nothing.
    """

    place: Place
    path: str

    @property
    def text(self) -> str:
        """The pattern as written."""
        return self.place.text + self.path

    @property
    def has_variables(self) -> bool:
        """Whether `${uin}` or its like stands in the last segment."""
        return has_variables(self.path)

    def matches(self, resource: Resource) -> bool:
        """Tell whether `resource`, of the policy's own account, is meant. Variables: `resolved`."""
        return self.place.contains(resource) and self.matches_path(resource)

    def matches_path(self, resource: Resource) -> bool:
        """Tell whether the last segment fits."""
        if fits(self.path, resource.path):
            return True
        bare = _bare_path(self.path) if resource.service == "batch" else None
        return bare is not None and fits(bare, resource.path)

    def paths(self, service: str) -> tuple[str, ...]:
        """The patterns of the last segment, one of which must fit, for a resource of `service`."""
        bare = _bare_path(self.path) if service == "batch" else None
        return (self.path,) if bare is None else (self.path, bare)

    def differing(self, resource: Resource) -> Iterator[Segment]:
        """Name every segment that does not fit `resource`; none if `matches`."""
        place = self.place
        if not place.has_project:
            yield Segment.PROJECT
        if place.service is not None and not place.service.matches(resource.service):
            yield Segment.SERVICE
        if place.region is not None and not place.region.matches(long_region(resource.region)):
            yield Segment.REGION
        if place.account is not None and not place.account.matches(resource.owner_uin):
            yield Segment.ACCOUNT
        if not self.matches_path(resource):
            yield Segment.PATH

    def resolved(self, values: Mapping[str, str], *, denies: bool) -> "ResourcePattern | None":
        """Put the caller's values for the variables; None if it can then match nothing.

        denies: a variable without a value stands for anything in a deny, and matches nothing in
        an allow.
        """
        known = dict.fromkeys(VARIABLES, "*") | dict(values) if denies else values
        path = expand(self.path, known)
        return None if path is None else ResourcePattern(self.place, path)


EVERYTHING = ResourcePattern(EVERYWHERE, "*")


def long_region(name: str) -> str:
    """Write a region as the API does: `gz` is `ap-guangzhou`. Other names stay as they are."""
    return REGIONS.get(name, name)


def read_resource_pattern(text: str) -> ResourcePattern:
    """Read one resource of a policy; raises InvalidParameter.Resource…Error, by segment."""
    if text == "*":
        return EVERYTHING
    segments = text.split(":", SEGMENTS - 1)
    if segments[0] != "qcs":
        raise _refused(text, "does not begin with `qcs:`", detail="ResourceQcsError")
    if len(segments) != SEGMENTS:
        raise _refused(text, "does not have six segments", detail="ResourceError")
    path = segments[-1]
    place = _read_place(text[: len(text) - len(path)])
    if not path:
        raise _refused(text, "names nothing in its last segment", detail="ResourceContentError")
    if not is_known_template(path):
        why = "has a placeholder in its last segment: put the id, or `*`, in its place"
        raise _refused(text, why, detail="ResourceContentError")
    return ResourcePattern(place, path)


@lru_cache(maxsize=PLACES_MAX)
def _read_place(text: str) -> Place:
    """Read the segments before the last. The few there are, are shared by all patterns."""
    _, project, service, region, account, _ = text.split(":")
    _check(text, project, form=_PROJECT, detail="ResourceProjectError")
    _check(text, service, form=_SERVICE, detail="ResourceServiceNotExist")
    _check(text, region, form=_REGION, detail="ResourceRegionError")
    _check(text, account, form=_ACCOUNT, detail="ResourceUinError")
    return Place(
        text=text,
        has_project=project in {"", "*", "id/*"} or project.removeprefix("id/").strip("0") == "",
        service=_wildcard(service),
        region=_wildcard(long_region(region)),
        account=None if account == "uin/-1" else _wildcard(account.removeprefix("uin/")),
    )


def _check(text: str, segment: str, *, form: re.Pattern[str], detail: str) -> None:
    if form.fullmatch(segment):
        return
    hint = ""
    if has_variables(segment):
        hint = ". A policy variable works in the last segment only; write the value itself here"
    why = f"has the segment `{segment}`, which cannot be read{hint}"
    raise _refused(f"{text}…", why, detail=detail)


def _refused(text: str, why: str, *, detail: str) -> InvalidParameter:
    return InvalidParameter(f"The resource `{text}` {why}.", detail=detail)


def _wildcard(segment: str) -> Wildcard | None:
    wildcard = Wildcard.read(segment)
    return None if segment == "" or wildcard.is_everything else wildcard


def _bare_path(path: str) -> str | None:
    if not path.endswith("/*") and not path.endswith("**"):
        return None
    path = reduced(path)
    kind, _, rest = path.partition("/")
    if kind in BATCH_TYPES and rest.endswith("/*") and rest != "/*":
        return path.removesuffix("/*")
    return None
