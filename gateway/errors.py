"""The public errors: one class per code family, raised where the fact is known.

They are turned into an answer in one place, `server.py`. Any other exception is a bug.
"""

from typing import ClassVar


class ApiError(Exception):
    """An answer the caller can act on: a public code and a sentence.

    detail: the part of the code after the dot, such as "Job" in `ResourceNotFound.Job`.
    """

    family: ClassVar[str] = "InternalError"

    def __init__(self, message: str, *, detail: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail

    @property
    def code(self) -> str:
        """The public code, family and detail."""
        return f"{self.family}.{self.detail}" if self.detail else self.family


class AllowedOneAttributeInEnvIdAndComputeEnv(ApiError):
    """A task names both an environment and an elastic one, or neither."""

    family = "AllowedOneAttributeInEnvIdAndComputeEnv"


class AuthFailure(ApiError):
    """Nobody we know signed this call."""

    family = "AuthFailure"


class FailedOperation(ApiError):
    """The operation was understood and did not succeed."""

    family = "FailedOperation"


class InternalError(ApiError):
    """Our own fault; says nothing about the inside."""

    family = "InternalError"


class InvalidAction(ApiError):
    """The service has no such action."""

    family = "InvalidAction"


class InvalidFilter(ApiError):
    """The list has no such filter."""

    family = "InvalidFilter"


class InvalidParameter(ApiError):
    """A parameter has the wrong type or form."""

    family = "InvalidParameter"


class InvalidParameterAtLeastOneAttribute(ApiError):
    """A call that changes something says nothing of what."""

    family = "InvalidParameterAtLeastOneAttribute"


class InvalidParameterValue(ApiError):
    """A parameter has the right form and a value that cannot be accepted."""

    family = "InvalidParameterValue"


class InvalidRequest(ApiError):
    """The HTTP request itself is not one this API can read."""

    family = "InvalidRequest"


class InvalidZone(ApiError):
    """The zone does not exist."""

    family = "InvalidZone"


class LimitExceeded(ApiError):
    """A quota is used up."""

    family = "LimitExceeded"


class MissingParameter(ApiError):
    """A required parameter is absent."""

    family = "MissingParameter"


class NoSuchProduct(ApiError):
    """The call names a service that is not served here."""

    family = "NoSuchProduct"


class NoSuchVersion(ApiError):
    """The service exists, its version does not."""

    family = "NoSuchVersion"


class OperationDenied(ApiError):
    """The object's own state forbids the operation."""

    family = "OperationDenied"


class RequestLimitExceeded(ApiError):
    """More at once than one caller, or everybody together, may have; later it may be possible."""

    family = "RequestLimitExceeded"


class RequestSizeLimitExceeded(ApiError):
    """The body is larger than is ever read."""

    family = "RequestSizeLimitExceeded"


class ResourceInUse(ApiError):
    """The object exists already, or something still uses it."""

    family = "ResourceInUse"


class ResourceNotFound(ApiError):
    """The object does not exist, or belongs to another account."""

    family = "ResourceNotFound"


class ServiceUnavailable(ApiError):
    """Something that must be durable cannot be made so now; nothing was done."""

    family = "ServiceUnavailable"


class UnauthorizedOperation(ApiError):
    """A policy does not allow the call."""

    family = "UnauthorizedOperation"


class UnknownParameter(ApiError):
    """The action has no such parameter."""

    family = "UnknownParameter"


class UnsupportedOperation(ApiError):
    """The operation is not possible: not built, or not in this state."""

    family = "UnsupportedOperation"


class UpstreamError(ApiError):
    """A public error that a service in another process answered with, passed on as it is."""

    def __init__(self, message: str, *, code: str) -> None:
        family, _, detail = code.partition(".")
        super().__init__(message, detail=detail or None)
        self.upstream_family = family

    @property
    def code(self) -> str:
        """The code exactly as the other process gave it."""
        return f"{self.upstream_family}.{self.detail}" if self.detail else self.upstream_family


class ClassicError(ApiError):
    """An error of the classic CMQ data API, which answers with a pair of numbers.

    number, module: the pair, such as 4440 and 10100. The text on the wire is `(module) message`.
    Source: CMQ 2017 error table.
    """

    def __init__(self, message: str, *, number: int, module: int) -> None:
        super().__init__(message)
        self.number = number
        self.module = module

    @property
    def code(self) -> str:
        """The pair as one word, for logs and metrics; on the wire it stays a pair."""
        return f"classic-{self.number}-{self.module}"
