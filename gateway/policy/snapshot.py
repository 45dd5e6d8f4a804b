"""Who has which statements: one frozen, numbered picture that decisions are made on."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from functools import lru_cache

from msgspec import structs

from gateway.call import Principal, Reason, Resource
from gateway.errors import ApiError
from gateway.policy.accounts import Account, CustomPolicy, Mode
from gateway.policy.document import Document, Statement, parse
from gateway.policy.match import matches_action
from gateway.policy.refusal import PolicySetRefused
from gateway.policy.trust import Trust

SESSION_POLICY = "session policy"
SESSIONS_MAX = 1_024

NO_TRUSTS: Mapping[str, Mapping[str, Trust]] = {}


@dataclass(frozen=True, slots=True, eq=False)
class Policy:
    """A document as one account uses it, shared by everyone it is attached to.

    Equal if it is the very same document: one that was read again is another policy.
    """

    document: Document
    mode: Mode

    def __eq__(self, other: object) -> bool:
        """Compare without looking into the document."""
        return (
            isinstance(other, Policy)
            and self.document is other.document
            and self.mode is other.mode
        )

    def __hash__(self) -> int:
        """Hash without looking into the document."""
        return id(self.document)


class Layer(Enum):
    """What all must allow, by the reason for which a call is denied when one of them does not."""

    IDENTITY = Reason.IMPLICIT_DENY
    BOUNDARY = Reason.BOUNDARY
    SESSION = Reason.SESSION_POLICY


@dataclass(frozen=True, slots=True)
class Held:
    """A policy that somebody has. subject: the user, group or role it is attached to."""

    subject: str
    policy: Policy


@dataclass(frozen=True, slots=True)
class Candidate:
    """A statement that may settle a query."""

    layer: Layer
    subject: str
    policy: Policy
    statement: Statement


@dataclass(frozen=True, slots=True)
class Rights:
    """Every policy that bears on one principal, layer by layer.

    is_root: the principal needs no policy of its own, so there is no layer IDENTITY.
    """

    is_root: bool
    layers: tuple[tuple[Layer, tuple[Held, ...]], ...]

    @property
    def has_shadow(self) -> bool:
        """Whether one of the policies is only watched, be it of another action."""
        return any(
            held.policy.mode is Mode.SHADOW for _, policies in self.layers for held in policies
        )

    @property
    def has_conditions(self) -> bool:
        """Whether a statement asks for more than a caller, an action and a resource."""
        return any(
            statement.conditions
            for _, policies in self.layers
            for held in policies
            for statement in held.policy.document.statements
        )

    def enforced(self) -> "Rights":
        """The same without the policies that are only watched.

        A boundary that is only watched is no boundary. A session whose policy cannot be read has
        none either, and keeps the layer in which nothing allows.
        """
        if not self.has_shadow:
            return self
        layers = []
        for layer, policies in self.layers:
            kept = tuple(held for held in policies if held.policy.mode is Mode.ENFORCE)
            if kept or layer is not Layer.BOUNDARY:
                layers.append((layer, kept))
        return replace(self, layers=tuple(layers))

    def candidates(self, action: str | None = None) -> Iterator[Candidate]:
        """Give all statements, or those that speak of `action`."""
        for layer, policies in self.layers:
            for held in policies:
                for statement in held.policy.document.statements:
                    if action is None or matches_action(statement, action):
                        yield Candidate(layer, held.subject, held.policy, statement)


@dataclass(frozen=True, slots=True)
class DeclaredRole:
    """A role as a call names it. other_name: what it is called besides."""

    trust: Trust
    other_name: Resource


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All accounts and attachments at one moment.

    generation: named by every decision made on this snapshot. policies: by key, "owner/name".
    attached: subject → keys of its policies. groups: subject of a user or role → the subjects
    whose policies it has besides. boundaries: subject → key. trusts, role_ids: by
    the subject of a role. app_ids: what `${app_id}` stands for, by the account's uin.
    """

    generation: int
    accounts: tuple[Account, ...]
    policies: Mapping[str, Policy]
    attached: Mapping[str, tuple[str, ...]]
    groups: Mapping[str, tuple[str, ...]]
    boundaries: Mapping[str, str]
    trusts: Mapping[str, Trust]
    role_ids: Mapping[str, str]
    app_ids: Mapping[str, str]

    def rights(self, principal: Principal) -> Rights:
        """What a principal may do at most: nothing, if nobody declared it.

        A session of a role that was since declared anew, with another id, has no rights either.
        """
        subject = subject_of(principal)
        if principal.role and self.role_ids.get(subject) != principal.uin:
            return Rights(is_root=False, layers=((Layer.IDENTITY, ()),))
        layers: list[tuple[Layer, tuple[Held, ...]]] = []
        if not principal.is_root:
            subjects = (subject, *self.groups.get(subject, ()))
            layers.append((Layer.IDENTITY, tuple(h for one in subjects for h in self._held(one))))
        boundary = self.boundaries.get(subject)
        if boundary is not None:
            layers.append((Layer.BOUNDARY, (Held(subject, self.policies[boundary]),)))
        if principal.session_policy:
            policies = _session_policies(principal.session_policy)
            layers.append((Layer.SESSION, tuple(Held(subject, one) for one in policies)))
        return Rights(principal.is_root, tuple(layers))

    def _held(self, subject: str) -> Iterator[Held]:
        for key in self.attached.get(subject, ()):
            yield Held(subject, self.policies[key])

    def role_at(self, resource: Resource) -> DeclaredRole | None:
        """The role that a resource of CAM names, by its name or by its id; None if none."""
        kind, _, text = resource.path.partition("/")
        if resource.service != "cam" or kind not in {"role", "roleName"}:
            return None
        subject = role_subject(resource.owner_uin, text)
        if kind == "role":
            owned = role_subject(resource.owner_uin, "")
            found = (one for one, id_ in self.role_ids.items() if id_ == text)
            subject = next((one for one in found if one.startswith(owned)), "")
        if subject not in self.role_ids:
            return None
        by_name = f"roleName/{subject.rpartition('/')[2]}"
        by_id = f"role/{self.role_ids[subject]}"
        other = by_id if kind == "roleName" else by_name
        return DeclaredRole(self.trusts[subject], structs.replace(resource, path=other))

    def with_documents(self, documents: Mapping[str, Document], *, generation: int) -> "Snapshot":
        """The same with other documents under some keys: what the change of a file costs."""
        policies = dict(self.policies)
        for key, document in documents.items():
            policies[key] = Policy(document, policies[key].mode)
        return replace(self, generation=generation, policies=policies)


