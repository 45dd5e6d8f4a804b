"""The STS actions: who one is, and sessions with fewer or other rights."""

import re
from collections.abc import Callable
from datetime import timedelta

from cryptography.fernet import MultiFernet

from gateway.call import Call, Grant, Principal
from gateway.cam.session_policies import read_session_policy
from gateway.cam.sessions import add_session, new_session
from gateway.clock import Clock, wire_time
from gateway.errors import (
    ApiError,
    FailedOperation,
    InvalidParameter,
    ResourceNotFound,
    UnsupportedOperation,
)
from gateway.policy.accounts import Role
from gateway.policy.snapshot import Snapshot
from gateway.service import Empty, Int, Operation, Service, Wire
from gateway.store import Store

ROLE_SESSION_S = 7_200
FEDERATION_S = 1_800
FEDERATION_S_MAX_OF_ROOT = 7_200
FEDERATION_S_MAX = 129_600

_ARN = re.compile(r"qcs::cam::uin/(?P<owner>[0-9]+):(?P<path>(?:role|roleName)/[^\s:]+)")
_NAME = re.compile(r"[A-Za-z0-9_+=,.@-]{2,128}")
_CALLER_NAME = re.compile(r"[A-Za-z0-9_+=,.@-]{1,128}")
_EXTERNAL_ID = re.compile(r"[A-Za-z0-9_+=,.@:/-]{2,128}")


class GetCallerIdentityResponse(Wire):
    """Members of GetCallerIdentity."""

    arn: str
    account_id: str
    user_id: str
    principal_id: str
    type: str


class Tag(Wire):
    """A tag of a session."""

    key: str
    value: str


class AssumeRoleRequest(Wire):
    """Parameters of AssumeRole."""

    role_arn: str
    role_session_name: str
    duration_seconds: Int | None = None
    policy: str | None = None
    external_id: str | None = None
    tags: list[Tag] | None = None
    source_identity: str | None = None
    serial_number: str | None = None
    token_code: str | None = None


class GetFederationTokenRequest(Wire):
    """Parameters of GetFederationToken."""

    name: str
    policy: str
    duration_seconds: Int | None = None


class Credentials(Wire):
    """A temporary key and its token, told once."""

    token: str
    tmp_secret_id: str
    tmp_secret_key: str


class SessionResponse(Wire):
    """Members of AssumeRole and GetFederationToken. expired_time: seconds since 1970."""

    credentials: Credentials
    expired_time: int
    expiration: str | None


def build_service(
    store: Store, *, sealer: MultiFernet, snapshot: Callable[[], Snapshot], clock: Clock
) -> Service:
    """Make the service. snapshot: the policies in force now, where roles and trust are declared."""
    sessions = Sessions(store, sealer=sealer, snapshot=snapshot, clock=clock)
    return Service(
        {
            "GetCallerIdentity": Operation(Empty, get_caller_identity),
            "AssumeRole": Operation(AssumeRoleRequest, sessions.assume_role),
            "GetFederationToken": Operation(
                GetFederationTokenRequest, sessions.get_federation_token
            ),
        }
    )


async def get_caller_identity(
    call: Call, grant: Grant, request: Empty
) -> GetCallerIdentityResponse:
    """Who the caller is. Source: STS 2018-08-13, examples of the action."""
    principal = grant.principal
    owner, uin = principal.owner_uin, principal.uin
    arn, type_ = f"qcs::cam:{owner}:uin/{uin}", "CAMUser"
    if principal.role:
        arn, type_ = f"qcs::sts:{owner}:assumed-role/{uin}", "CAMRole"
    elif principal.session:
        arn = f"qcs::sts:{owner}:federated-user/{uin}"
    return GetCallerIdentityResponse(
        arn=arn,
        account_id=owner,
        user_id=f"{uin}:{principal.session}" if principal.session else uin,
        principal_id=owner if principal.role else uin,
        type=type_,
    )


