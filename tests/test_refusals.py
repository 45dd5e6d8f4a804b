"""Every action of every service refuses whom it should, and none does less than it says."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet, MultiFernet

from gateway.batch.api import BatchApi
from gateway.batch.secrets import Vault
from gateway.batch.slots import Load
from gateway.cam import api as cam_api
from gateway.cam import sts
from gateway.cam.decisions.log import DecisionLog
from gateway.catalog import ACTIONS, CLASSIC, STREAMED, UNBUILT, Action
from gateway.clock import now
from gateway.cmq.classic import ClassicService
from gateway.cmq.push.addresses import Reach
from gateway.cmq.tdmq.api import build_service
from gateway.ids import new_id
from gateway.policy.snapshot import Snapshot, build_snapshot
from gateway.store import open_store
from tests.support.batch import DEFAULT_RULES
from tests.support.cmq import new_secrets
from tests.support.fake_engine import FakeEngine
from tests.support.policies import OWNER, write_policies
from tests.support.raw_client import Answer, Line, Request, classic, open_line, signed
from tests.support.running import Credentials, Gateway
from tests.support.samples import sample_parameters

API = {
    service: [one for one in ACTIONS if one.service == service and one.version != CLASSIC]
    for service in ("batch", "cam", "sts", "tdmq", "cmq")
}
CLASSIC_ACTIONS = [one for one in ACTIONS if one.version == CLASSIC]
NOT_SERVED = "is not served here yet"
SEALER = MultiFernet([Fernet(Fernet.generate_key())])
Ask = Callable[[Action], Request]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with one user, who has no policy."""
    gateway = Gateway(tmp_path_factory.mktemp("refusals"), settings={})
    write_policies(gateway.policies, {"nobody": []})
    gateway.start()
    yield gateway
    gateway.remove()


@pytest.fixture(scope="module")
def nobody(guarded: Gateway) -> Credentials:
    return guarded.create_key("nobody")


def forged(who: Credentials) -> Credentials:
    """The same key id with a secret that is not its own."""
    return Credentials(who.secret_id, "A" * len(who.secret_key))


def request_of(gateway: Gateway, who: Credentials, action: Action) -> Request:
    parameters = sample_parameters(action, owner_uin=OWNER)
    if action.version == CLASSIC:
        return classic(gateway, who, action.name, parameters)
    return signed(gateway, who, action.name, parameters, service=action.service)


def unsigned_request_of(gateway: Gateway, action: Action) -> Request:
    if action.version == CLASSIC:
        parameters = sample_parameters(action, owner_uin=OWNER)
        return classic(gateway, None, action.name, parameters)
    return request_of(gateway, Credentials("AKID", "x"), action).without_header("Authorization")


def answers(gateway: Gateway, actions: list[Action], ask: Ask) -> dict[str, str]:
    """What each action is answered: a public code, or the classic API's pair of numbers."""
    with open_line(gateway.port) as line:
        return {action.name: code_of(action, exchange(line, ask(action))) for action in actions}


def exchange(line: Line, request: Request) -> Answer:
    line.send(request)
    answer = line.answer()
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    return answer


def code_of(action: Action, answer: Answer) -> str:
    if action.version != CLASSIC:
        return answer.code
    members = answer.classic
    assert len(members["requestId"]) == 36
    return f"{members['code']} {members['message'][:7]}".strip()


def same(actions: list[Action], code: str) -> dict[str, str]:
    return {action.name: code for action in actions}


@pytest.mark.parametrize("service", API)
def test_every_action_refuses_who_does_not_sign(guarded: Gateway, service: str) -> None:
    found = answers(guarded, API[service], lambda action: unsigned_request_of(guarded, action))
    assert found == same(API[service], "AuthFailure.InvalidAuthorization")


@pytest.mark.parametrize("service", API)
def test_every_action_refuses_who_signs_badly(
    guarded: Gateway, nobody: Credentials, service: str
) -> None:
    thief = forged(nobody)
    found = answers(guarded, API[service], lambda action: request_of(guarded, thief, action))
    assert found == same(API[service], "AuthFailure.SignatureFailure")


@pytest.mark.parametrize("service", API)
def test_every_action_refuses_a_root_key_that_is_signed_with_badly(
    guarded: Gateway, service: str
) -> None:
    thief = forged(guarded.root)
    found = answers(guarded, API[service], lambda action: request_of(guarded, thief, action))
    assert found == same(API[service], "AuthFailure.SignatureFailure")


