"""The decision, and why: everybody's only way to ask what a principal may do."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial

from msgspec import structs

from gateway.call import Decision, Effect, Principal, Reason, Resource, Scope
from gateway.policy.decision import (
    Determinant,
    Explanation,
    NearestMiss,
    ShadowVerdict,
    denied_by_trust,
    determinant,
    determining,
    find_fixes,
    nearest_miss,
    trust_miss,
)
from gateway.policy.match import Query, app_id_of
from gateway.policy.scope import Listing, Shown, find_shown, scope_of, showing
from gateway.policy.snapshot import Candidate, DeclaredRole, Rights, Snapshot
from gateway.policy.trust import ASSUME_ROLE, settling
from gateway.policy.verdict import Evaluator, Rules, Verdict, effect_of

ENTRIES_MAX = 32_768
"""Callers that are remembered with what was worked out for them; as many again from before."""
SESSION_ENTRIES_MAX = 1_024
"""So many of them with a policy of their session, each of which is the caller's own invention."""
EXPLAINED_MAX = 4_096
"""Explanations that are remembered."""
EXPLAINED_RESOURCES_MAX = 4
"""Of calls on no more resources than these."""
LISTINGS_MAX = 16
"""Lists that are remembered of a caller: bounded, for a caller may invent regions."""


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

        What was worked out since the swap before is kept for whoever has the same policies.
        """
        self._moment = _Moment(self._evaluator, snapshot, before=self._moment.entries)

    def decide(self, query: Query) -> Decision:
        """Answer "may they?". Every resource must be allowed; the first that is not is named.

        Without resources see `Rules.settle`; a list is decided by `decide_list`.
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
Asked = tuple[Principal, str, tuple[Resource, ...], tuple[Resource, ...], str, str]
"""principal, action, resources, deny_only, deny_only_action, app id"""


class _Entry:
    """What is worked out for one caller: rights and rules, and the rest when it is asked for.

    rights: with the policies that are only watched; enforced: without them, the very same object
    if there are none.
    """

    __slots__ = (
        "_candidates",
        "_has_conditions",
        "_shown",
        "action",
        "enforced",
        "rights",
        "rules",
        "shadow_rules",
    )

    def __init__(self, rights: Rights, *, action: str) -> None:
        self.rights = rights
        self.enforced = rights.enforced()
        self.action = action
        self.rules: Rules
        self.shadow_rules: Rules | None = None
        self._candidates: tuple[Candidate, ...] | None = None
        self._has_conditions: bool | None = None
        self._shown: dict[Listing, tuple[Shown, ...]] = {}

    @property
    def has_shadow(self) -> bool:
        """Whether the caller has a policy that is only watched."""
        return self.rights is not self.enforced

    @property
    def has_conditions(self) -> bool:
        """Whether any statement of the caller has one, be it of another action."""
        if self._has_conditions is None:
            self._has_conditions = self.rights.has_conditions
        return self._has_conditions

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """The statements in force that speak of the action."""
        if self._candidates is None:
            self._candidates = tuple(self.enforced.candidates(self.action))
        return self._candidates

    def shown(self, query: Query, listing: Listing) -> tuple[Shown, ...]:
        """The patterns of ids of the statements in force."""
        if "qcs:app_id" in query.context:  # which is the query's, not the caller's
            return find_shown(self.enforced, query, listing)
        shown = self._shown.get(listing)
        if shown is None:
            if len(self._shown) >= LISTINGS_MAX:
                self._shown.clear()
            shown = self._shown[listing] = find_shown(self.enforced, query, listing)
        return shown


