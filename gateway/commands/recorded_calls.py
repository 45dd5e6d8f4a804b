"""Calls that were once made, read from the decision log or from an export of it."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import msgspec
from msgspec import UNSET, UnsetType

from gateway.call import Effect, Principal, Resource
from gateway.clock import wire_time
from gateway.commands.asking import deny_only_action, resource_named
from gateway.policy.condition import Context, caller_context
from gateway.policy.match import Query
from gateway.policy.question import Question, RecordedCall
from gateway.policy.record import Outcome
from gateway.service import Wire


class Unreadable(ValueError):
    """A record that is none."""


class Caller(Wire, forbid_unknown_fields=False):
    """Who made a call, as a record says it."""

    owner_uin: str
    uin: str
    name: str
    role: str = ""
    session: str = ""
    session_policy: str | None = None


class Settled(Wire, forbid_unknown_fields=False):
    """What settled a decision: of it only the pattern."""

    pattern: str = ""


class Record(Wire, forbid_unknown_fields=False):
    """The members of a decision record by which it can be decided again.

    Those with a default are missing in older records.
    """

    request_id: str
    time: datetime
    principal: Caller
    action: str
    region: str
    source_ip: str
    resources: tuple[str, ...]
    effect: Outcome
    determining: tuple[Settled, ...] = ()
    deny_only: tuple[str, ...] | None = None
    deny_only_action: str | None = None
    listed: str | UnsetType | None = UNSET
    context: dict[str, tuple[str, ...]] | None = None
    attributes: dict[str, dict[str, tuple[str, ...]]] | None = None

    @property
    def is_partial(self) -> bool:
        """Whether something is missing that the decision may have rested on."""
        needed = (self.deny_only, self.context, self.attributes, self.principal.session_policy)
        return None in needed or self.listed is UNSET


class Exported(Wire, forbid_unknown_fields=False):
    """A line of `decisions export`, or a bare record, which has no such member."""

    record: msgspec.Raw | UnsetType = UNSET


_EXPORTED = msgspec.json.Decoder(Exported)
_RECORD = msgspec.json.Decoder(Record)


def read_file(file: Path) -> Iterator[RecordedCall]:
    """Give the calls of an export, line by line. Raises OSError or Unreadable."""
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    call = read_call(line)
                except Unreadable as error:
                    raise Unreadable(f"{file}, line {number}: {error}") from error
                if call is not None:
                    yield call


def read_call(text: bytes) -> RecordedCall | None:
    """Read one record, bare or as exported; None if nothing was decided. Raises Unreadable."""
    try:
        inner = _EXPORTED.decode(text).record
        record = _RECORD.decode(text if isinstance(inner, UnsetType) else inner)
        if record.effect is Outcome.REFUSED:
            return None
        question = Question(_query(record), record.listed or "")
        effect = Effect(record.effect.value)
    except ValueError as error:
        raise Unreadable(f"this is no recorded call: {error}") from error
    return RecordedCall(
        request_id=record.request_id,
        time=record.time,
        question=question,
        effect=effect,
        is_partial=record.is_partial,
        shown_by=tuple(one.pattern for one in record.determining) if record.listed else (),
    )


def _query(record: Record) -> Query:
    principal = _principal(record.principal)

    def read(text: str) -> Resource:
        return resource_named(
            text, action=record.action, owner_uin=principal.owner_uin, region=record.region
        )

    deny_only = tuple(read(text) for text in record.deny_only or ())
    second = record.deny_only_action
    if second is None:
        second = deny_only_action(record.action, deny_only)
    return Query(
        principal=principal,
        action=record.action,
        resources=tuple(read(text) for text in record.resources),
        deny_only=deny_only,
        context=_context(record),
        attributes={read(text): found for text, found in (record.attributes or {}).items()},
        deny_only_action=second,
    )


def _principal(caller: Caller) -> Principal:
    return Principal(
        owner_uin=caller.owner_uin,
        uin=caller.uin,
        name=caller.name,
        role=caller.role,
        session=caller.session,
        session_policy=caller.session_policy or "",
    )


def _context(record: Record) -> Context:
    if record.context is not None:
        return record.context
    return {
        "qcs:ip": (record.source_ip,),
        "qcs:current_time": (wire_time(record.time),),
        **caller_context(_principal(record.principal)),
    }
