"""What is asked of a decision point: one call or one list, from the log or made up."""

from dataclasses import dataclass
from datetime import datetime

from gateway.call import Decision, Effect, Scope
from gateway.policy.decision import Explanation
from gateway.policy.decision_point import DecisionPoint
from gateway.policy.match import Query


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
    """

    request_id: str
    time: datetime
    question: Question
    effect: Effect
    is_partial: bool = False