class Sessions:
    """Hands out temporary keys."""

    def __init__(
        self,
        store: Store,
        *,
        sealer: MultiFernet,
        snapshot: Callable[[], Snapshot],
        clock: Clock,
    ) -> None:
        self._store = store
        self._sealer = sealer
        self._snapshot = snapshot
        self._clock = clock

    async def assume_role(
        self, call: Call, grant: Grant, request: AssumeRoleRequest
    ) -> SessionResponse:
        """Give a session the rights of a role of the caller's own account, and no others.

        A session may take on a further role: what it had itself does not come along.
        """
        _check_parameters(request)
        snapshot, caller = self._snapshot(), grant.principal
        role = _find_role(snapshot, request.role_arn, owner_uin=caller.owner_uin)
        duration_s = _read_duration(
            request.duration_seconds,
            default=min(ROLE_SESSION_S, role.session_s_max),
            most=role.session_s_max,
        )
        policy = ""
        if request.policy:
            policy = read_session_policy(request.policy, owner_uin=caller.owner_uin)
        principal = Principal(
            owner_uin=caller.owner_uin,
            uin=role.id,
            name=role.name,
            role=role.name,
            session=request.role_session_name,
            session_policy=policy,
        )
        return await self._open(principal, duration_s=duration_s)

    async def get_federation_token(
        self, call: Call, grant: Grant, request: GetFederationTokenRequest
    ) -> SessionResponse:
        """Give a session the caller's own rights, as far as its policy allows them too.

        Why a temporary key gets none: a session has one policy, and the new one would take the
        place of the one that narrows the caller. Why a bearer of a token gets none: the session
        would outlive the token.
        """
        caller = grant.principal
        if caller.session or caller.bearer:
            raise UnsupportedOperation("Only a lasting key can get a federation token.")
        if _CALLER_NAME.fullmatch(request.name) is None:
            raise _wrong("Name")
        most = FEDERATION_S_MAX_OF_ROOT if caller.is_root else FEDERATION_S_MAX
        duration_s = _read_duration(request.duration_seconds, default=FEDERATION_S, most=most)
        principal = Principal(
            owner_uin=caller.owner_uin,
            uin=caller.uin,
            name=caller.name,
            session=request.name,
            session_policy=read_session_policy(request.policy, owner_uin=caller.owner_uin),
        )
        return await self._open(principal, duration_s=duration_s)

    async def _open(self, principal: Principal, *, duration_s: int) -> SessionResponse:
        now = self._clock()
        expires_at = now + timedelta(seconds=duration_s)
        made = new_session(principal, expires_at=expires_at)
        await self._store.write(lambda tx: add_session(tx, made, sealer=self._sealer, now=now))
        return SessionResponse(
            credentials=Credentials(
                token=made.token,
                tmp_secret_id=made.key.secret_id,
                tmp_secret_key=made.key.secret_key,
            ),
            expired_time=int(expires_at.timestamp()),
            expiration=wire_time(expires_at),
        )


def _check_parameters(request: AssumeRoleRequest) -> None:
    """Refuse what has the wrong form, and what would be given in vain.

    Why the rest is refused instead of ignored: who gives a tag or a code believes that it counts.
    """
    if _NAME.fullmatch(request.role_session_name) is None:
        raise _wrong("RoleSessionName")
    if request.external_id and _EXTERNAL_ID.fullmatch(request.external_id) is None:
        raise _wrong("ExternalId")
    if request.serial_number or request.token_code:
        raise FailedOperation(
            "No second factor can be checked here: use a bearer token that says `mfa`.",
            detail="MFATypeNotSupported",
        )
    if request.tags or request.source_identity:
        raise UnsupportedOperation("Sessions have neither `Tags` nor `SourceIdentity` here.")


def _find_role(snapshot: Snapshot, arn: str, *, owner_uin: str) -> Role:
    """The role of the caller's account that is meant, by its name or by its id.

    Another account's role is not found, whoever asks: accounts share nothing here. Whether the
    caller may take it on was decided before, by policies and by the role's own trust.
    """
    read = _ARN.fullmatch(arn)
    if read is None:
        raise _wrong("RoleArn")
    for account in snapshot.accounts:
        if account.uin == owner_uin == read["owner"]:
            for role in account.roles:
                if read["path"] in {f"roleName/{role.name}", f"role/{role.id}"}:
                    return role
    raise ResourceNotFound(f"The role `{arn}` does not exist.", detail="RoleNotFound")


def _read_duration(duration_s: int | None, *, default: int, most: int) -> int:
    if duration_s is None:
        return default
    if duration_s < 1:
        raise _wrong("DurationSeconds")
    if duration_s > most:
        raise InvalidParameter(f"`DurationSeconds` may be {most} at most.", detail="OverTimeError")
    return duration_s


def _wrong(parameter: str) -> ApiError:
    return InvalidParameter(f"The value of `{parameter}` is not valid.", detail="ParamError")
