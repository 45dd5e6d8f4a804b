"""Bytes to Call, Reply to bytes: API 3.0, and the classic form of the queue API. Pure.

Every answer is HTTP 200 with exactly CONTENT_TYPE: with a charset added, the official SDK takes
an error for an empty success. The stream of events alone has statuses, see `server.py`.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from gateway.call import Call, Decision, HttpRequest, Reply
from gateway.errors import (
    ApiError,
    ClassicError,
    InvalidAction,
    InvalidParameter,
    InvalidParameterValue,
    InvalidRequest,
    MissingParameter,
    NoSuchVersion,
    RequestSizeLimitExceeded,
    UnauthorizedOperation,
    UnknownParameter,
)
from gateway.forms import Pairs, read_pairs

CONTENT_TYPE = "application/json"
MAX_BODY = 10 * 1024 * 1024
CLASSIC_MAX_BODY = 3 * 1024 * 1024 + 64 * 1024
"""Messages of 1 MiB together, each byte of them `%` and two digits, and everything else."""
NESTING_MAX = 64
CLASSIC_SERVICE = "cmq"
CLASSIC_VERSION = "classic"
STREAM_SERVICE, STREAM_VERSION, STREAM_ACTION = "batch", "2017-03-12", "DescribeEvents"
STREAM_FILTERS = frozenset({"JobId", "EnvId", "EventName"})
STREAM_VALUES_MAX = 1_000

ServiceOfVersion = Callable[[str], str | None]

_ACTION = re.compile(r"[A-Za-z][A-Za-z0-9]{0,63}")
_VERSION = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_REGION = re.compile(r"[a-z0-9-]{1,32}")
_EVENT_POSITION = re.compile(r"[0-9]{1,18}")
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
_BRACES_TO_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NOT_BRACKETS = bytes(each for each in range(256) if each not in b"{}[]")
_CLASSIC_COMMON = frozenset({
    "Action", "Region", "SecretId", "Nonce", "Timestamp", "SignatureMethod", "Signature",
    "RequestClient", "Token", "Version", "Language",
})  # fmt: skip


def read_call(
    request: HttpRequest,
    *,
    service: str | None,
    request_id: str,
    service_of_version: ServiceOfVersion,
    default_region: str,
) -> Call:
    """Read a call of API 3.0: a JSON body, a form, or the flattened query of a GET.

    service: as the signature names it; None takes the service that has the version.
    Raises MissingParameter, InvalidAction, NoSuchVersion, InvalidParameter, InvalidRequest or
    RequestSizeLimitExceeded.
    """
    if len(request.body) > MAX_BODY:
        raise RequestSizeLimitExceeded(f"The request body is larger than {MAX_BODY} bytes.")
    version = _read_header(request, "x-tc-version", parameter="Version")
    if not _VERSION.fullmatch(version):
        raise _no_such_version()
    service = service or service_of_version(version)
    if service is None:
        raise _no_such_version()
    return Call(
        request_id=request_id,
        service=service,
        version=version,
        action=_read_action(_read_header(request, "x-tc-action", parameter="Action")),
        region=_read_region(request.headers.get("x-tc-region") or default_region),
        params=_read_params(request),
        source_ip=request.source_ip,
        received_at=request.received_at,
    )


def read_classic_call(request: HttpRequest, *, request_id: str, default_region: str) -> Call:
    """Read a call of the classic queue API: everything in one query or form.

    Its params stay as sent: text by flat name, `msgBody.1` among them.
    Raises ClassicError, InvalidAction or InvalidParameter.
    """
    form = dict(_read_classic_pairs(request))
    if not form.get("Action"):
        raise ClassicError("lacked of required parameter Action", number=4000, module=10390)
    return Call(
        request_id=request_id,
        service=CLASSIC_SERVICE,
        version=CLASSIC_VERSION,
        action=_read_action(form["Action"]),
        region=_read_region(form.get("Region") or default_region),
        params={name: form[name] for name in form if name not in _CLASSIC_COMMON},
        source_ip=request.source_ip,
        received_at=request.received_at,
    )


def read_stream_call(
    request: HttpRequest, *, service: str | None, request_id: str, default_region: str
) -> Call:
    """Read the call that opens the stream of events: the query of a GET.

    Its params: lists of texts `JobId`, `EnvId` and `EventName`, and the number `After` if it goes
    on after an event. The headers that name action and version may be left out.
    Raises InvalidRequest, InvalidAction, InvalidParameter, InvalidParameterValue or, for what was
    signed for another service, NoSuchVersion.

    Why the header Last-Event-ID wins over `After`: who reconnects by the rules of server-sent
    events repeats the first address, `After` included, and says in the header where it was.
    """
    if request.body:
        raise InvalidRequest("The stream of events has its parameters in the query, not in a body.")
    if service not in {None, STREAM_SERVICE}:
        raise _no_such_version()
    if _read_action(request.headers.get("x-tc-action") or STREAM_ACTION) != STREAM_ACTION:
        raise InvalidAction("The request `Action` is invalid or not found.")
    given = _read_stream_query(request.query)
    params: dict[str, Any] = {name: given[name] for name in STREAM_FILTERS & given.keys()}
    after = request.headers.get("last-event-id") or _only(given, "After")
    if after:
        params["After"] = _read_event_position(after)
    return Call(
        request_id=request_id,
        service=STREAM_SERVICE,
        version=request.headers.get("x-tc-version") or STREAM_VERSION,
        action=STREAM_ACTION,
        region=_read_stream_region(request, _only(given, "Region"), default=default_region),
        params=params,
        source_ip=request.source_ip,
        received_at=request.received_at,
    )


def _read_stream_query(query: str) -> dict[str, list[str]]:
    """Every value of each parameter: given several times, or with commas between.

    Why an empty one is refused: it is a variable that was not set, not the wish for everything.
    """
    try:
        pairs = parse_qsl(query, keep_blank_values=True, errors="strict")
    except ValueError as error:
        raise InvalidParameter(f"The request's parameters cannot be read: {error}.") from None
    given: dict[str, list[str]] = {}
    for name, text in pairs:
        if name not in STREAM_FILTERS and name not in {"After", "Region"}:
            raise UnknownParameter(f"The parameter `{name[:64]}` is not recognized.")
        values = text.split(",")
        if not all(values) or "\0" in text:
            raise InvalidParameterValue(f"A value of the parameter `{name}` is empty or malformed.")
        given.setdefault(name, []).extend(values)
    if sum(map(len, given.values())) > STREAM_VALUES_MAX:
        text = f"The stream takes at most {STREAM_VALUES_MAX} names and ids."
        raise InvalidParameterValue(text, detail="LimitExceeded")
    return given


def _only(given: Mapping[str, list[str]], name: str) -> str:
    """The value of what may be given once; empty if it is not."""
    values = given.get(name, [])
    if len(values) > 1:
        raise InvalidParameter(f"The parameter `{name}` is given twice.")
    return values[0] if values else ""


def _read_event_position(text: str) -> int:
    text = text.strip(" \t")  # which may stand around the value of any header
    if not _EVENT_POSITION.fullmatch(text):
        raise InvalidParameterValue(f"`{text[:64]}` is not the id of an event of the stream.")
    return int(text)


def _read_stream_region(request: HttpRequest, asked: str, *, default: str) -> str:
    """The region, which a client that cannot set headers writes into the query."""
    named = request.headers.get("x-tc-region") or ""
    if asked and named and asked != named:
        raise InvalidParameter("`X-TC-Region` and the parameter `Region` differ.")
    return _read_region(asked or named or default)


def _read_header(request: HttpRequest, name: str, *, parameter: str) -> str:
    value = request.headers.get(name)
    if not value:
        raise MissingParameter(f"The request is missing a required parameter `{parameter}`.")
    return value


def _read_action(name: str) -> str:
    """Check the form of an action's name; the first letter may be a small one, as with the SDK."""
    if not _ACTION.fullmatch(name):
        raise InvalidAction("The request `Action` is invalid or not found.")
    return name[0].upper() + name[1:]


