"""The decision, and why: everybody's only way to ask what a principal may do."""

from collections.abc import Callable
from functools import partial

from msgspec.structs import replace

from gateway.call import Decision, Effect, Reason, Scope
from gateway.policy.decision import (
    Explanation,
    ShadowVerdict,
    determinant,
    determining,
    find_fixes,
    nearest_miss,
)
from gateway.policy.match import Query
from gateway.policy.scope import Listing, scope_of, showing
from gateway.policy.snapshot import Candidate, Rights, Snapshot
from gateway.policy.verdict import Evaluator, Rules, Verdict, effect_of

ENTRIES_MAX = 32_768
"""Callers that are remembered with what was worked out for them; as many again from before."""


class DecisionPoint:
    """Decides queries on the current snapshot. May be used by several threads."""

    def __init__(self, evaluator: Evaluator, snapshot: Snapshot) -> None:
        self._evaluator = evaluator
        self._moment = _Moment(evaluator, snapshot, before={})

    @property
    def snapshot(self) -> Snapshot:
        """The snapshot that decisions are made on now."""
        return self._moment.snapshot

    def swap(self, snapshot: Snapshot) -> None:
        """Decide on `snapshot` from now on; a decision under way keeps the old one.

        What was worked out for principals whose policies are the same objects as before is kept.
        """
        self._moment = _Moment(self._evaluator, snapshot, before=self._moment.entries)

    def decide(self, query: Query) -> Decision:
        """Answer "may they?". Every resource must be allowed; the first that is not is named.

        A query without resources is denied, for there is nothing an allow could match, except to
        the root account: a list is decided by `scope`.
        """
        return self._moment.decide(query)

    def reads_resources(self, query: Query) -> bool:
        """Whether the query can only be decided with the attributes of its resources."""
        return self._moment.reads_resources(query)

    def scope(self, query: Query, *, resource_type: str, region: str) -> Scope:
        """Give the ids of one type, such as `job`, that the query's action is allowed on."""
        return self._moment.scope(query, Listing(resource_type, region))

    def decide_list(
        self, query: Query, *, resource_type: str, region: str
    ) -> tuple[Decision, Scope]:
        """Decide a list without ids: it shows what the caller may see, or is denied if nothing.

        The query's resource is the whole type, such as `job/*`: its answer tells why, if nothing
        is left to show.
        """
        return self._moment.decide_list(query, Listing(resource_type, region))

    def explain(self, query: Query) -> Explanation:
        """Decide, and say why; slower."""
        return self._moment.explain(query)

    def explain_list(self, query: Query, *, resource_type: str, region: str) -> Explanation:
        """What `decide_list` decides, and why."""
        return self._moment.explain_list(query, Listing(resource_type, region))

    @property
    def explain_as_now(self) -> Callable[[Query], Explanation]:
        """`explain` on the snapshot in force now, also when it is called after a change."""
        return self._moment.explain

    def explain_list_as_now(
        self, *, resource_type: str, region: str
    ) -> Callable[[Query], Explanation]:
        """`explain_list` on the snapshot in force now, also when it is called after a change."""
        return partial(self._moment.explain_list, listing=Listing(resource_type, region))


Caller = tuple[str, str, str, str, str]
"""owner, uin, role, session policy, action"""


class _Entry:
    """What is worked out for one caller: rights and rules, and for explanations the candidates."""

    __slots__ = ("_candidates", "action", "enforced", "rights", "rules")

    def __init__(self, rights: Rights, enforced: Rights, rules: Rules, action: str) -> None:
        self.rights = rights
        self.enforced = enforced
        self.rules = rules
        self.action = action
        self._candidates: tuple[Candidate, ...] | None = None

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """The statements in force that speak of the action."""
        if self._candidates is None:
            self._candidates = tuple(self.enforced.candidates(self.action))
        return self._candidates


