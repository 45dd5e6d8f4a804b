"""What every service shares: the wire types' base, and how a call becomes a handler's request."""

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import msgspec

from gateway.call import Call, Grant, Reply
from gateway.errors import (
    ApiError,
    InvalidAction,
    InvalidParameter,
    MissingParameter,
    UnknownParameter,
)

Int = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class Wire(msgspec.Struct, rename="pascal", kw_only=True, forbid_unknown_fields=True):
    """A structure of the API. Snake case here is PascalCase on the wire."""


W = TypeVar("W", bound=Wire)


class Empty(Wire):
    """No members: the request or response of many actions."""


@dataclass(frozen=True, slots=True)
class Operation:
    """How one action is served.

    prepare: rewrites spellings that older clients use into the ones of `request`; pure.
    """

    request: type[Wire]
    handler: Callable[[Call, Grant, Any], Awaitable[Wire]]
    prepare: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None


class Service:
    """An `Upstream` in this process: decodes, calls the handler, encodes."""

    def __init__(self, operations: Mapping[str, Operation]) -> None:
        self._operations = operations

    @property
    def actions(self) -> frozenset[str]:
        """The actions that have a handler."""
        return frozenset(self._operations)

    async def __call__(self, call: Call, grant: Grant) -> Reply:
        """Serve one call that was decided on before."""
        operation = self._operations.get(call.action)
        if operation is None:
            raise InvalidAction("The request `Action` is invalid or not found.")
        params = operation.prepare(call.params) if operation.prepare else call.params
        response = await operation.handler(call, grant, decode(params, operation.request))
        return Reply(msgspec.json.encode(response))


def decode(params: Mapping[str, Any], kind: type[W]) -> W:
    """Read parameters into a wire type. Numbers and booleans may be written as strings.

    Raises MissingParameter, UnknownParameter or InvalidParameter, naming the member.
    """
    try:
        return msgspec.convert(params, kind, strict=False)
    except msgspec.ValidationError as error:
        raise parameter_error(str(error)) from error


_MISSING = re.compile(r"Object missing required field `(?P<name>[^`]*)`")
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<name>[^`]*)`")
_PLACE = re.compile(r" - at `\$\.?(?P<path>[^`]*)`$")


def parameter_error(text: str) -> ApiError:
    """Turn msgspec's sentence into the public error. msgspec gives no structure, only the text."""
    place = _PLACE.search(text)
    path = place["path"] if place else ""
    if missing := _MISSING.match(text):
        name = f"{path}.{missing['name']}" if path else missing["name"]
        return MissingParameter(f"The request is missing a required parameter `{name}`.")
    if unknown := _UNKNOWN.match(text):
        name = f"{path}.{unknown['name']}" if path else unknown["name"]
        return UnknownParameter(f"The parameter `{name}` is not recognized.")
    why = _PLACE.sub("", text)
    return InvalidParameter(f"The value type of parameter `{path}` is not valid: {why}.")
