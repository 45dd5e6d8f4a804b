"""A client of the classic queue API (v1), written from its documents alone.

Why not the vendor's: its classic SDK runs on Python 2 only.
"""

import base64
import hashlib
import hmac
import json
import secrets
import time
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import Any

from tests.support.running import Credentials, Gateway
from tests.support.services import LOOPBACK

PATH = "/v2/index.php"
NO_MESSAGE = 7000


@dataclass(eq=False)
class ClassicRefused(Exception):
    """An answer whose code is not 0."""

    code: int
    message: str


@dataclass(frozen=True)
class ClassicClient:
    """The queues of one caller. It names no region, as the classic SDK does: the default one."""

    gateway: Gateway
    who: Credentials

    def __call__(self, action: str, **parameters: str) -> dict[str, Any]:
        """Call an action. Raises ClassicRefused."""
        form = {
            "Action": action,
            "SecretId": self.who.secret_id,
            "Timestamp": str(int(time.time())),
            "Nonce": str(secrets.randbelow(2**31) + 1),
            "SignatureMethod": "HmacSHA256",
            **parameters,
        }
        body = urllib.parse.urlencode({**form, "Signature": self._sign(form)}).encode()
        address = f"http://{LOOPBACK}:{self.gateway.port}{PATH}"
        with urllib.request.urlopen(address, data=body, timeout=40) as answer:
            members: dict[str, Any] = json.load(answer)
        if members["code"] != 0:
            raise ClassicRefused(members["code"], members["message"])
        return members

    def _sign(self, form: dict[str, str]) -> str:
        host = f"{LOOPBACK}:{self.gateway.port}"
        text = "&".join(f"{name}={form[name]}" for name in sorted(form))
        digest = hmac.new(
            self.who.secret_key.encode(), f"POST{host}{PATH}?{text}".encode(), hashlib.sha256
        )
        return base64.b64encode(digest.digest()).decode()

    def drain(self, queue: str, *, count: int) -> list[str]:
        """Receive and delete so many messages, waiting for each up to half a minute."""
        bodies: list[str] = []
        while len(bodies) < count:
            message = self("ReceiveMessage", queueName=queue, pollingWaitSeconds="30")
            self("DeleteMessage", queueName=queue, receiptHandle=message["receiptHandle"])
            bodies.append(message["msgBody"])
        return bodies

    def is_empty(self, queue: str) -> bool:
        """Whether no message can be received now."""
        try:
            self("ReceiveMessage", queueName=queue, pollingWaitSeconds="0")
        except ClassicRefused as refused:
            if refused.code == NO_MESSAGE:
                return True
            raise
        return False
