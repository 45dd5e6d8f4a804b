"""Who may take on a role: its trust policy, read strictly, and judged."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial

from gateway.call import Effect, Principal
from gateway.errors import InvalidParameter
from gateway.policy.action import ActionPattern, KnownActions
from gateway.policy.condition import CALL_KEYS, Condition, Context
from gateway.policy.document import (
    check_elements,
    read_actions,
    read_condition_element,
    read_document,
    read_effect,
    statements_of,
)
from gateway.policy.match import app_id_of, judge, variables

ASSUME_ROLE = "sts:AssumeRole"
WAYS: KnownActions = {
    "sts": frozenset({"assumerole", "assumerolewithsaml", "assumerolewithwebidentity"})
}
"""The ways of taking on a role that a document may speak of. Only the first is served here."""
ELEMENTS = frozenset({"version", "principal", "statement"})
STATEMENT_ELEMENTS = frozenset({"effect", "action", "principal", "condition"})
ANYONE = "*"
EXTERNAL_ID = "sts:external_id"
"""The condition key of the `ExternalId` that the caller gives."""
KEYS = (CALL_KEYS - {"qcs:request_tag", "qcs:vpc"}) | {EXTERNAL_ID}
"""What is known when a role is asked for. A deny that rests on anything else would never apply."""

_QCS = re.compile(
    r"qcs::cam::uin/(?P<owner>[1-9][0-9]{0,19}):"
    r"(?:root|uin/(?P<user>[1-9][0-9]{0,19})"
    r"|role/[1-9][0-9]{0,19}|roleName/[A-Za-z0-9+=,.@_-]{1,128})"
)
_HOST = re.compile(r"(?=.{1,253}\Z)(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]{2,63}")


@dataclass(frozen=True, slots=True)
class TrustStatement:
    """One allow or deny of taking the role on.

    principals: `*`, or resources such as `qcs::cam::uin/100:root`. services: hosts; none of them
    ever calls here, so they are kept as written and match nobody.
    index: its place in the document, from 1.
    """

    effect: Effect
    actions: tuple[ActionPattern, ...]
    principals: tuple[str, ...]
    services: tuple[str, ...]
    conditions: tuple[Condition, ...]
    index: int


@dataclass(frozen=True, slots=True)
class Trust:
    """The trust policy of one role.

    file: where it was read from, inside the folder of policies; empty for one kept elsewhere.
    """

    role: str
    statements: tuple[TrustStatement, ...]
    file: str = ""

    @property
    def name(self) -> str:
        """How it is called where policies are named."""
        return f"trust of {self.role}"


def parse_trust(text: str, *, role: str, file: str = "") -> Trust:
    """Read the trust policy of a role.

    `principal` stands in every statement, or once at the top; lone strings are lists of one.
    Raises InvalidParameter with the vendor's detail codes. Whether those who are named exist is
    asked by `check_trust`.

    Why there is no `resource`: the role itself is what such a document speaks of.
    """
    written = read_document(text, name=f"trust of {role}")
    check_elements(written, allowed=ELEMENTS, detail="PolicyDocumentError")
    statements = tuple(
        _read_statement(one, index, common=written.get("principal"))
        for index, one in enumerate(statements_of(written), start=1)
    )
    return Trust(role, statements, file)


def _read_statement(written: object, index: int, *, common: object) -> TrustStatement:
    if not isinstance(written, dict):
        raise InvalidParameter(f"Statement {index} is no object.", detail="StatementError")
    check_elements(written, allowed=STATEMENT_ELEMENTS, detail="StatementError")
    if (common is None) is ("principal" not in written):
        raise InvalidParameter(
            f"Statement {index} must have one `principal`, its own or the document's.",
            detail="PrincipalError",
        )
    principals, services = _read_principal(written.get("principal", common))
    return TrustStatement(
        effect=read_effect(written, index),
        actions=_read_ways(written, index),
        principals=principals,
        services=services,
        conditions=_read_conditions(written),
        index=index,
    )


def _read_ways(written: dict[str, object], index: int) -> tuple[ActionPattern, ...]:
    actions = read_actions(written, index)
    for action in actions:
        action.check_known(WAYS)
        if not any(action.matches(f"sts:{way}") for way in WAYS["sts"]):
            raise InvalidParameter(
                f"The action `{action.text}` is no way of taking on a role.", detail="ActionError"
            )
    return actions


def _read_conditions(written: dict[str, object]) -> tuple[Condition, ...]:
    conditions = read_condition_element(written)
    for condition in conditions:
        if condition.key not in KEYS:
            raise InvalidParameter(
                f"The condition key `{condition.key}` is not known when a role is asked for.",
                detail="ConditionContentError",
            )
    return conditions


def _read_principal(written: object) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Read a `principal`: who is meant, and which services."""
    if written == ANYONE:
        return (ANYONE,), ()
    if not isinstance(written, dict) or not written or not written.keys() <= {"qcs", "service"}:
        raise InvalidParameter(
            'A `principal` is "*", {"qcs": […]} or {"service": […]}.', detail="PrincipalError"
        )
    principals, services = (
        _texts(written[kind]) if kind in written else () for kind in ("qcs", "service")
    )
    for name in principals:
        if _QCS.fullmatch(name) is None:
            raise InvalidParameter(
                f"The principal `{name}` is not the root, a user or a role of an account, such as"
                " `qcs::cam::uin/100000000001:root`.",
                detail="PrincipalQcsError",
            )
    for host in services:
        if _HOST.fullmatch(host) is None:
            raise InvalidParameter(
                f"No service can have the name `{host}`.", detail="PrincipalServiceNotExist"
            )
    return principals, services