@lru_cache(maxsize=SESSIONS_MAX)
def _session_policies(text: str) -> tuple[Policy, ...]:
    """The policy of a session, which was read when the session was made.

    One that cannot be read any more allows nothing.
    """
    try:
        document = parse(text, name=SESSION_POLICY)
    except ApiError:
        return ()
    return (Policy(document, Mode.ENFORCE),)


def subject_of(principal: Principal) -> str:
    """Name whoever makes a call as the snapshot and casbin's role graph do."""
    if principal.role:
        return role_subject(principal.owner_uin, principal.role)
    return user_subject(principal.owner_uin, principal.uin)


def declared_callers(snapshot: Snapshot) -> Iterator[Principal]:
    """Every user, as it calls, and every role, as somebody who has taken it on; not the roots."""
    for account in snapshot.accounts:
        for user in account.users:
            yield Principal(owner_uin=account.uin, uin=user.uin, name=user.name)
        for role in account.roles:
            yield Principal(owner_uin=account.uin, uin=role.id, name=role.name, role=role.name)


def find_user(snapshot: Snapshot, name: str, *, owner_uin: str) -> Principal | None:
    """A declared user by name; None if the account has none of that name."""
    wanted = (owner_uin, name, "")
    callers = declared_callers(snapshot)
    return next((one for one in callers if (one.owner_uin, one.name, one.role) == wanted), None)


def user_subject(owner_uin: str, uin: str) -> str:
    """Name a user, or the root account, whose uin is the owner's."""
    return f"{owner_uin}/{uin}"


def group_subject(owner_uin: str, name: str) -> str:
    """Name a group; never equal to a user's name, which ends in digits after one slash."""
    return f"{owner_uin}/group/{name}"


def role_subject(owner_uin: str, name: str) -> str:
    """Name a role."""
    return f"{owner_uin}/role/{name}"


def everyone_subject(owner_uin: str) -> str:
    """Name all users and roles of an account."""
    return f"{owner_uin}/everyone"


def policy_key(owner_uin: str, name: str) -> str:
    """Name a policy as one account uses it; a preset has a key in each."""
    return f"{owner_uin}/{name}"


def build_snapshot(
    accounts: Iterable[Account],
    *,
    presets: Mapping[str, Document],
    custom: Mapping[str, Mapping[str, Document]],
    generation: int,
    trusts: Mapping[str, Mapping[str, Trust]] = NO_TRUSTS,
) -> Snapshot:
    """Put accounts and documents together.

    presets: by name. custom: by the owner's uin, then by name. trusts: by the owner's uin, then
    by the role's name.
    Raises PolicySetRefused if anything is missing, named twice, or named like a preset.
    """
    accounts = tuple(accounts)
    _check_uins(accounts)
    drafts = []
    for account in accounts:
        policies = _policies_of(account, presets=presets, custom=custom.get(account.uin, {}))
        drafts.append(_AccountDraft(account, policies, trusts.get(account.uin, {})))
    return Snapshot(
        generation=generation,
        accounts=accounts,
        policies={key: one for draft in drafts for key, one in draft.policies.items()},
        attached={subject: keys for draft in drafts for subject, keys in draft.attached()},
        groups={subject: groups for draft in drafts for subject, groups in draft.memberships()},
        boundaries={subject: key for draft in drafts for subject, key in draft.boundaries()},
        trusts={subject: trust for draft in drafts for subject, trust in draft.role_trusts()},
        app_ids={account.uin: account.app_id for account in accounts if account.app_id},
        role_ids={
            role_subject(account.uin, role.name): role.id
            for account in accounts
            for role in account.roles
        },
    )