def _read_region(name: str) -> str:
    if not _REGION.fullmatch(name):
        raise InvalidParameter("The value type of parameter `Region` is not valid.")
    return name


def _no_such_version() -> NoSuchVersion:
    return NoSuchVersion("The request `Version` is invalid or not found.")


def _read_params(request: HttpRequest) -> Mapping[str, Any]:
    if request.method == "GET":
        if request.body:
            raise InvalidRequest("A GET request has its parameters in the query, not in a body.")
        return unflatten(_read_pairs(request.query))
    if request.method != "POST":
        raise InvalidRequest("Only GET and POST requests are supported.")
    if request.query:
        raise InvalidRequest("A POST request has its parameters in the body, not in the query.")
    kind = media_type(request)
    if kind == "application/json":
        return read_json(request.body)
    if kind == "application/x-www-form-urlencoded":
        return unflatten(_read_pairs(request.body))
    if kind == "multipart/form-data":
        raise InvalidRequest("A multipart body is not supported: send application/json.")
    raise InvalidRequest("The `Content-Type` must be application/json.")


def media_type(request: HttpRequest) -> str:
    """The content type without its parameters, in lower case."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def read_json(body: bytes) -> Mapping[str, Any]:
    """Decode a JSON object. Raises InvalidParameter for anything else.

    Deeper nesting than NESTING_MAX is refused, for later readers recurse; and so is a NUL, which
    no store can keep.
    """
    try:
        value = msgspec.json.decode(body)
    except (ValueError, RecursionError):
        raise InvalidParameter("The request body is not valid JSON in UTF-8.") from None
    if not isinstance(value, dict):
        raise InvalidParameter("The request body must be a JSON object.")
    if _nesting_exceeds(body, NESTING_MAX):
        raise InvalidParameter(f"The request body is nested deeper than {NESTING_MAX} levels.")
    if b"\\u0000" in body and _NUL.search(body):
        raise InvalidParameter("The request body has a NUL character.")
    return value


def _nesting_exceeds(body: bytes, levels: int) -> bool:
    """Tell whether valid JSON is nested deeper than so many levels, without recursion.

    Takes the strings out, then the innermost pairs of brackets, again and again.
    """
    if body.count(b"{") + body.count(b"[") <= levels:
        return False
    brackets = _STRING.sub(b"", body).translate(_BRACES_TO_BRACKETS, _NOT_BRACKETS)
    for _ in range(levels):
        brackets = brackets.replace(b"[]", b"")
    return bool(brackets)


def _read_pairs(text: str | bytes) -> Pairs:
    try:
        return read_pairs(text)
    except ValueError as error:
        raise InvalidParameter(f"The request's parameters cannot be read: {error}.") from None


def _read_classic_pairs(request: HttpRequest) -> Pairs:
    if request.method not in {"GET", "POST"}:
        raise ClassicError("only GET and POST are supported", number=4000, module=10410)
    if len(request.body) > CLASSIC_MAX_BODY:
        text = f"the request is larger than {CLASSIC_MAX_BODY} bytes"
        raise ClassicError(text, number=4000, module=10420)
    unread = request.body if request.method == "GET" else request.query
    if unread:
        raise ClassicError("cannot parse the request", number=4000, module=10420)
    try:
        return read_pairs(request.query if request.method == "GET" else request.body)
    except ValueError as error:
        raise ClassicError(
            f"cannot parse the request: {error}", number=4000, module=10420
        ) from None


def unflatten(pairs: Pairs) -> Mapping[str, Any]:
    """Build the parameters of a form: `Filters.0.Name=zone` becomes a list of one object.

    Lists count from 0, without gaps, in any order. All values stay text. Raises InvalidParameter
    for a name that is malformed, or that is both a value and something with members. Nothing is
    made larger than what was sent.
    """
    root: dict[str, Any] = {}
    for name, value in pairs:
        *path, last = name.split(".")
        if len(path) >= NESTING_MAX or not last or not all(path):
            raise _bad_name(name)
        node = root
        for part in path:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise _bad_name(name)
        if last in node:
            raise _bad_name(name)
        node[last] = value
    return {name: _lists_in(value, path=name) for name, value in root.items()}


def _lists_in(value: Any, *, path: str) -> Any:
    """Turn objects whose names are numbers into lists, here and below."""
    if not isinstance(value, dict):
        return value
    below = {name: _lists_in(each, path=f"{path}.{name}") for name, each in value.items()}
    if not any(name[0].isdigit() for name in below):
        return below
    try:
        return [below[str(index)] for index in range(len(below))]
    except KeyError:
        raise InvalidParameter(
            f"The elements of parameter `{path[:64]}` must be numbered 0, 1, 2 and so on."
        ) from None


def _bad_name(name: str) -> InvalidParameter:
    return InvalidParameter(f"The parameter name `{name[:64]}` is not valid here.")


def success(reply: Reply, request_id: str) -> bytes:
    """Put a reply into the envelope of API 3.0, without decoding it."""
    members = _members(reply)
    return b'{"Response":{%b"RequestId":%b}}' % (members, msgspec.json.encode(request_id))


def failure(error: ApiError, request_id: str) -> bytes:
    """Put an error into the envelope of API 3.0."""
    body = {"Code": error.code, "Message": _encodable(error.message)}
    return msgspec.json.encode({"Response": {"Error": body, "RequestId": request_id}})


def classic_success(reply: Reply, request_id: str) -> bytes:
    """Put a reply into the envelope of the classic queue API, without decoding it.

    A reply that begins with a `code` of its own, as a half failed batch does, keeps it.
    """
    members = _members(reply)
    head = b"" if members.startswith(b'"code":') else b'"code":0,"message":"",'
    return b'{%b%b"requestId":%b}' % (head, members, msgspec.json.encode(request_id))


def classic_failure(error: ApiError, request_id: str) -> bytes:
    """Put an error into the envelope of the classic queue API: a pair of numbers and a text."""
    number, module = classic_pair(error)
    message = f"({module}) {_encodable(error.message)}"
    return msgspec.json.encode({"code": number, "message": message, "requestId": request_id})


def _members(reply: Reply) -> bytes:
    """What stands between the braces of a reply, with a comma after it if it is anything."""
    inside = reply.members.strip()[1:-1].strip()
    return inside + b"," if inside else b""


def _encodable(text: str) -> str:
    """The text without halves of characters, which have no form in UTF-8."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


