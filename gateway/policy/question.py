"""What is asked of a decision point: one call or one list, from the log or made up."""

from dataclasses import dataclass
from datetime import datetime

from gateway.call import Decision, Effect, Principal, Resource, Scope
from gateway.policy.decision import Explanation
from gateway.policy.decision_point import DecisionPoint
from gateway.policy.match import Query
from gateway.policy.resource import SEGMENTS


@dataclass(frozen=True, slots=True)
class Question:
    """A query, and whether it is a list without ids.

    lists: the type that is listed, such as "job"; the query's one resource is then all of it,
    `job/*`. Empty for every other call.
    """

    query: Query
    lists: str = ""

    def decide(self, policies: DecisionPoint) -> "Answer":
        """The answer; for a list, what it shows besides."""
        if not self.lists:
            return Answer(policies.decide(self.query))
        decision, scope = policies.decide_list(
            self.query, resource_type=self.lists, region=self._region
        )
        return Answer(decision, scope if decision.allowed else None)

    def explain(self, policies: DecisionPoint) -> Explanation:
        """The answer, and why; slower."""
        if not self.lists:
            return policies.explain(self.query)
        return policies.explain_list(self.query, resource_type=self.lists, region=self._region)

    @property
    def _region(self) -> str:
        return self.query.resources[0].region


@dataclass(frozen=True, slots=True)
class Answer:
    """A decision. scope: what a list that is allowed shows; None for every other call."""

    decision: Decision
    scope: Scope | None = None


@dataclass(frozen=True, slots=True)
class RecordedCall:
    """A call that was once made, as the decision log keeps it.

    effect: what was decided then. is_partial: the record does not hold everything that the
    decision rested on, so deciding it again may give another answer under the same policies.
    shown_by: for a list, the resource patterns that it was shown by.
    """

    request_id: str
    time: datetime
    question: Question
    effect: Effect
    is_partial: bool = False
    shown_by: tuple[str, ...] = ()


def read_caller(text: str) -> Principal:
    """Read `owner/uin`, such as `100/200`; the account itself is `100/100`. Raises ValueError."""
    owner, slash, uin = text.partition("/")
    if not (slash and owner.isdecimal() and uin.isdecimal()):
        raise ValueError(f"the caller `{text}` is not `owner/uin`")
    return Principal(owner_uin=owner, uin=uin, name="root" if owner == uin else uin)


def read_resource(text: str, *, service: str, region: str, owner_uin: str) -> Resource:
    """Read what a call touches: six segments, or `*` for an action without resource level.

    service, region, owner_uin: what `*` is asked in. Raises ValueError.
    """
    if text == "*":
        return Resource(service, region, owner_uin, "*")
    segments = text.split(":", SEGMENTS - 1)
    if len(segments) != SEGMENTS or segments[0] != "qcs" or not segments[4].startswith("uin/"):
        raise ValueError(f"the resource `{text}` is not `qcs::service:region:uin/number:path`")
    _, _, service, region, account, path = segments
    return Resource(service, region, account.removeprefix("uin/"), path)
