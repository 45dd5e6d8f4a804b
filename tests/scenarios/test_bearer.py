"""Bearer tokens of a trusted issuer, at a real gateway."""

import json
import time
from collections.abc import Iterator
from typing import Any

import jwt
import pytest

from tests.support.raw_client import VERSIONS, Answer, Request, send
from tests.support.running import Gateway, running_gateway

SECRET = "a secret of the issuer and of the gateway alone"
OWNER = "100000000001"
BOB = "100000000102"
JOB = "job-00000000"


@pytest.fixture(scope="module")
def trusting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway that believes one issuer."""
    folder = tmp_path_factory.mktemp("trusting")
    (folder / "secret").write_text(SECRET, encoding="utf-8")
    issuers = folder / "issuers.toml"
    issuers.write_text(
        '[[issuer]]\nname = "https://login.test"\nalgorithm = "HS256"\nkey_file = "secret"\n'
        f'audience = "qcs-gateway"\nowner_uins = ["{OWNER}"]\n',
        encoding="utf-8",
    )
    with running_gateway(folder, QCS_GATEWAY_JWT_ISSUERS=str(issuers)) as gateway:
        yield gateway


def token(**changes: Any) -> str:
    now = int(time.time())
    claims = {
        "iss": "https://login.test",
        "aud": "qcs-gateway",
        "iat": now,
        "exp": now + 600,
        "owner_uin": OWNER,
        "uin": BOB,
        "name": "bob",
        **changes,
    }
    return jwt.encode(claims, SECRET, algorithm="HS256")


def call(gateway: Gateway, action: str, bearer: str) -> Answer:
    headers = {
        "Host": f"127.0.0.1:{gateway.port}",
        "Content-Type": "application/json",
        "X-TC-Action": action,
        "X-TC-Version": VERSIONS["batch"],
        "X-TC-Region": "ap-guangzhou",
        "Authorization": f"Bearer {bearer}",
    }
    body = json.dumps({"JobId": JOB}).encode()
    headers["Content-Length"] = str(len(body))
    return send(gateway, Request(headers=tuple(headers.items()), body=body))


def test_the_bearer_is_decided_on_by_the_same_policies(trusting: Gateway) -> None:
    assert call(trusting, "DescribeJob", token()).code == "ResourceNotFound.Job"
    assert call(trusting, "TerminateJob", token()).code == "UnauthorizedOperation"


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": int(time.time()) - 120},
        {"aud": "another"},
        {"iss": "https://elsewhere.test"},
        {"owner_uin": "999"},
        {"uin": OWNER},
    ],
    ids=["expired", "audience", "issuer", "account", "root"],
)
def test_a_token_that_says_too_much_is_refused(trusting: Gateway, changes: dict[str, Any]) -> None:
    assert call(trusting, "DescribeJob", token(**changes)).code == "AuthFailure.TokenFailure"