class _Moment:
    """One snapshot, and what was worked out on it.

    before: the entries of the moment before, still good for whoever has the same policies.
    """

    def __init__(
        self, evaluator: Evaluator, snapshot: Snapshot, *, before: dict[Caller, _Entry]
    ) -> None:
        self.snapshot = snapshot
        self.entries: dict[Caller, _Entry] = {}
        self._explained: dict[Asked, Explanation] = {}
        self._sessions = 0  # entries with a session policy, which are large
        self._before = before
        self._evaluator = evaluator

    def decide(self, query: Query) -> Decision:
        if query.deny_only_action or query.action == ASSUME_ROLE:
            return self._decision(self._settle(query, self._rules)[0])
        reason, resource = self._entry(query).rules.settle(query)
        return Decision(effect_of(reason), reason, resource, self.snapshot.generation)

    def _settle(self, query: Query, rules_of: Callable[[Query], Rules]) -> tuple[Verdict, Query]:
        """The verdict, and the query it was given on: this one, or the one besides."""
        roles = self._roles(query)
        if roles:  # what is denied by either name of a role is denied
            others = tuple(role.other_name for role in roles.values())
            query = structs.replace(query, deny_only=query.deny_only + others)
        verdict = rules_of(query).settle(query)
        if verdict[0] is not Reason.EXPLICIT_DENY:
            verdict = self._distrust(query, roles, otherwise=verdict)
        if effect_of(verdict[0]) is Effect.DENY:
            return verdict, query
        besides = query.besides
        if besides is not None:
            other = rules_of(besides).settle(besides)
            if other[0] is Reason.EXPLICIT_DENY:
                return other, besides
        return verdict, query

    def _distrust(
        self, query: Query, roles: Mapping[Resource, DeclaredRole], *, otherwise: Verdict
    ) -> Verdict:
        """What trust policies have against it: a deny, or that nothing in one lets the caller in.

        otherwise: what policies say, none of which denies; what they lack is told first.
        """
        verdict = otherwise
        for resource, role in roles.items():
            statements = settling(role.trust, query.principal, context=query.context)
            if any(one.effect is Effect.DENY for one in statements):
                return Reason.EXPLICIT_DENY, resource
            if not statements and effect_of(verdict[0]) is Effect.ALLOW:
                verdict = Reason.IMPLICIT_DENY, resource
        return verdict

    def _roles(self, query: Query) -> dict[Resource, DeclaredRole]:
        """The roles of the caller's account that a call takes on, as far as they are declared."""
        if query.action != ASSUME_ROLE:
            return {}
        owner_uin = query.principal.owner_uin
        own = [one for one in query.resources if one.owner_uin == owner_uin]
        found = {one: self.snapshot.role_at(one) for one in own}
        return {one: role for one, role in found.items() if role is not None}

    def reads_resources(self, query: Query) -> bool:
        if self._reads_resources(query):
            return True
        besides = query.besides
        return besides is not None and self._reads_resources(besides)

    def _reads_resources(self, query: Query) -> bool:
        entry = self._entry(query)
        if entry.rules.reads_resources:
            return True
        return entry.has_shadow and self._shadow_rules(query).reads_resources

    def scope(self, query: Query, listing: Listing) -> Scope:
        entry = self._entry(query)
        return scope_of(entry.shown(query, listing), query, rights=entry.enforced)

    def decide_list(self, query: Query, listing: Listing) -> tuple[Decision, Scope]:
        scope = self.scope(query, listing)
        rights = self._entry(query).enforced
        return _of_list(self.decide(query), scope, rights=rights), scope

    def explain(self, query: Query) -> Explanation:
        """Explain, or remember: whoever polls asks the same again and again."""
        asked = self._without_what_is_unread(query)
        if asked is None:
            return self._explain(query)
        found = self._explained.get(asked)
        if found is None:
            found = self._explain(query)
            if len(self._explained) >= EXPLAINED_MAX:
                self._explained.clear()
            self._explained[asked] = found
        return found

    def _without_what_is_unread(self, query: Query) -> Asked | None:
        """What alone an explanation depends on; None if it may be more, or too much to keep.

        Conditions read what is known of the call, and so do trust policies.
        """
        principal = query.principal
        many = len(query.resources) + len(query.deny_only) > EXPLAINED_RESOURCES_MAX
        if many or principal.session_policy or query.action == ASSUME_ROLE:
            return None
        if self._entry(query).has_conditions:
            return None
        named = (query.resources, query.deny_only, query.deny_only_action)
        return principal, query.action, *named, app_id_of(query.context)

    def _explain(self, query: Query) -> Explanation:
        verdict, asked = self._settle(query, self._rules)
        entry = self._entry(asked)
        miss = self._mistrust(asked, verdict) or nearest_miss(entry.enforced, asked, verdict)
        rules = self._rules(query)
        return Explanation(
            decision=self._decision(verdict),
            determining=self._determining(entry.candidates, asked, verdict=verdict),
            nearest_miss=miss,
            fixes=()
            if self._is_denied_besides(query)
            else find_fixes(rules, entry.enforced, query, verdict=verdict, miss=miss),
            shadow=self._shadow(query) if entry.has_shadow else None,
        )

    def explain_list(self, query: Query, listing: Listing) -> Explanation:
        explanation = self.explain(query)
        entry = self._entry(query)
        decision, by = _list_settled(
            explanation.decision, entry.shown(query, listing), query=query, rights=entry.enforced
        )
        if by:
            explanation = replace(
                explanation, decision=decision, determining=by, nearest_miss=None, fixes=()
            )
        if explanation.shadow is None:
            return explanation
        watched = find_shown(entry.rights, query, listing)
        decision, by = _list_settled(
            explanation.shadow.decision, watched, query=query, rights=entry.rights
        )
        return replace(explanation, shadow=ShadowVerdict(decision, by)) if by else explanation

    def _is_denied_besides(self, query: Query) -> bool:
        besides = query.besides
        return (
            besides is not None and self._rules(besides).settle(besides)[0] is Reason.EXPLICIT_DENY
        )

    def _mistrust(self, query: Query, verdict: Verdict) -> NearestMiss | None:
        """What a role's trust policy asks for, if that is what the caller fails."""
        reason, resource = verdict
        role = self._roles(query).get(resource) if resource is not None else None
        if role is None or reason is not Reason.IMPLICIT_DENY:
            return None
        if self._rules(query).settle(query)[0] is reason:
            return None
        return trust_miss(role.trust, query)

    def _shadow(self, query: Query) -> ShadowVerdict:
        verdict, asked = self._settle(query, self._shadow_rules)
        candidates = self._entry(asked).rights.candidates(asked.action)
        settled = self._determining(candidates, asked, verdict=verdict)
        return ShadowVerdict(self._decision(verdict), settled)

    def _determining(
        self, candidates: Iterable[Candidate], query: Query, *, verdict: Verdict
    ) -> tuple[Determinant, ...]:
        """The statements that settled a verdict, be they of policies or of a role's trust."""
        reason, resource = verdict
        settled = determining(candidates, query, verdict)
        role = self._roles(query).get(resource) if resource is not None else None
        if role is None or reason is not Reason.EXPLICIT_DENY:
            return settled
        return settled + denied_by_trust(role.trust, query)

    def _decision(self, verdict: Verdict) -> Decision:
        reason, resource = verdict
        return Decision(effect_of(reason), reason, resource, self.snapshot.generation)

    def _rules(self, query: Query) -> Rules:
        return self._entry(query).rules

    def _shadow_rules(self, query: Query) -> Rules:
        entry = self._entry(query)
        if entry.shadow_rules is None:
            entry.shadow_rules = self._work_out(entry.rights, query)
        return entry.shadow_rules

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
            entry = _Entry(rights, action=query.action)
            entry.rules = self._work_out(entry.enforced, query)
        if query.principal.session_policy:
            self._sessions += 1
        if len(self.entries) >= ENTRIES_MAX or self._sessions > SESSION_ENTRIES_MAX:
            self._before, self.entries = self.entries, {}
            self._sessions = 0
        self.entries[caller] = entry
        return entry

    def _work_out(self, rights: Rights, query: Query) -> Rules:
        return self._evaluator.rules(self.snapshot, rights, query)


def _of_list(decision: Decision, scope: Scope, *, rights: Rights) -> Decision:
    """What is decided of a list, from the decision on its whole type and what it may show."""
    if decision.allowed or scope.is_nothing:
        return decision
    reason = Reason.ROOT if rights.is_root else Reason.EXPLICIT_ALLOW
    return structs.replace(decision, effect=Effect.ALLOW, reason=reason)


def _list_settled(
    decision: Decision, shown: tuple[Shown, ...], *, query: Query, rights: Rights
) -> tuple[Decision, tuple[Determinant, ...]]:
    """What is decided of a list, and by what it is shown; by nothing if that changes nothing."""
    of_list = _of_list(decision, scope_of(shown, query, rights=rights), rights=rights)
    if of_list is decision:
        return decision, ()
    by = (determinant(one.candidate, one.pattern) for one in showing(shown, query))
    return of_list, tuple(dict.fromkeys(by))