class _Moment:
    """One snapshot, and what was worked out on it.

    before: the entries of the moment before, still good for whoever has the same policies.
    """

    def __init__(
        self, evaluator: Evaluator, snapshot: Snapshot, *, before: dict[Caller, _Entry]
    ) -> None:
        self.snapshot = snapshot
        self.entries: dict[Caller, _Entry] = {}
        self._rules_of: dict[Caller, Rules] = {}  # of the entries: one object less to fetch
        self._before = before
        self._evaluator = evaluator

    def decide(self, query: Query) -> Decision:
        principal = query.principal
        rules = self._rules_of.get(
            (
                principal.owner_uin,
                principal.uin,
                principal.role,
                principal.session_policy,
                query.action,
            )
        )
        reason, resource = (rules or self._rules(query)).settle(query)
        if query.deny_only_action and effect_of(reason) is Effect.ALLOW:
            (reason, resource), _ = self._settle(query, self._rules)
        return Decision(effect_of(reason), reason, resource, self.snapshot.generation)

    def _settle(self, query: Query, rules_of: Callable[[Query], Rules]) -> tuple[Verdict, Query]:
        """The verdict, and the query it was given on: this one, or the one besides."""
        verdict = rules_of(query).settle(query)
        besides = query.besides
        if besides is not None and effect_of(verdict[0]) is Effect.ALLOW:
            other = rules_of(besides).settle(besides)
            if other[0] is Reason.EXPLICIT_DENY:
                return other, besides
        return verdict, query

    def reads_resources(self, query: Query) -> bool:
        asked = [query] if query.besides is None else [query, query.besides]
        return any(self._reads_resources(one) for one in asked)

    def _reads_resources(self, query: Query) -> bool:
        entry = self._entry(query)
        if entry.rules.reads_resources:
            return True
        has_shadow = entry.rights is not entry.enforced
        return has_shadow and self._work_out(entry.rights, query).reads_resources

    def scope(self, query: Query, listing: Listing) -> Scope:
        return scope_of(self._entry(query).enforced, query, listing)

    def decide_list(self, query: Query, listing: Listing) -> tuple[Decision, Scope]:
        scope = self.scope(query, listing)
        decision = self.decide(query)
        if decision.allowed or scope.is_nothing:
            return decision, scope
        reason = Reason.ROOT if query.principal.is_root else Reason.EXPLICIT_ALLOW
        return replace(decision, effect=Effect.ALLOW, reason=reason), scope

    def explain(self, query: Query) -> Explanation:
        verdict, asked = self._settle(query, self._rules)
        entry = self._entry(asked)
        return Explanation(
            decision=self._decision(verdict),
            determining=determining(entry.candidates, asked, verdict),
            nearest_miss=nearest_miss(entry.enforced, asked, verdict),
            fixes=find_fixes(self._rules(query), entry.enforced, query, verdict=verdict),
            shadow=None if entry.rights is entry.enforced else self._shadow(entry.rights, query),
        )

    def explain_list(self, query: Query, listing: Listing) -> Explanation:
        explanation = self.explain(query)
        decision, _ = self.decide_list(query, listing)
        if decision == explanation.decision:
            return explanation
        rights = self._entry(query).enforced
        shown = (determinant(one.candidate, one.pattern) for one in showing(rights, query, listing))
        return Explanation(
            decision=decision,
            determining=tuple(dict.fromkeys(shown)),
            nearest_miss=None,
            fixes=(),
            shadow=explanation.shadow,
        )

    def _shadow(self, rights: Rights, query: Query) -> ShadowVerdict:
        verdict, asked = self._settle(query, partial(self._work_out, rights))
        candidates = rights.candidates(asked.action)
        return ShadowVerdict(self._decision(verdict), determining(candidates, asked, verdict))

    def _decision(self, verdict: Verdict) -> Decision:
        reason, resource = verdict
        return Decision(effect_of(reason), reason, resource, self.snapshot.generation)

    def _rules(self, query: Query) -> Rules:
        return self._entry(query).rules

    def _entry(self, query: Query) -> _Entry:
        principal = query.principal
        caller = (
            principal.owner_uin,
            principal.uin,
            principal.role,
            principal.session_policy,
            query.action,
        )
        entry = self.entries.get(caller)
        return self._make_entry(caller, query) if entry is None else entry

    def _make_entry(self, caller: Caller, query: Query) -> _Entry:
        rights = self.snapshot.rights(query.principal)
        entry = self._before.get(caller)
        if entry is None or entry.rights != rights:
            enforced = rights.enforced()
            entry = _Entry(rights, enforced, self._work_out(enforced, query), query.action)
        if len(self.entries) >= ENTRIES_MAX:
            self._before, self.entries, self._rules_of = self.entries, {}, {}
        self.entries[caller] = entry
        self._rules_of[caller] = entry.rules
        return entry

    def _work_out(self, rights: Rights, query: Query) -> Rules:
        return self._evaluator.rules(self.snapshot, rights, query)
