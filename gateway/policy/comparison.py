"""What a change of policies opens and closes: the same calls, decided under two sets of them."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from gateway.call import Clause, Reason, Scope
from gateway.policy.decision_point import DecisionPoint
from gateway.policy.pattern import fits
from gateway.policy.question import Answer, Question, RecordedCall


class Shift(Enum):
    """How an answer differs from the one before."""

    NEWLY_ALLOWED = "newly-allowed"
    NEWLY_DENIED = "newly-denied"
    SHOWS_MORE = "shows-more"
    SHOWS_LESS = "shows-less"
    SHOWS_OTHER = "shows-other"
    OTHER_REASON = "other-reason"


OPENING = frozenset({Shift.NEWLY_ALLOWED, Shift.SHOWS_MORE, Shift.SHOWS_OTHER})
CLOSING = frozenset({Shift.NEWLY_DENIED, Shift.SHOWS_LESS, Shift.SHOWS_OTHER})


def find_shift(before: Answer, after: Answer) -> Shift | None:
    """Compare two answers to one question; None if they are the same."""
    if before.decision.effect is not after.decision.effect:
        return Shift.NEWLY_ALLOWED if after.decision.allowed else Shift.NEWLY_DENIED
    if before.scope is not None and after.scope is not None and before.scope != after.scope:
        return _shift_of_list(before.scope, after.scope)
    return None if before.decision.reason is after.decision.reason else Shift.OTHER_REASON


def _shift_of_list(before: Scope, after: Scope) -> Shift | None:
    """Compare what a list shows.

    Why it errs towards a difference: an id may exist that tells two patterns apart, and whoever
    guards a change wants to look at it rather than not.
    """
    narrower, wider = _is_within(after, before), _is_within(before, after)
    if narrower and wider:
        return None
    if wider:
        return Shift.SHOWS_MORE
    return Shift.SHOWS_LESS if narrower else Shift.SHOWS_OTHER


def _is_within(inner: Scope, outer: Scope) -> bool:
    """Tell whether everything in `inner` is certainly in `outer`."""
    return all(
        any(all(_is_allowed_by(one, wanted) for one in layer) for layer in inner.allow)
        for wanted in outer.allow
    ) and all(_is_denied_by(one, inner.deny) for one in outer.deny)


def _is_allowed_by(clause: Clause, wider: Iterable[Clause]) -> bool:
    """Tell whether whatever fits a clause certainly fits one of the others."""
    return any(
        _fits_pattern_of(clause, one) and set(one.tests) <= set(clause.tests) for one in wider
    )


def _is_denied_by(clause: Clause, wider: Iterable[Clause]) -> bool:
    """Why not with fewer tests, too: a deny with a test more, which cannot be judged, applies."""
    return any(
        _fits_pattern_of(clause, one) and set(one.tests) == set(clause.tests) for one in wider
    )


def _fits_pattern_of(clause: Clause, other: Clause) -> bool:
    """Compare the texts: a `*` of the clause is then only ever taken in by a `*` of the other."""
    return fits(other.pattern, clause.pattern)


@dataclass(frozen=True, slots=True)
class Kind:
    """What calls have in common that are counted together.

    role: the role that was taken on, or "". before, after: the reasons.
    """

    shift: Shift
    owner_uin: str
    uin: str
    name: str
    role: str
    action: str
    before: Reason
    after: Reason


@dataclass(frozen=True, slots=True)
class Difference:
    """Calls that are answered otherwise. example: the RequestId of the first of them."""

    kind: Kind
    calls: int
    example: str


class Comparison:
    """Decides recorded calls under two snapshots, and counts what differs.

    calls: all of them. partial: those whose record does not hold everything. otherwise_recorded:
    those that the log says were answered otherwise than the first snapshot answers them.
    """

    def __init__(self, before: DecisionPoint, after: DecisionPoint) -> None:
        self.calls = 0
        self.partial = 0
        self.otherwise_recorded = 0
        self._before = before
        self._after = after
        self._counts: dict[Kind, int] = {}
        self._examples: dict[Kind, str] = {}

    def add(self, call: RecordedCall) -> None:
        """Decide one more call."""
        before = call.question.decide(self._before)
        after = call.question.decide(self._after)
        self.calls += 1
        self.partial += call.is_partial
        self.otherwise_recorded += before.decision.effect is not call.effect
        shift = find_shift(before, after)
        if shift is None:
            return
        kind = _kind(shift, call.question, before=before, after=after)
        self._counts[kind] = self._counts.get(kind, 0) + 1
        self._examples.setdefault(kind, call.request_id)

    @property
    def differences(self) -> tuple[Difference, ...]:
        """What differs: in the order of `Shift`, the most frequent first."""
        found = (Difference(kind, n, self._examples[kind]) for kind, n in self._counts.items())
        order = list(Shift)
        return tuple(sorted(found, key=lambda one: (order.index(one.kind.shift), -one.calls)))

    @property
    def opens(self) -> bool:
        """Whether something is allowed or shown that was not."""
        return any(kind.shift in OPENING for kind in self._counts)

    @property
    def closes(self) -> bool:
        """Whether something is denied or hidden that was not."""
        return any(kind.shift in CLOSING for kind in self._counts)


def _kind(shift: Shift, question: Question, *, before: Answer, after: Answer) -> Kind:
    principal = question.query.principal
    return Kind(
        shift=shift,
        owner_uin=principal.owner_uin,
        uin=principal.uin,
        name=principal.name,
        role=principal.role,
        action=question.query.action,
        before=before.decision.reason,
        after=after.decision.reason,
    )