def _texts(written: object) -> tuple[str, ...]:
    values = written if isinstance(written, list) else [written]
    texts = tuple(value for value in values if isinstance(value, str))
    if not texts or len(texts) != len(values):
        raise InvalidParameter(
            "A `principal` names strings, at least one.", detail="PrincipalError"
        )
    return texts


def check_trust(trust: Trust, known_uins: Collection[str]) -> None:
    """Refuse a principal that nobody declares: InvalidParameter.PrincipalQcsNotExist.

    known_uins: of accounts and users. A role that is named is left alone: until it is declared,
    nobody bears its name.
    """
    for statement in trust.statements:
        for name in statement.principals:
            found = _QCS.fullmatch(name)
            uins = () if found is None else filter(None, found.group("owner", "user"))
            if any(uin not in known_uins for uin in uins):
                raise InvalidParameter(
                    f"The principal `{name}` of role `{trust.role}` does not exist.",
                    detail="PrincipalQcsNotExist",
                )


def settling(trust: Trust, principal: Principal, *, context: Context) -> tuple[TrustStatement, ...]:
    """Give the statements that settle whether a caller may take the role on.

    These are the denies that apply, or else the allows; if there are none, nothing lets the
    caller in. The caller is one of the role's own account, who still needs a policy for
    `sts:AssumeRole`. context: by the keys of KEYS.
    """
    applying = [one for one in trust.statements if not misfits(one, principal, context=context)]
    denies = [one for one in applying if one.effect is Effect.DENY]
    return tuple(denies or applying)


def misfits(
    statement: TrustStatement, principal: Principal, *, context: Context
) -> tuple[str, ...]:
    """Name the elements of a statement that do not fit; none if it applies.

    A condition that cannot be judged lets a deny apply and an allow not.
    """
    values = partial(variables, principal, app_id_of(context))
    fits = {
        "principal": not set(names_of(principal)).isdisjoint(statement.principals),
        "action": any(action.matches(ASSUME_ROLE) for action in statement.actions),
        "condition": judge(statement.conditions, context, values=values, effect=statement.effect),
    }
    return tuple(element for element, fit in fits.items() if not fit)


def names_of(principal: Principal) -> tuple[str, ...]:
    """Every name by which a document may mean the caller, the narrowest last.

    Why `root` is everybody: the vendor admits an account by it, and leaves it to the account's
    own policies which of its users may come. The root alone is `uin/<its own number>`.
    """
    account = f"qcs::cam::uin/{principal.owner_uin}"
    own: tuple[str, ...]
    if principal.role:
        own = f"{account}:role/{principal.uin}", f"{account}:roleName/{principal.role}"
    else:
        own = (f"{account}:uin/{principal.uin}",)
    return ANYONE, f"{account}:root", *own
