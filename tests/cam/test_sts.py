"""STS below the server: who one is, who may take on a role, and what a session then is."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from cryptography.fernet import Fernet, MultiFernet

from gateway.call import Call, Decision, Effect, Grant, Key, Principal, Reason, Resource
from gateway.cam import sts
from gateway.cam.keys import KeyRing
from gateway.context import context_of
from gateway.errors import ApiError
from gateway.policy.accounts import Account, CustomPolicy, Mode, Role, User
from gateway.policy.decision_point import DecisionPoint
from gateway.policy.document import parse
from gateway.policy.match import Query
from gateway.policy.plans import PlanEvaluator
from gateway.policy.snapshot import Snapshot, build_snapshot
from gateway.policy.trust import parse_trust
from gateway.protocol import denial
from gateway.store import Store, open_store
from gateway.store.migrations import migrate

OWNER, OTHER = "100000000001", "100000000002"
NOW = datetime(2026, 1, 2, 3, 4, 5, 600_000, tzinfo=UTC)
ROOT = Principal(OWNER, OWNER, "root")
ALICE = Principal(OWNER, "100000000101", "alice")
BOB = Principal(OWNER, "100000000102", "bob")
ROLE_ID = "4611686018427397919"
DEPLOYER = f"qcs::cam::uin/{OWNER}:roleName/deployer"
DEPLOYER_BY_ID = f"qcs::cam::uin/{OWNER}:role/{ROLE_ID}"
SESSION = Principal(OWNER, ROLE_ID, "deployer", role="deployer", session="one")
FEDERATED = Principal(OWNER, ALICE.uin, "alice", session="SUN", session_policy="{}")
ASSUME = {"effect": "allow", "action": "sts:AssumeRole", "resource": "*"}
READ_ONLY = {
    "version": "2.0",
    "statement": [{"effect": "allow", "action": "batch:Describe*", "resource": "*"}],
}
SEALER = MultiFernet([Fernet(Fernet.generate_key())])
DECISION = Decision(Effect.ALLOW, Reason.EXPLICIT_ALLOW, None, 1)


def trusting(principal: Any, **more: Any) -> dict[str, Any]:
    return {"effect": "allow", "action": "sts:AssumeRole", "principal": principal, **more}


def snapshot_of(
    *trust: dict[str, Any],
    policy: Sequence[dict[str, Any]] = (ASSUME,),
    mode: Mode = Mode.ENFORCE,
    session_s_max: int = 7_200,
) -> Snapshot:
    """Two accounts, each with a role `deployer`; alice and bob have the policy, alice trust."""
    statements = list(trust) or [trusting({"qcs": f"qcs::cam::uin/{OWNER}:uin/{ALICE.uin}"})]
    text = json.dumps({"version": "2.0", "statement": statements})
    document = parse(json.dumps({"version": "2.0", "statement": list(policy)}), name="own")
    role = Role("deployer", ROLE_ID, "t.json", session_s_max=session_s_max)
    account = Account(
        OWNER,
        policies=(CustomPolicy("own", mode=mode),),
        users=tuple(User(who.name, who.uin, policies=("own",)) for who in (ALICE, BOB)),
        roles=(role,),
    )
    far = Account(OTHER, roles=(Role("far", "9", "t.json"),))
    return build_snapshot(
        [account, far],
        presets={},
        custom={OWNER: {"own": document}},
        trusts={
            OWNER: {"deployer": parse_trust(text, role="deployer")},
            OTHER: {"far": parse_trust(text, role="far")},
        },
        generation=1,
    )


@pytest.fixture
async def store(tmp_path: Path) -> Any:
    url = f"sqlite:///{tmp_path / 'gateway.db'}"
    migrate(url)
    async with open_store(url) as opened:
        yield opened


class Sts:
    """The service on one snapshot, and the ring that finds what it hands out."""

    def __init__(self, store: Store, snapshot: Snapshot | None = None) -> None:
        self.snapshot = snapshot or snapshot_of()
        self._service = sts.build_service(
            store, sealer=SEALER, snapshot=lambda: self.snapshot, clock=lambda: NOW
        )
        self._ring = KeyRing(store, sealer=SEALER, fixed={}, clock=lambda: NOW)

    async def __call__(self, action: str, who: Principal, **params: Any) -> dict[str, Any]:
        call = Call("r-1", "sts", "2018-08-13", action, "ap-guangzhou", params, "10.0.0.1", NOW)
        if action == "AssumeRole":
            self._decide(call, who)
        reply = await self._service(call, Grant(who, DECISION))
        members: dict[str, Any] = json.loads(reply.members)
        return members

    def _decide(self, call: Call, who: Principal) -> None:
        """What the corridor does before, for whoever has a policy; others are let by here."""
        owner, _, path = call.params["RoleArn"].removeprefix("qcs::cam::uin/").partition(":")
        role = Resource("cam", "", owner, path)
        context = context_of(call, who, vpc=())
        query = Query(who, "sts:AssumeRole", (role,), context=context)
        point = DecisionPoint(PlanEvaluator(), self.snapshot)
        decision, miss = point.decide(query), point.explain(query).nearest_miss
        mistrusted = miss is not None and miss.policy == "trust of deployer"
        if mistrusted or decision.reason is Reason.EXPLICIT_DENY:
            raise denial(decision, request_id=call.request_id, action="sts:AssumeRole")

    async def assume(self, who: Principal = ALICE, **params: Any) -> Key:
        given = {"RoleArn": DEPLOYER, "RoleSessionName": "one", **params}
        return await self._key_of(await self("AssumeRole", who, **given))

    async def federate(self, who: Principal = ALICE, **params: Any) -> Key:
        given = {"Name": "SUN", "Policy": quote(json.dumps(READ_ONLY)), **params}
        return await self._key_of(await self("GetFederationToken", who, **given))

    async def _key_of(self, answer: dict[str, Any]) -> Key:
        key = await self._ring.find_key(answer["Credentials"]["TmpSecretId"])
        assert key is not None
        assert key.secret_key == answer["Credentials"]["TmpSecretKey"]
        return key

    async def refusal(self, how: str, who: Principal = ALICE, **params: Any) -> ApiError:
        with pytest.raises(ApiError) as refused:
            await getattr(self, how)(who, **params)
        return refused.value


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("who", "type_", "arn", "user_id", "principal_id"),
    [
        (ROOT, "CAMUser", f"qcs::cam:{OWNER}:uin/{OWNER}", OWNER, OWNER),
        (ALICE, "CAMUser", f"qcs::cam:{OWNER}:uin/{ALICE.uin}", ALICE.uin, ALICE.uin),
        (SESSION, "CAMRole", f"qcs::sts:{OWNER}:assumed-role/{ROLE_ID}", f"{ROLE_ID}:one", OWNER),
        (
            FEDERATED,
            "CAMUser",
            f"qcs::sts:{OWNER}:federated-user/{ALICE.uin}",
            f"{ALICE.uin}:SUN",
            ALICE.uin,
        ),
    ],
)
async def test_everybody_is_told_who_they_are(
    store: Store, who: Principal, type_: str, arn: str, user_id: str, principal_id: str
) -> None:
    assert await Sts(store)("GetCallerIdentity", who) == {
        "Arn": arn,
        "AccountId": OWNER,
        "UserId": user_id,
        "PrincipalId": principal_id,
        "Type": type_,
    }


@pytest.mark.anyio
@pytest.mark.parametrize("arn", [DEPLOYER, DEPLOYER_BY_ID])
async def test_a_session_is_the_roles_and_lasts_two_hours(store: Store, arn: str) -> None:
    service = Sts(store)
    answer = await service("AssumeRole", ALICE, RoleArn=arn, RoleSessionName="one")
    key = await service.assume(RoleArn=arn)
    assert key.principal == SESSION
    assert key.expires_at == NOW + timedelta(hours=2)
    assert set(answer["Credentials"]) == {"Token", "TmpSecretId", "TmpSecretKey"}
    assert answer["ExpiredTime"] == int((NOW + timedelta(hours=2)).timestamp())
    assert answer["Expiration"] == "2026-01-02T05:04:05Z"


@pytest.mark.anyio
@pytest.mark.parametrize(
    "arn",
    [
        f"qcs::cam::uin/{OWNER}:roleName/nobody",
        f"qcs::cam::uin/{OWNER}:roleName/Deployer",
        f"qcs::cam::uin/{OWNER}:roleName/{ROLE_ID}",
        f"qcs::cam::uin/{OWNER}:role/deployer",
        f"qcs::cam::uin/{OWNER}:role/0{ROLE_ID}",
        f"qcs::cam::uin/{OWNER}:role/tencentcloudServiceRole/{ROLE_ID}",
        f"qcs::cam::uin/0{OWNER}:roleName/deployer",
        f"qcs::cam::uin/{OTHER}:roleName/deployer",
        f"qcs::cam::uin/{OTHER}:roleName/far",
        f"qcs::cam::uin/{OTHER}:role/9",
    ],
)
async def test_a_role_that_the_account_does_not_have_is_not_found(store: Store, arn: str) -> None:
    for who in (ALICE, ROOT):
        refused = await Sts(store).refusal("assume", who, RoleArn=arn)
        assert refused.code == "ResourceNotFound.RoleNotFound"


@pytest.mark.anyio
async def test_who_is_not_trusted_is_refused_and_nothing_is_made(store: Store) -> None:
    for who in (BOB, ROOT):
        assert (await Sts(store).refusal("assume", who)).code == "UnauthorizedOperation"


@pytest.mark.anyio
async def test_a_session_of_a_role_may_take_on_a_role_that_trusts_it(store: Store) -> None:
    trust = trusting({"qcs": f"qcs::cam::uin/{OWNER}:roleName/nightly"})
    nightly = Principal(OWNER, "7", "nightly", role="nightly", session="x", session_policy="{}")
    key = await Sts(store, snapshot_of(trust)).assume(nightly)
    assert key.principal == SESSION


@pytest.mark.anyio
async def test_conditions_of_the_trust_policy_see_the_call(store: Store) -> None:
    near = trusting("*", condition={"ip_equal": {"qcs:ip": "10.0.0.0/8"}})
    assert await Sts(store, snapshot_of(near)).assume(BOB)
    far = trusting("*", condition={"ip_equal": {"qcs:ip": "192.0.2.0/24"}})
    assert (await Sts(store, snapshot_of(far)).refusal("assume")).code == "UnauthorizedOperation"
    proved = snapshot_of(trusting("*", condition={"bool_equal": {"qcs:mfa": "true"}}))
    assert (await Sts(store, proved).refusal("assume")).code == "UnauthorizedOperation"
    assert await Sts(store, proved).assume(Principal(OWNER, ALICE.uin, "alice", mfa=True))


@pytest.mark.anyio
async def test_an_external_id_opens_a_role_that_asks_for_it(store: Store) -> None:
    asked = trusting("*", condition={"string_equal": {"sts:external_id": "from-us"}})
    service = Sts(store, snapshot_of(asked))
    assert await service.assume(ExternalId="from-us")
    assert (await service.refusal("assume", ExternalId="other")).code == "UnauthorizedOperation"
    assert (await service.refusal("assume")).code == "UnauthorizedOperation"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("denied", "asked"), [(DEPLOYER, DEPLOYER_BY_ID), (DEPLOYER_BY_ID, DEPLOYER)]
)
async def test_a_deny_by_one_name_of_a_role_holds_for_its_other_name(
    store: Store, denied: str, asked: str
) -> None:
    deny = {"effect": "deny", "action": "sts:AssumeRole", "resource": denied}
    service = Sts(store, snapshot_of(policy=(ASSUME, deny)))
    refused = await service.refusal("assume", RoleArn=asked)
    assert refused.code == "UnauthorizedOperation"
    assert refused.message == (
        "[request id:r-1]you are not authorized to perform operation (sts:AssumeRole)\n"
        f"resource ({denied}) has no permission\n"
    )
    conditional = {**deny, "condition": {"bool_equal": {"qcs:mfa": "false"}}}
    service = Sts(store, snapshot_of(policy=(ASSUME, conditional)))
    proved = Principal(OWNER, ALICE.uin, "alice", mfa=True)
    assert await service.assume(proved, RoleArn=denied)
    assert await service.assume(proved, RoleArn=asked)
    assert (await service.refusal("assume", RoleArn=asked)).code == "UnauthorizedOperation"


@pytest.mark.anyio
async def test_a_deny_that_is_only_watched_denies_neither_name(store: Store) -> None:
    deny = {"effect": "deny", "action": "sts:AssumeRole", "resource": DEPLOYER}
    snapshot = snapshot_of(policy=(ASSUME, deny), mode=Mode.SHADOW)
    assert await Sts(store, snapshot).assume(RoleArn=DEPLOYER_BY_ID)


@pytest.mark.anyio
async def test_a_session_lasts_as_long_as_asked_and_never_longer_than_its_role_allows(
    store: Store,
) -> None:
    short = Sts(store, snapshot_of(session_s_max=600))
    assert (await short.assume()).expires_at == NOW + timedelta(seconds=600)
    assert (await short.assume(DurationSeconds=1)).expires_at == NOW + timedelta(seconds=1)
    assert (await short.assume(DurationSeconds="600")).expires_at == NOW + timedelta(seconds=600)
    over = await short.refusal("assume", DurationSeconds=601)
    assert over.code == "InvalidParameter.OverTimeError"
    for wrong in (0, -1):
        refused = await short.refusal("assume", DurationSeconds=wrong)
        assert refused.code == "InvalidParameter.ParamError"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"RoleArn": "deployer"}, "InvalidParameter.ParamError"),
        ({"RoleArn": f"{DEPLOYER}\n"}, "InvalidParameter.ParamError"),
        ({"RoleSessionName": "x"}, "InvalidParameter.ParamError"),
        ({"RoleSessionName": "x" * 129}, "InvalidParameter.ParamError"),
        ({"RoleSessionName": "a b"}, "InvalidParameter.ParamError"),
        ({"ExternalId": "!"}, "InvalidParameter.ParamError"),
        ({"Tags": [{"Key": "team", "Value": "red"}]}, "UnsupportedOperation"),
        ({"SourceIdentity": "1"}, "UnsupportedOperation"),
        ({"SerialNumber": "qcs::cam:uin/1::mfa/softToken"}, "FailedOperation.MFATypeNotSupported"),
        ({"TokenCode": "123456"}, "FailedOperation.MFATypeNotSupported"),
        ({"Unknown": 1}, "UnknownParameter"),
    ],
)
async def test_what_is_wrong_or_would_mean_nothing_is_refused(
    store: Store, params: dict[str, Any], code: str
) -> None:
    assert (await Sts(store).refusal("assume", **params)).code == code


@pytest.mark.anyio
@pytest.mark.parametrize("write", [json.dumps, lambda policy: quote(json.dumps(policy))])
async def test_a_policy_of_a_session_is_kept_as_json(store: Store, write: Any) -> None:
    service = Sts(store)
    for key in (
        await service.assume(Policy=write(READ_ONLY)),
        await service.federate(Policy=write(READ_ONLY)),
        await service.federate(Policy=quote_plus(json.dumps(READ_ONLY))),
    ):
        assert json.loads(key.principal.session_policy) == READ_ONLY


def with_statement(**changes: Any) -> str:
    statement = {**READ_ONLY["statement"][0], **changes}  # type: ignore[dict-item]
    return json.dumps({"version": "2.0", "statement": [statement]})


POLICIES = [
    ("{", "StrategyFormatError"),
    ("%7", "StrategyFormatError"),
    ("%ff", "StrategyFormatError"),
    (quote(quote(json.dumps(READ_ONLY))), "StrategyFormatError"),
    (json.dumps({**READ_ONLY, "version": "3.0"}), "StrategyFormatError"),
    (with_statement(effect="grant"), "StrategyFormatError"),
    (with_statement(notaction="*"), "StrategyFormatError"),
    (with_statement(resource="qcs::batch"), "ResouceError"),
    (with_statement(resource="qcs::batch::uid/1:job/*"), "ResouceError"),
    (with_statement(resource=f"qcs::batch::uin/{OTHER}:job/*"), "GrantOtherResource"),
    (with_statement(principal="*"), "StrategyInvalid"),
    (with_statement(action="SubmitJob"), "StrategyInvalid"),
    (with_statement(condition={"equals": {"qcs:ip": "10.0.0.1"}}), "StrategyInvalid"),
    (with_statement(condition={"string_equal": {"cvm:region": "x"}}), "StrategyInvalid"),
    (with_statement(resource=["qcs::batch:::job/" + "x" * 6_144]), "PolicyTooLong"),
    (json.dumps(READ_ONLY) + " " * 16_384 + "\n", None),
    (json.dumps(READ_ONLY).replace(" ", " " * 4_096), "PolicyTooLong"),
]


@pytest.mark.anyio
@pytest.mark.parametrize("how", ["assume", "federate"])
@pytest.mark.parametrize(("policy", "detail"), POLICIES)
async def test_a_policy_that_cannot_be_used_is_refused_by_the_codes_of_sts(
    store: Store, how: str, policy: str, detail: str | None
) -> None:
    service = Sts(store)
    if detail is None:
        assert await getattr(service, how)(Policy=policy)
    else:
        refused = await service.refusal(how, Policy=policy)
        assert refused.code == f"InvalidParameter.{detail}"


@pytest.mark.anyio
async def test_a_federated_session_is_its_users_with_a_policy(store: Store) -> None:
    key = await Sts(store).federate(BOB)
    policy = json.dumps(READ_ONLY)
    assert key.principal == Principal(OWNER, BOB.uin, "bob", session="SUN", session_policy=policy)
    assert key.expires_at == NOW + timedelta(minutes=30)


@pytest.mark.anyio
@pytest.mark.parametrize(("who", "most"), [(ROOT, 7_200), (ALICE, 129_600)])
async def test_a_federated_session_lasts_two_hours_for_root_and_a_day_and_a_half_for_others(
    store: Store, who: Principal, most: int
) -> None:
    key = await Sts(store).federate(who, DurationSeconds=most)
    assert key.expires_at == NOW + timedelta(seconds=most)
    refused = await Sts(store).refusal("federate", who, DurationSeconds=most + 1)
    assert refused.code == "InvalidParameter.OverTimeError"


@pytest.mark.anyio
@pytest.mark.parametrize("who", [SESSION, FEDERATED])
async def test_a_temporary_key_gets_no_federation_token(store: Store, who: Principal) -> None:
    assert (await Sts(store).refusal("federate", who)).code == "UnsupportedOperation"


@pytest.mark.anyio
@pytest.mark.parametrize("params", [{"Name": ""}, {"Name": "a b"}, {"Name": "x" * 129}])
async def test_a_name_of_a_federated_caller_has_its_form(
    store: Store, params: dict[str, Any]
) -> None:
    assert (await Sts(store).refusal("federate", **params)).code == "InvalidParameter.ParamError"


@pytest.mark.anyio
async def test_a_bearer_of_a_token_gets_no_key_that_outlives_it(store: Store) -> None:
    bearer = Principal(OWNER, ALICE.uin, "alice", bearer=True)
    assert (await Sts(store).refusal("federate", bearer)).code == "UnsupportedOperation"
