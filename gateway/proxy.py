"""An upstream in another process: the same call and grant, over HTTP.

The other process serves `POST <url>` with `serve`; nothing but this gateway may reach it, for it
believes the grant it is given.
"""

from dataclasses import dataclass

import aiohttp
import msgspec

from gateway.call import Call, Grant, Reply, Upstream
from gateway.errors import ApiError, ClassicError, InternalError, ServiceUnavailable, UpstreamError

TIMEOUT_S = 60.0
CONTENT_TYPE = "application/json"
NOTHING = msgspec.Raw(b"null")


class Forwarded(msgspec.Struct):
    """What is sent: one call and what its caller may do."""

    call: Call
    grant: Grant


class Answered(msgspec.Struct):
    """What comes back: the members of the answer, or an error's code and sentence.

    numbers: the pair of an error of the classic queue API, which has it in place of a code.
    """

    members: msgspec.Raw = NOTHING
    code: str | None = None
    message: str = ""
    numbers: tuple[int, int] | None = None


class HttpUpstream:
    """An `Upstream` that forwards to `url`."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    async def __call__(self, call: Call, grant: Grant) -> Reply:
        """Forward one call. Raises ServiceUnavailable if the other process does not answer."""
        body = msgspec.json.encode(Forwarded(call, grant))
        try:
            async with self._session.post(
                self._url,
                data=body,
                headers={"Content-Type": CONTENT_TYPE},
                timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
                allow_redirects=False,
            ) as response:
                answer = await response.read()
                status = response.status
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ServiceUnavailable(
                "The service behind this API does not answer. Whether the call was done is unknown."
            ) from error
        return _read_answer(answer, status=status)


def _read_answer(answer: bytes, *, status: int) -> Reply:
    try:
        answered = msgspec.json.decode(answer, type=Answered)
    except msgspec.DecodeError as error:
        raise InternalError("The service behind this API gave an unreadable answer.") from error
    if answered.numbers is not None:
        number, module = answered.numbers
        raise ClassicError(answered.message, number=number, module=module)
    if answered.code is not None:
        raise UpstreamError(answered.message, code=answered.code)
    if status != 200 or answered.members == NOTHING:  # noqa: PLR2004  # HTTP's OK
        raise InternalError("The service behind this API gave no answer.")
    return Reply(bytes(answered.members))


async def serve(body: bytes, upstream: Upstream) -> bytes:
    """The other side: run a forwarded call on an upstream of this process, and write the answer.

    Raises msgspec.DecodeError for a body that is not a forwarded call; whoever serves this answers
    with a status other than 200 then.
    """
    forwarded = msgspec.json.decode(body, type=Forwarded)
    try:
        reply = await upstream(forwarded.call, forwarded.grant)
    except ClassicError as error:
        pair = (error.number, error.module)
        return msgspec.json.encode(Answered(message=error.message, numbers=pair))
    except ApiError as error:
        return msgspec.json.encode(Answered(code=error.code, message=error.message))
    return msgspec.json.encode(Answered(members=msgspec.Raw(reply.members)))


@dataclass(frozen=True, slots=True)
class UnfilteredList:
    """Wraps an upstream that cannot filter lists: a partial view is refused, never widened."""

    upstream: Upstream

    async def __call__(self, call: Call, grant: Grant) -> Reply:
        """Pass the call on if its caller may see the whole list, or it is no list."""
        if grant.scope is not None and not grant.scope.is_everything:
            raise UpstreamError(
                f"The action `{call.action}` needs ids here: not every one of them may be seen.",
                code="UnauthorizedOperation",
            )
        return await self.upstream(call, grant)