# Source: CMQ 2017 error table. What the table has no pair for is an internal error. It leaves out
# the number that goes with 4460 (a queue exists already): 10210 is the one that is free beside it.
_INTERNAL_PAIR = (6000, 10050)
_CLASSIC_PAIRS: Mapping[str, tuple[int, int]] = {
    "AuthFailure": (4100, 10030),
    "AuthFailure.InvalidSecretId": (4000, 10450),
    "AuthFailure.SecretIdNotFound": (4100, 10270),
    "InvalidAction": (4000, 10280),
    "InvalidParameter": (4000, 10000),
    "InvalidParameterValue": (4000, 10350),
    "InvalidRequest": (4000, 10420),
    "LimitExceeded": (4450, 10220),
    "MissingParameter": (4000, 10010),
    "NoSuchProduct": (4000, 10280),
    "NoSuchVersion": (4000, 10280),
    "RequestLimitExceeded": (4420, 10250),
    "RequestSizeLimitExceeded": (4000, 10420),
    "ResourceInUse": (4460, 10210),
    "ResourceNotFound": (4440, 10100),
    "UnauthorizedOperation": (4000, 10461),
    "UnknownParameter": (4000, 10320),
    "UnsupportedOperation": (4000, 10280),
}


def classic_pair(error: ApiError) -> tuple[int, int]:
    """The code and the module code that an error has in the classic queue API."""
    if isinstance(error, ClassicError):
        return error.number, error.module
    family = error.code.partition(".")[0]
    return _CLASSIC_PAIRS.get(error.code) or _CLASSIC_PAIRS.get(family, _INTERNAL_PAIR)


def denial(decision: Decision, *, request_id: str, action: str) -> UnauthorizedOperation:
    """The error of a call that a policy does not allow.

    action: as policies name it, such as "batch:SubmitJob", with or without `name/`.
    Source: form A of the answers seen from compute products, their project segment empty.
    """
    resource = decision.resource or "*"
    return UnauthorizedOperation(
        f"[request id:{request_id}]you are not authorized to perform operation "
        f"({action.removeprefix('name/')})\nresource ({resource}) has no permission\n"
    )
