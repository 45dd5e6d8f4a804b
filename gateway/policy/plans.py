"""The compiled evaluator: keeps the plans of those who call, within bounds."""

from collections.abc import Iterable
from weakref import WeakValueDictionary

from gateway.policy.match import Query, matches_action, variables
from gateway.policy.plan import Plan
from gateway.policy.snapshot import Held, Policy, Rights, Snapshot
from gateway.policy.verdict import Rules

Shared = tuple[str, str, str, tuple[Policy, ...]]
"""What a plan is made of: owner, uin if a pattern asks for it, action, policies."""


class PlanEvaluator:
    """Folds statements into plans. Those of the same policies are shared between principals."""

    def __init__(self) -> None:
        self._shared: WeakValueDictionary[Shared, Plan] = WeakValueDictionary()

    def rules(self, snapshot: Snapshot, rights: Rights, query: Query) -> Rules:
        """The rules of the query's principal and action. rights: the principal's own."""
        del snapshot  # everything is in the rights
        return Rules(rights, [self._plan(held, query) for _, held in rights.layers])

    def _plan(self, held: Iterable[Held], query: Query) -> Plan:
        principal, action = query.principal, query.action
        policies = tuple(dict.fromkeys(one.policy for one in held))
        for uin in ("", principal.uin):
            plan = self._shared.get((principal.owner_uin, uin, action, policies))
            if plan is not None:
                return plan
        statements = [
            statement
            for policy in policies
            for statement in policy.document.statements
            if matches_action(statement, action)
        ]
        plan = Plan(statements, variables(principal))
        uin = principal.uin if plan.has_variables else ""
        self._shared[principal.owner_uin, uin, action, policies] = plan
        return plan
