"""What would happen if: policies with changes that nobody has made, and what they would change."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from msgspec import structs

from gateway.call import Principal
from gateway.policy.accounts import Account, Mode
from gateway.policy.comparison import Shift, find_shift
from gateway.policy.decision import Explanation
from gateway.policy.decision_point import DecisionPoint
from gateway.policy.document import Document
from gateway.policy.question import Answer, Question
from gateway.policy.refusal import PolicySetRefused
from gateway.policy.snapshot import (
    Policy,
    Snapshot,
    group_subject,
    policy_key,
    role_subject,
    subject_of,
    user_subject,
)

SUPPOSED = "supposed "
"""Begins the keys of policies that are only supposed; no declared name has a blank in it."""


def holders(snapshot: Snapshot, written: str, *, owner_uin: str) -> tuple[str, ...]:
    """The subjects meant by `user/alice`, `group/readers`, `role/x` or `everyone`.

    Raises PolicySetRefused if the account declares none of that name.
    """
    found = [
        subject
        for account in snapshot.accounts
        if account.uin == owner_uin
        for name, subject in _subjects(account)
        if written == name or (written == "everyone" and not name.startswith("group/"))
    ]
    if not found:
        raise PolicySetRefused(
            f"account {owner_uin} declares no `{written}`: it is user/NAME, group/NAME, role/NAME"
            " or everyone"
        )
    return tuple(found)


def _subjects(account: Account) -> Iterator[tuple[str, str]]:
    for user in account.users:
        yield f"user/{user.name}", user_subject(account.uin, user.uin)
    for group in account.groups:
        yield f"group/{group.name}", group_subject(account.uin, group.name)
    for role in account.roles:
        yield f"role/{role.name}", role_subject(account.uin, role.name)


def with_policy(
    snapshot: Snapshot, document: Document, *, owner_uin: str, subjects: Iterable[str]
) -> Snapshot:
    """The same with one more policy, which these subjects have."""
    snapshot, key = _with_document(snapshot, document, owner_uin=owner_uin)
    more = {one: (*snapshot.attached.get(one, ()), key) for one in dict.fromkeys(subjects)}
    return replace(snapshot, attached={**snapshot.attached, **more})


def without_policy(snapshot: Snapshot, name: str, *, owner_uin: str) -> Snapshot:
    """The same with a policy detached from everybody in the account. Boundaries stay.

    Raises PolicySetRefused if nobody has it.
    """
    key = policy_key(owner_uin, name)
    if not any(key in keys for keys in snapshot.attached.values()):
        raise PolicySetRefused(f"nobody in account {owner_uin} has the policy `{name}`")
    attached = {
        subject: tuple(one for one in keys if one != key)
        for subject, keys in snapshot.attached.items()
    }
    return replace(snapshot, attached=attached)


def with_boundary(
    snapshot: Snapshot, document: Document, *, principals: Iterable[Principal]
) -> Snapshot:
    """The same with this boundary around these principals, in the place of their own."""
    for principal in principals:
        snapshot, key = _with_document(snapshot, document, owner_uin=principal.owner_uin)
        boundaries = {**snapshot.boundaries, subject_of(principal): key}
        snapshot = replace(snapshot, boundaries=boundaries)
    return snapshot


def _with_document(
    snapshot: Snapshot, document: Document, *, owner_uin: str
) -> tuple[Snapshot, str]:
    key = policy_key(owner_uin, f"{SUPPOSED}{document.file or document.name}")
    if key in snapshot.policies and snapshot.policies[key].document is document:
        return snapshot, key
    policy = Policy(document, Mode.ENFORCE)
    return replace(snapshot, policies={**snapshot.policies, key: policy}), key


def narrowed(question: Question, session_policy: str) -> Question:
    """The same question in a session that this policy narrows; "" for none."""
    if not session_policy:
        return question
    principal = replace(question.query.principal, session_policy=session_policy)
    return replace(question, query=structs.replace(question.query, principal=principal))


@dataclass(frozen=True, slots=True)
class Row:
    """One question, how it would be answered, and how that differs from the answer today."""

    question: Question
    explanation: Explanation
    shift: Shift | None


def simulate(
    questions: Iterable[Question],
    *,
    today: DecisionPoint,
    supposed: DecisionPoint,
    session_policy: str = "",
) -> Iterator[Row]:
    """Answer questions on two snapshots. session_policy: narrows the callers on the second."""
    for question in questions:
        changed = narrowed(question, session_policy)
        explanation = changed.explain(supposed)
        after = Answer(explanation.decision, changed.decide(supposed).scope)
        yield Row(changed, explanation, find_shift(question.decide(today), after))