@pytest.mark.parametrize("service", API)
def test_every_action_refuses_who_has_no_policy(
    guarded: Gateway, nobody: Credentials, service: str
) -> None:
    found = answers(guarded, API[service], lambda action: request_of(guarded, nobody, action))
    assert found == same(API[service], "UnauthorizedOperation")


def test_every_classic_action_refuses_who_does_not_sign(guarded: Gateway) -> None:
    found = answers(guarded, CLASSIC_ACTIONS, lambda action: unsigned_request_of(guarded, action))
    assert found == same(CLASSIC_ACTIONS, "4100 (10030)")


def test_every_classic_action_refuses_who_signs_badly(
    guarded: Gateway, nobody: Credentials
) -> None:
    thief = forged(nobody)
    found = answers(guarded, CLASSIC_ACTIONS, lambda action: request_of(guarded, thief, action))
    assert found == same(CLASSIC_ACTIONS, "4100 (10030)")


def test_every_classic_action_refuses_who_has_no_policy(
    guarded: Gateway, nobody: Credentials
) -> None:
    found = answers(guarded, CLASSIC_ACTIONS, lambda action: request_of(guarded, nobody, action))
    assert found == same(CLASSIC_ACTIONS, "4000 (10461)")


def is_unbuilt(action: Action) -> bool:
    return (action.service, action.name) in UNBUILT


def test_an_action_that_is_not_built_says_so_to_who_may_call_it(guarded: Gateway) -> None:
    unbuilt = [one for one in ACTIONS if is_unbuilt(one) and one.version != CLASSIC]
    found = answers(guarded, unbuilt, lambda action: request_of(guarded, guarded.root, action))
    assert found == same(unbuilt, "UnsupportedOperation")


def test_a_classic_action_that_is_not_built_says_so_to_who_may_call_it(guarded: Gateway) -> None:
    unbuilt = [one for one in CLASSIC_ACTIONS if is_unbuilt(one)]
    found = answers(guarded, unbuilt, lambda action: request_of(guarded, guarded.root, action))
    assert found == same(unbuilt, "4000 (10280)")


def test_an_action_that_is_built_is_served_and_has_no_bug_at_its_door(guarded: Gateway) -> None:
    built = [one for one in ACTIONS if not is_unbuilt(one)]
    with open_line(guarded.port) as line:
        for action in built:
            answer = exchange(line, request_of(guarded, guarded.root, action))
            assert b"InternalError" not in answer.body, action.name
            assert b'"code":6000' not in answer.body, action.name
            assert NOT_SERVED.encode() not in answer.body, action.name
            assert b"InvalidAction" not in answer.body, action.name


@pytest.mark.anyio
async def test_every_action_has_a_handler_or_is_listed_as_unbuilt_and_never_both(
    tmp_path: Path,
) -> None:
    async with open_store(f"sqlite:///{tmp_path / 'gateway.db'}") as store:
        vault = Vault(SEALER.encrypt, SEALER.decrypt)
        batch = BatchApi(
            store,
            FakeEngine(tmp_path),
            never,
            clock=now,
            new_id=new_id,
            vault=vault,
            rules=DEFAULT_RULES,
            load=Load(),
        )
        actions = {
            "batch": frozenset(batch.operations),
            "cam": cam_api.build_service(
                store, DecisionLog(store, clock=now, new_id=new_id)
            ).actions,
            "sts": sts.build_service(store, sealer=SEALER, snapshot=nothing, clock=now).actions,
            "tdmq": build_service(
                store, None, secrets=new_secrets(), reach=Reach(), clock=now, new_id=new_id
            ).actions,
            "cmq": ClassicService(store, None, reach=Reach(), clock=now, new_id=new_id).actions,
        }
    served = {(service, name) for service, names in actions.items() for name in names}
    assert served & (UNBUILT | STREAMED) == set()
    assert served | UNBUILT | STREAMED == {(action.service, action.name) for action in ACTIONS}


def never(*_: Any, **__: Any) -> bool:
    """No topic exists."""
    return False


def nothing() -> Snapshot:
    """Nobody is declared."""
    return build_snapshot([], presets={}, custom={}, generation=1)


def test_no_two_versions_of_a_service_have_an_action_of_one_name() -> None:
    # UNBUILT names an action by service and name, without the version
    assert len({(action.service, action.name) for action in ACTIONS}) == len(ACTIONS)
