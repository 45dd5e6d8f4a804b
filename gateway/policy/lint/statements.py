"""What can be wrong with a statement that was read."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from gateway.call import Effect
from gateway.policy.action import ActionPattern
from gateway.policy.condition import CALL_KEYS, RESOURCE_KEYS, is_carried, is_foreign
from gateway.policy.document import Document, Statement
from gateway.policy.lines import Path
from gateway.policy.lint.containment import can_name, names_exactly, statement_inside
from gateway.policy.lint.contradiction import impossible_key
from gateway.policy.lint.vocabulary import (
    CLOUD_REGIONS,
    CLOUD_SERVICES,
    KnownAction,
    Vocabulary,
    closest,
)
from gateway.policy.pattern import fits
from gateway.policy.resource import REGIONS, ResourcePattern


@dataclass(frozen=True, slots=True)
class Remark:
    """A finding before it has a place in a file. path: inside the statement."""

    rule: str
    message: str
    hint: str = ""
    path: Path = ()


@dataclass(frozen=True, slots=True)
class Subject:
    """A statement and what is known around it.

    uins: the accounts that declare the document; none for one that stands for itself.
    is_granting: somebody gets rights by it, and it is no preset, which is as wide as its name.
    """

    document: Document
    statement: Statement
    uins: frozenset[str]
    is_granting: bool
    words: Vocabulary

    @property
    def effect(self) -> Effect:
        """What the statement says."""
        return self.statement.effect

    def known_kinds_name(self, action: KnownAction, pattern: ResourcePattern) -> bool:
        """Whether an action is ever decided on what a pattern matches."""
        return any(kind.is_named_by(pattern) for kind in action.kinds(self.effect))

    def names_any(self, action: KnownAction) -> bool:
        """Whether an action is ever decided on one of the statement's resources."""
        return any(self.known_kinds_name(action, one) for one in self.statement.resources)


def remarks(subject: Subject) -> Iterator[Remark]:
    """Everything there is to say about one statement."""
    for check in CHECKS:
        yield from check(subject)


def _actions(subject: Subject) -> Iterator[Remark]:
    for index, action in enumerate(subject.statement.actions):
        remark = _action(action, subject.words, path=("action", index))
        if remark is not None:
            yield remark


def _action(action: ActionPattern, words: Vocabulary, *, path: Path) -> Remark | None:
    if action.is_set:
        message = f"`{action.text}` means no action here"
        return Remark("vendor-set", message, "name the actions", path)
    service, _, name = action.folded.partition(":")
    if "*" in service or words.knows(action):
        return None
    like = words.like_action(action)
    hint = f"did you mean `{like}`?" if like else ""
    if service in words.complete:
        rule = "wildcard-without-action" if "*" in name else "unknown-action"
        return Remark(rule, f"`{service}` has no action `{action.text}`", hint, path)
    if service in words.served:
        message = f"no call that comes here has the action `{action.text}`"
        return Remark("unserved-action", message, hint, path)
    return _service(service, path=path, words=words)


def _service(service: str, *, path: Path, words: Vocabulary) -> Remark | None:
    known = CLOUD_SERVICES | words.served
    if "*" in service or service in known:
        return None
    like = closest(service, known)
    if not like:
        return None
    return Remark(
        "unknown-service", f"no service is called `{service}`", f"did you mean `{like}`?", path
    )


def _places(subject: Subject) -> Iterator[Remark]:
    for index, pattern in enumerate(subject.statement.resources):
        place, path = pattern.place, ("resource", index)
        if not place.has_project:
            message = f"`{pattern.text}` names a project that no resource is in"
            yield Remark("project-without-resource", message, "leave the segment empty", path)
        account = place.account
        if account is not None and not any(map(account.matches, subject.uins)) and subject.uins:
            message = f"`{pattern.text}` belongs to another account"
            hint = f"write `uin/{min(subject.uins)}`, or leave the segment empty"
            yield Remark("other-account", message, hint, path)
        if place.region is not None:
            yield from _region(place.region.text, path=path)
        if place.service is not None:
            misspelt = _service(place.service.text, path=path, words=subject.words)
            if misspelt is not None:
                yield misspelt


def _region(written: str, *, path: Path) -> Iterator[Remark]:
    if any(fits(written, region) for region in CLOUD_REGIONS):
        return
    like = closest(written.strip("*"), CLOUD_REGIONS | REGIONS.keys())
    hint = f"did you mean `{like}`?" if like else "leave the segment empty for every region"
    yield Remark("unknown-region", f"no region is called `{written}`", hint, path)


def _types(subject: Subject) -> Iterator[Remark]:
    for index, pattern in enumerate(subject.statement.resources):
        if not _has_unknown_type(pattern, subject.words):
            continue
        service = pattern.place.service.text if pattern.place.service else ""
        types = {start.rstrip("/") for start in subject.words.starts(service)}
        written = pattern.path.partition("/")[0]
        like = closest(written, types)
        yield Remark(
            "unknown-resource-type",
            f"`{service}` has no resources of the type `{written}`",
            f"did you mean `{like}/`?" if like else f"there are {', '.join(sorted(types))}",
            ("resource", index),
        )


