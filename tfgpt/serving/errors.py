"""What a server refuses, in the canonical codes that TensorFlow Serving's REST and gRPC share.

Source: https://github.com/googleapis/googleapis/blob/master/google/rpc/code.proto
"""
from __future__ import annotations


class ServingError(Exception):
    """A request that is not served; the message goes to the client. `code` is the name of a canonical code, which each protocol has its number for."""

    code = "INTERNAL"


class BadRequestError(ServingError, ValueError):
    """A request that cannot be understood."""

    code = "INVALID_ARGUMENT"


class NotServedError(ServingError, LookupError):
    """A request for a model or version that is not here."""

    code = "NOT_FOUND"


class PreconditionError(ServingError):
    """A request that could be served in another state of the server or by another signature."""

    code = "FAILED_PRECONDITION"


class UnauthenticatedError(ServingError):
    """A request without a key where one is asked for, or with one that is not known."""

    code = "UNAUTHENTICATED"


class PermissionDeniedError(ServingError):
    """A request that this caller may not make."""

    code = "PERMISSION_DENIED"


class UnavailableError(ServingError):
    """A request that may be sent again later, to this server or to another."""

    code = "UNAVAILABLE"


class ResourceExhaustedError(ServingError):
    """A request that there is no room for now; there may be in `retry_after` seconds."""

    code = "RESOURCE_EXHAUSTED"

    def __init__(self, message: str, retry_after: int = 1):
        super().__init__(message)
        self.retry_after = retry_after


class DeadlineError(ServingError):
    """A request whose time is over before it is answered."""

    code = "DEADLINE_EXCEEDED"


class CancelledError(ServingError):
    """A request that was given up by whoever sent it."""

    code = "CANCELLED"
