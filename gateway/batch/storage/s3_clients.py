"""Clients of an S3-compatible service, and what the service says in words.

What the environment or files of the account hold for AWS's own tools does not count here: settings
and the Authentications of a task alone do.
"""

import errno
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    IncompleteReadError,
    ReadTimeoutError,
    ResponseStreamingError,
)
from botocore.session import Session

from gateway.batch.storage import Keys, trees

CLIENTS_MAX = 32
CONNECTIONS_MAX = 32
TRIES = 3
CONNECT_S = 5
READ_S = 30
_UNKNOWN, _CLOSED, _LATER, _ITS_OWN_FAULT = 404, {401, 403}, {408, 429}, 500  # HTTP status
_CODE = re.compile(r"[A-Za-z]{1,64}")
_BROKEN = (HTTPClientError, EndpointConnectionError, ResponseStreamingError, IncompleteReadError)

Client = Any  # botocore makes its clients from data, and they have no types


class Clients:
    """One client for each key pair, safe to use in many threads.

    endpoint: `http://host` or `https://host`. keys: the storage's own; None to come unsigned.
    region: what requests are signed for. read_s: how long one try may be without an answer, once
    it is connected; a request is tried TRIES times.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        keys: Keys | None,
        region: str,
        read_s: float = READ_S,
    ) -> None:
        self._endpoint = endpoint
        self._keys = keys
        self._region = region
        self._read_s = read_s
        self._session = _session_apart()
        self._made: dict[Keys | None, Client] = {}
        self._lock = threading.Lock()

    def of(self, keys: Keys | None) -> Client:
        """The client that signs with `keys`, or the storage's own; made once, as it takes long."""
        signer = keys or self._keys
        with self._lock:
            client = self._made.pop(signer, None)
            if client is None:
                client = self._new(signer)
                while len(self._made) >= CLIENTS_MAX:
                    self._made.pop(next(iter(self._made))).close()
            self._made[signer] = client  # the last to be forgotten
        return client

    def close(self) -> None:
        """Close the lines that nobody uses; whoever uses one still can finish."""
        with self._lock:
            while self._made:
                self._made.popitem()[1].close()

    def _new(self, signer: Keys | None) -> Client:
        pair = (signer.secret_id, signer.secret_key) if signer else (None, None)
        return self._session.create_client(
            "s3",
            endpoint_url=self._endpoint,
            region_name=self._region,
            aws_access_key_id=pair[0],
            aws_secret_access_key=pair[1],
            config=Config(
                signature_version="s3v4" if signer else UNSIGNED,
                connect_timeout=CONNECT_S,
                read_timeout=self._read_s,
                retries={"mode": "standard", "total_max_attempts": TRIES},
                max_pool_connections=CONNECTIONS_MAX,
                proxies={},
                s3={"addressing_style": addressing(self._endpoint)},
                # Not every service knows the newer checksums; the signature covers the bytes.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )


def addressing(endpoint: str) -> str:
    """How a bucket is named in a request: in the "path", or in the host ("virtual").

    Why: most S3-compatible services have one host; COS itself refuses the path form for buckets
    made since 2024.
    """
    host = urlsplit(endpoint).hostname or ""
    return "virtual" if host.endswith(".myqcloud.com") else "path"


def _session_apart() -> Session:
    """A session that reads no environment and no files of the account: settings alone count."""
    session = Session()
    for name, (_, _, default, conversion) in dict(session.session_var_map).items():
        session.session_var_map[name] = (None, None, default, conversion)
    session.set_config_variable("config_file", os.devnull)
    session.set_config_variable("credentials_file", os.devnull)
    return session


@contextmanager
def in_words(name: str) -> Iterator[None]:
    """Have errors of the service tell what it said about `name`, and no more."""
    try:
        yield
    except ClientError as error:
        raise _refusal(error, name) from error
    except (ReadTimeoutError, ConnectTimeoutError) as error:
        words = f"The storage did not answer in time for `{name}`."
        raise trees.problem(errno.ETIMEDOUT, words) from error
    except _BROKEN as error:
        words = f"The line to the storage broke, or could not be made, for `{name}`."
        raise trees.problem(errno.ECONNABORTED, words) from error
    except BotoCoreError as error:
        words = f"The storage could not be asked for `{name}` ({type(error).__name__})."
        raise trees.problem(errno.EIO, words) from error


def _refusal(error: ClientError, name: str) -> OSError:
    """What a service refused; EREMOTEIO if it says that it fails itself, or is asked too often."""
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    said = f" ({code})" if _CODE.fullmatch(code) else ""
    if code == "NoSuchBucket":
        return trees.problem(errno.ENOENT, f"The bucket of `{name}` does not exist.")
    if code == "PreconditionFailed":
        return trees.problem(errno.EIO, f"`{name}` changed while it was read.")
    if status == _UNKNOWN:
        return trees.problem(errno.ENOENT, f"`{name}` does not exist.")
    if status in _CLOSED:
        return trees.problem(errno.EACCES, f"The storage refused access to `{name}`{said}.")
    passes = status >= _ITS_OWN_FAULT or status in _LATER
    number = errno.EREMOTEIO if passes else errno.EIO
    return trees.problem(number, f"The storage failed for `{name}`{said}.")
