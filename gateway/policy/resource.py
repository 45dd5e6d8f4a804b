"""The resource element: `*`, or six segments that are each matched on their own."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum

from gateway.call import Resource
from gateway.errors import InvalidParameter
from gateway.policy.pattern import (
    VARIABLES,
    Wildcard,
    expand,
    has_variables,
    is_known_template,
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
class ResourcePattern:
    """Which resources a statement speaks of. None for a segment: it matches whatever stands there.

    is_everything: written `*`. has_variables: `${uin}` or its like stands in the last segment.
    has_project: the project segment takes in the default project, where every resource lives.
    account: for the digits of the uin; None is the account that owns the policy, which needs no
    test here, because another account's resource is refused before any pattern is looked at.
    path: the last segment; its `*` spans `/`.
    bare_path: for Batch's types, `type/id` of a pattern that was written `type/id/*`.

    Why the path `*` also matches an action without resource level: the guide asks for the
    resource `*` there, and `qcs::batch:gz::*` is the same promise, kept to one region. No other
    path does: what is asked is the text `*`, which no literal character of a pattern can match.

    Why `type/id/*` matches `type/id`: the guide's table of resource types writes the first, its
    table of actions the second. One of the two would otherwise deny nothing.

    Why a project other than `id/0` matches nothing: resources cannot be put into projects any
    more, so none of them is in the one that is named.
    """

    text: str
    is_everything: bool
    has_variables: bool
    has_project: bool
    service: Wildcard | None
    region: Wildcard | None
    account: Wildcard | None
    path: Wildcard
    bare_path: Wildcard | None

    def matches(self, resource: Resource) -> bool:
        """Tell whether `resource`, of the policy's own account, is meant. Variables: `resolved`."""
        if self.is_everything:
            return True
        return self.matches_place(resource) and self.matches_path(resource)

    def matches_place(self, resource: Resource) -> bool:
        """Tell whether all segments but the last fit."""
        return (
            self.has_project
            and (self.service is None or self.service.matches(resource.service))
            and (self.region is None or self.region.matches(long_region(resource.region)))
            and (self.account is None or self.account.matches(resource.owner_uin))
        )

    def matches_path(self, resource: Resource) -> bool:
        """Tell whether the last segment fits."""
        if self.path.matches(resource.path):
            return True
        bare = self.bare_path
        return bare is not None and resource.service == "batch" and bare.matches(resource.path)

    def paths(self, service: str) -> tuple[Wildcard, ...]:
        """The patterns of the last segment, one of which must fit, for a resource of `service`."""
        if self.bare_path is None or service != "batch":
            return (self.path,)
        return (self.path, self.bare_path)

    def differing(self, resource: Resource) -> Iterator[Segment]:
        """Name every segment that does not fit `resource`; none if `matches`."""
        if not self.has_project:
            yield Segment.PROJECT
        if self.service is not None and not self.service.matches(resource.service):
            yield Segment.SERVICE
        if self.region is not None and not self.region.matches(long_region(resource.region)):
            yield Segment.REGION
        if self.account is not None and not self.account.matches(resource.owner_uin):
            yield Segment.ACCOUNT
        if not self.matches_path(resource):
            yield Segment.PATH

    def resolved(self, values: Mapping[str, str], *, denies: bool) -> "ResourcePattern | None":
        """Put the caller's values for the variables; None if it can then match nothing.

        denies: a variable without a value stands for anything in a deny, and matches nothing in
        an allow.
        """
        known = dict.fromkeys(VARIABLES, "*") | dict(values) if denies else values
        path = expand(self.path.text, known)
        if path is None:
            return None
        wildcard = Wildcard.read(path)
        return replace(self, path=wildcard, bare_path=_bare_path(wildcard.text))


EVERYTHING = ResourcePattern(
    text="*",
    is_everything=True,
    has_variables=False,
    has_project=True,
    service=None,
    region=None,
    account=None,
    path=Wildcard.read("*"),
    bare_path=None,
)


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
    _, project, service, region, account, path = segments
    _check(text, project, form=_PROJECT, detail="ResourceProjectError")
    _check(text, service, form=_SERVICE, detail="ResourceServiceNotExist")
    _check(text, region, form=_REGION, detail="ResourceRegionError")
    _check(text, account, form=_ACCOUNT, detail="ResourceUinError")
    if not path:
        raise _refused(text, "names nothing in its last segment", detail="ResourceContentError")
    if not is_known_template(path):
        why = "has a placeholder in its last segment: put the id, or `*`, in its place"
        raise _refused(text, why, detail="ResourceContentError")
    wildcard = Wildcard.read(path)
    return ResourcePattern(
        text=text,
        is_everything=False,
        has_variables=has_variables(path),
        has_project=project in {"", "*", "id/*"} or project.removeprefix("id/").strip("0") == "",
        service=_wildcard(service),
        region=_wildcard(long_region(region)),
        account=None if account == "uin/-1" else _wildcard(account.removeprefix("uin/")),
        path=wildcard,
        bare_path=_bare_path(wildcard.text),
    )


def _check(text: str, segment: str, *, form: re.Pattern[str], detail: str) -> None:
    if form.fullmatch(segment):
        return
    hint = ""
    if has_variables(segment):
        hint = ". A policy variable works in the last segment only; write the value itself here"
    raise _refused(text, f"has the segment `{segment}`, which cannot be read{hint}", detail=detail)


def _refused(text: str, why: str, *, detail: str) -> InvalidParameter:
    return InvalidParameter(f"The resource `{text}` {why}.", detail=detail)


def _wildcard(segment: str) -> Wildcard | None:
    wildcard = Wildcard.read(segment)
    return None if segment == "" or wildcard.is_everything else wildcard


def _bare_path(path: str) -> Wildcard | None:
    kind, _, rest = path.partition("/")
    if kind in BATCH_TYPES and rest.endswith("/*") and rest != "/*":
        return Wildcard.read(path.removesuffix("/*"))
    return None