def _check_uins(accounts: tuple[Account, ...]) -> None:
    """Refuse a uin that stands for two: a user with an account's uin would be taken for root."""
    uins = [account.uin for account in accounts]
    uins += [user.uin for account in accounts for user in account.users]
    uins += [role.id for account in accounts for role in account.roles]
    if twice := _repeated(uins):
        raise PolicySetRefused(f"the uin `{twice}` is given twice")


def _policies_of(
    account: Account, *, presets: Mapping[str, Document], custom: Mapping[str, Document]
) -> dict[str, Policy]:
    policies = {
        policy_key(account.uin, name): Policy(document, Mode.ENFORCE)
        for name, document in presets.items()
    }
    names = [policy.name for policy in account.policies]
    if twice := _repeated(names):
        raise PolicySetRefused(f"account {account.uin}: the policy `{twice}` is declared twice")
    for policy in account.policies:
        key = policy_key(account.uin, policy.name)
        policies[key] = _custom_policy(account, policy, presets=presets, custom=custom)
    return policies


def _custom_policy(
    account: Account,
    policy: CustomPolicy,
    *,
    presets: Mapping[str, Document],
    custom: Mapping[str, Document],
) -> Policy:
    where = f"account {account.uin}: the policy `{policy.name}`"
    if policy.name in presets:
        raise PolicySetRefused(f"{where} has the name of a preset")
    if policy.name not in custom:
        raise PolicySetRefused(f"{where} has no document")
    return Policy(custom[policy.name], policy.mode)


@dataclass(frozen=True, slots=True)
class _AccountDraft:
    """One account on its way into a snapshot; each part checks the names it follows."""

    account: Account
    policies: Mapping[str, Policy]
    trusts: Mapping[str, Trust]

    def attached(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        account = self.account
        yield everyone_subject(account.uin), self._keys(account.everyone, holder="everyone")
        for group in account.groups:
            keys = self._keys(group.policies, holder=f"group `{group.name}`")
            yield group_subject(account.uin, group.name), keys
        for user in account.users:
            keys = self._keys(user.policies, holder=f"user `{user.name}`")
            yield user_subject(account.uin, user.uin), keys
        for role in account.roles:
            keys = self._keys(role.policies, holder=f"role `{role.name}`")
            yield role_subject(account.uin, role.name), keys

    def _keys(self, names: tuple[str, ...], *, holder: str) -> tuple[str, ...]:
        where = f"account {self.account.uin}: {holder}"
        keys = tuple(policy_key(self.account.uin, name) for name in names)
        for name, key in zip(names, keys, strict=True):
            if key not in self.policies:
                raise PolicySetRefused(f"{where} has the policy `{name}`, which does not exist")
        if twice := _repeated(names):
            raise PolicySetRefused(f"{where} has the policy `{twice}` twice")
        return keys

    def memberships(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        account = self.account
        where = f"account {account.uin}"
        for kind, members in (
            ("group", account.groups),
            ("user", account.users),
            ("role", account.roles),
        ):
            if twice := _repeated(member.name for member in members):
                raise PolicySetRefused(f"{where}: the {kind} `{twice}` is declared twice")
        known = {group.name for group in account.groups}
        everyone = (everyone_subject(account.uin),) if account.everyone else ()
        for user in account.users:
            if missing := sorted(set(user.groups) - known):
                raise PolicySetRefused(f"{where}: the group `{missing[0]}` does not exist")
            if twice := _repeated(user.groups):
                raise PolicySetRefused(f"{where}: user `{user.name}` is in group `{twice}` twice")
            groups = tuple(group_subject(account.uin, name) for name in user.groups)
            yield user_subject(account.uin, user.uin), groups + everyone
        for role in account.roles:
            yield role_subject(account.uin, role.name), everyone

    def boundaries(self) -> Iterator[tuple[str, str]]:
        account = self.account
        named = [(user_subject(account.uin, account.uin), account.boundary, "the root")]
        named += [
            (user_subject(account.uin, user.uin), user.boundary, f"user `{user.name}`")
            for user in account.users
        ]
        named += [
            (role_subject(account.uin, role.name), role.boundary, f"role `{role.name}`")
            for role in account.roles
        ]
        for subject, name, holder in named:
            if name:
                [key] = self._keys((name,), holder=f"the boundary of {holder}")
                yield subject, key

    def role_trusts(self) -> Iterator[tuple[str, Trust]]:
        for role in self.account.roles:
            if role.name not in self.trusts:
                where = f"account {self.account.uin}: role `{role.name}`"
                raise PolicySetRefused(f"{where} has no trust document")
            yield role_subject(self.account.uin, role.name), self.trusts[role.name]


def _repeated(names: Iterable[str]) -> str | None:
    return next((name for name, times in Counter(names).items() if times > 1), None)