def _has_unknown_type(pattern: ResourcePattern, words: Vocabulary) -> bool:
    service = pattern.place.service
    if service is None or service.text not in words.complete:
        return False
    starts = words.starts(service.text)
    return (
        bool(starts)
        and not names_exactly(pattern, service.text, "*")
        and not any(can_name(pattern, service.text, start) for start in starts)
    )


def _pairs(subject: Subject) -> Iterator[Remark]:
    """Actions and resources that have nothing to do with each other."""
    statement, words = subject.statement, subject.words
    meant = [words.meant_by(one) for one in statement.actions]
    yield from _unbound(subject, meant)
    if all(words.is_closed(one) for one in statement.actions):
        yield from _idle_resources(subject, [one for group in meant for one in group])
    if not any(subject.names_any(one) for group in meant for one in group):
        return
    for index, (action, group) in enumerate(zip(statement.actions, meant, strict=True)):
        bound = [one for one in group if not one.is_unbound(subject.effect)]
        if bound and words.is_closed(action) and not any(map(subject.names_any, group)):
            yield Remark(
                "action-without-resource",
                f"`{action.text}` is decided on none of the statement's resources",
                _decided_on(bound, subject.effect),
                ("action", index),
            )


def _unbound(subject: Subject, meant: list[tuple[KnownAction, ...]]) -> Iterator[Remark]:
    for index, (action, group) in enumerate(zip(subject.statement.actions, meant, strict=True)):
        if not group or "*" in action.folded or not group[0].is_unbound(subject.effect):
            continue
        if not subject.names_any(group[0]):
            message = f"`{action.text}` has no resource level and is decided on `*`"
            hint = "give it a statement of its own with the resource `*`"
            yield Remark("needs-every-resource", message, hint, ("action", index))


def _idle_resources(subject: Subject, meant: list[KnownAction]) -> Iterator[Remark]:
    bound = [one for one in meant if not one.is_unbound(subject.effect)]
    if not bound:
        return
    for index, pattern in enumerate(subject.statement.resources):
        if _has_unknown_type(pattern, subject.words):
            continue
        if not any(subject.known_kinds_name(one, pattern) for one in meant):
            yield Remark(
                "resource-without-action",
                f"no action of the statement is ever decided on `{pattern.text}`",
                _decided_on(bound, subject.effect),
                ("resource", index),
            )


def _decided_on(actions: list[KnownAction], effect: Effect) -> str:
    first = actions[0]
    kinds = sorted(kind.text for kind in first.kinds(effect))
    return f"`{first.name}` is decided on {', '.join(f'`{kind}`' for kind in kinds)}"


def _conditions(subject: Subject) -> Iterator[Remark]:
    key = impossible_key(subject.statement.conditions)
    if key is not None:
        message = f"the conditions on `{key}` exclude each other: no call can meet them all"
        yield Remark("contradiction", message, path=("condition",))
    words = subject.words
    for one in subject.statement.conditions:
        if is_carried(one.key):
            continue
        where = ("condition", one.name, one.key)
        if is_foreign(one.key, words.served):
            message = f"`{one.key}` is never carried by a call that comes here"
            yield Remark("foreign-key", message, path=where)
        else:
            like = closest(one.key, CALL_KEYS | RESOURCE_KEYS)
            hint = f"did you mean `{like}`?" if like else ""
            yield Remark("unknown-key", f"no call carries the key `{one.key}`", hint, where)


def _others(subject: Subject) -> Iterator[Remark]:
    """Other statements of the document that make this one idle."""
    statement = subject.statement
    for other in subject.document.statements:
        if other is statement or not statement_inside(statement, other):
            continue
        if subject.effect is other.effect:
            if statement_inside(other, statement) and other.index > statement.index:
                continue  # they say the same: the later one is told
            message = f"statement {other.index} says this already"
            yield Remark("redundant", message, "leave it out")
            return
        if subject.effect is Effect.ALLOW and not other.conditions:
            message = f"statement {other.index} denies all of this"
            yield Remark("allow-inside-deny", message)
            return


def _width(subject: Subject) -> Iterator[Remark]:
    statement = subject.statement
    if subject.effect is Effect.DENY or statement.conditions or not subject.is_granting:
        return
    if not any(one.text == "*" for one in statement.resources):
        return
    for index, action in enumerate(statement.actions):
        if action.folded == "*" or action.folded.endswith(":*"):
            message = f"`{action.text}` is allowed on every resource"
            hint = "name the actions, as `Describe*` does, or the resources"
            yield Remark("too-wide", message, hint, ("action", index))


CHECKS: tuple[Callable[[Subject], Iterator[Remark]], ...] = (
    _actions,
    _places,
    _types,
    _pairs,
    _conditions,
    _others,
    _width,
)
