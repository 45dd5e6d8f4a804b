"""An S3 server for tests: moto's, as a process of its own, and a look into it without a client."""

import contextlib
import http.client
import itertools
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, unquote

from anyio import BrokenResourceError, CancelScope, EndOfStream
from anyio.abc import SocketStream
from botocore.session import Session

from tests.support.services import LOOPBACK, Program, Server
from tests.support.tcp import Line

REGION = "ap-guangzhou"
SOMEBODY = {
    "Authorization": "AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/s3/aws4_request,"
    " SignedHeaders=host, Signature=0"
}
"""A signature that nobody checks; without any, only what is public can be read."""

_numbers = itertools.count(10_000_000)


class S3Server(Server):
    """moto's server. Unless told otherwise it asks nobody for a signature."""

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def new_bucket(self) -> str:
        """Make a bucket with a name of its own."""
        bucket = f"test-{next(_numbers)}"
        self.ask("PUT", f"/{bucket}")
        return bucket

    def write(self, bucket: str, key: str, content: bytes) -> None:
        """Store a file that everybody may read under exactly this key."""
        acl = {"x-amz-acl": "public-read"}
        status, answer, _ = self._request("PUT", f"/{bucket}/{quote(key)}", content, **acl)
        assert status == http.client.OK, answer

    def read(self, bucket: str, key: str) -> bytes | None:
        status, content, _ = self._request("GET", f"/{bucket}/{quote(key)}")
        return content if status == http.client.OK else None

    def tag(self, bucket: str, key: str) -> str:
        """The ETag of a file; with a dash and the number of parts if it came in several."""
        return self._request("HEAD", f"/{bucket}/{quote(key)}")[2].strip('"')

    def keys(self, bucket: str) -> set[str]:
        """The keys of a bucket, at most 1,000."""
        answer = self.ask("GET", f"/{bucket}?list-type=2&encoding-type=url")
        return {unquote(key) for key in re.findall(r"<Key>(.*?)</Key>", answer.decode())}

    def uploads(self, bucket: str) -> list[str]:
        """The keys of uploads in parts that were begun and neither completed nor aborted."""
        return re.findall(r"<Key>(.*?)</Key>", self.ask("GET", f"/{bucket}?uploads").decode())

    @contextlib.contextmanager
    def signatures_checked(self) -> Iterator[tuple[str, str]]:
        """A `with` block in which only the key pair that it gives may do anything."""
        client = Session().create_client(
            "iam",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id="x",
            aws_secret_access_key="x",
        )
        name = f"user-{next(_numbers)}"
        client.create_user(UserName=name)
        everything = (
            '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}'
        )
        client.put_user_policy(UserName=name, PolicyName="all", PolicyDocument=everything)
        pair = client.create_access_key(UserName=name)["AccessKey"]
        self.ask("POST", "/moto-api/reset-auth", b"0")
        try:
            yield pair["AccessKeyId"], pair["SecretAccessKey"]
        finally:
            self.ask("POST", "/moto-api/reset-auth", b"inf")

    def ask(self, method: str, path: str, body: bytes | None = None) -> bytes:
        status, content, _ = self._request(method, path, body)
        assert status == http.client.OK, (status, content)
        return content

    def _request(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, bytes, str]:
        """Ask as somebody; return the status, the content and the ETag."""
        with contextlib.closing(http.client.HTTPConnection(LOOPBACK, self.port, 30)) as line:
            line.request(method, path, body, {**SOMEBODY, **headers})
            answer = line.getresponse()
            return answer.status, answer.read(), answer.headers.get("ETag", "")

    def _launch(self) -> Program:
        return Program(
            [sys.executable, "-m", "moto.server", "-H", LOOPBACK, "-p", str(self.port)],
            log=self.folder / "output.log",
            env={},
        )

    def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            return self._request("GET", "/moto-api/data.json")[0] == http.client.OK
        return False


@contextlib.contextmanager
def running_s3(folder: Path) -> Iterator[S3Server]:
    """A server with no buckets."""
    server = S3Server(folder)
    server.start()
    try:
        yield server
    finally:
        server.close()


class CutLine(Line):
    """A line that is cut whenever so many bytes have passed one way, so many times.

    after_bytes, cuts_left: to be set by the test.
    """

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.after_bytes = 0
        self.cuts_left = 0

    async def _copy(self, source: SocketStream, target: SocketStream, scope: CancelScope) -> None:
        passed = 0
        with contextlib.suppress(EndOfStream, BrokenResourceError):
            while True:
                data = await source.receive()
                passed += len(data)
                if self.cuts_left and passed > self.after_bytes:
                    self.cuts_left -= 1
                    break
                await target.send(data)
        scope.cancel()
