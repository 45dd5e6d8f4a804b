"""The policy that narrows a session: taken as STS takes it, refused with the codes of STS."""

from urllib.parse import unquote_plus

from gateway.call import Effect
from gateway.cam.identities import KNOWN_ACTIONS
from gateway.errors import InvalidParameter
from gateway.policy.condition import is_carried
from gateway.policy.document import Document, parse
from gateway.policy.snapshot import SESSION_POLICY

TEXT_MAX = 16_384
"""Characters, blanks among them: it is kept with the session, and read back with every key."""

_FORMAT = frozenset({"PolicyDocumentError", "VersionError", "StatementError", "EffectError"})


def read_session_policy(text: str, *, owner_uin: str) -> str:
    """Give the policy as JSON. text: the parameter, JSON in percent-encoding.

    Raises InvalidParameter with PolicyTooLong, StrategyFormatError (not a policy's syntax),
    ResouceError (a resource that cannot be read; the vendor's spelling), GrantOtherResource (an
    allow on another account) or StrategyInvalid (everything else).

    Why JSON is taken as it is when it begins with a brace: in percent-encoding it never does.
    """
    policy = text.strip()
    if not policy.startswith("{"):
        policy = _decoded(policy)
    if len(policy) > TEXT_MAX:
        raise _refused(f"it is longer than {TEXT_MAX} characters", detail="PolicyTooLong")
    document = _parsed(policy)
    _check_accounts(document, owner_uin=owner_uin)
    _check_conditions(document)
    return policy


def _decoded(text: str) -> str:
    try:
        return unquote_plus(text, errors="strict")
    except UnicodeDecodeError as error:
        why = "its percent-encoding is not of UTF-8"
        raise _refused(why, detail="StrategyFormatError") from error


def _parsed(policy: str) -> Document:
    try:
        return parse(policy, name=SESSION_POLICY, known_actions=KNOWN_ACTIONS)
    except InvalidParameter as error:
        raise InvalidParameter(error.message, detail=_detail(error.detail or "")) from error


def _detail(of_document: str) -> str:
    """The code of STS for one of a policy document."""
    if of_document == "PolicyDocumentLengthOverLimit":
        return "PolicyTooLong"
    if of_document in _FORMAT:
        return "StrategyFormatError"
    return "ResouceError" if of_document.startswith("Resource") else "StrategyInvalid"


def _check_accounts(document: Document, *, owner_uin: str) -> None:
    for statement in document.statements:
        for resource in statement.resources:
            account = resource.place.account
            foreign = account is not None and not account.matches(owner_uin)
            if foreign and statement.effect is Effect.ALLOW:
                why = f"`{resource.text}` is another account's"
                raise _refused(why, detail="GrantOtherResource")


def _check_conditions(document: Document) -> None:
    for statement in document.statements:
        for condition in statement.conditions:
            if not is_carried(condition.key):
                why = f"no call here carries the condition key `{condition.key}`"
                raise _refused(why, detail="StrategyInvalid")


def _refused(why: str, *, detail: str) -> InvalidParameter:
    return InvalidParameter(f"The policy of the session cannot be used: {why}.", detail=detail)
