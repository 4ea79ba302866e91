"""What a call can end in, as exceptions: the server's rich error details, decoded."""

from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]  # generated, ships no marker

from kgrank.v1 import ranking_service_pb2

_DETAILS_KEY = "grpc-status-details-bin"


@dataclass(frozen=True)
class FieldViolation:
    """A field of the request that the server refused, and why; `field` is a path like `events[3].product_id`."""

    field: str
    description: str


class CallError(Exception):
    """A call that failed.

    Args:
        code: the gRPC status code.
        message: the server's sentence, or gRPC's own.
        reason: the server's reason in UPPER_SNAKE_CASE, empty where the failure is not the server's.
        metadata: what the server says about the reason: a log id, a limit.
        violations: the refused fields, for INVALID_ARGUMENT.
        retry_after_s: how long to wait before trying again, where the server says so.
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        reason: str = "",
        metadata: dict[str, str] | None = None,
        violations: tuple[FieldViolation, ...] = (),
        retry_after_s: float | None = None,
    ) -> None:
        listed = "".join(f"\n  {violation.field}: {violation.description}" for violation in violations)
        super().__init__(f"{code.name}: {message}{listed}")
        self.code = code
        self.message = message
        self.reason = reason
        self.metadata = metadata or {}
        self.violations = violations
        self.retry_after_s = retry_after_s


class InvalidRequestError(CallError):
    """INVALID_ARGUMENT: `violations` names every field that is wrong."""


class NotFoundError(CallError):
    """NOT_FOUND: the single thing that was asked about is unknown."""


class RefusedError(CallError):
    """FAILED_PRECONDITION: the request is sound, but things are not in a state to grant it."""


class UnauthenticatedError(CallError):
    """UNAUTHENTICATED: the server wants to know who calls, and the token or certificate is none that it knows."""


class DeniedError(CallError):
    """PERMISSION_DENIED: the server knows the caller, who lacks the role that this call needs."""


class OverloadedError(CallError):
    """RESOURCE_EXHAUSTED: refused before any work; `retry_after_s` says when to try again."""


class ServerUnavailableError(CallError):
    """UNAVAILABLE: nobody listens there, or the server has no model yet or is leaving. Retried before it is raised."""


class DeadlineError(CallError):
    """DEADLINE_EXCEEDED: no answer within the timeout."""


class ServerFailedError(CallError):
    """INTERNAL: a defect of the server; `metadata["error_id"]` is in its log."""


_BY_CODE: dict[grpc.StatusCode, type[CallError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequestError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.FAILED_PRECONDITION: RefusedError,
    grpc.StatusCode.UNAUTHENTICATED: UnauthenticatedError,
    grpc.StatusCode.PERMISSION_DENIED: DeniedError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: OverloadedError,
    grpc.StatusCode.UNAVAILABLE: ServerUnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineError,
    grpc.StatusCode.INTERNAL: ServerFailedError,
}


def decode(error: grpc.RpcError) -> CallError:
    """Return the exception for a failed call, with whatever details the server sent."""
    # grpc raises objects that are both the error and the finished call; its types can't say so.
    call: object = error
    if not isinstance(call, grpc.Call):
        return CallError(grpc.StatusCode.UNKNOWN, str(error))
    reason, metadata, retry_after_s = "", {}, None
    violations: list[FieldViolation] = []
    for detail in _details(call):
        info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            reason, metadata = info.reason, dict(info.metadata)
        elif detail.Unpack(bad):
            violations += [FieldViolation(each.field, each.description) for each in bad.field_violations]
        elif detail.Unpack(retry):
            retry_after_s = retry.retry_delay.ToTimedelta().total_seconds()
    kind = _BY_CODE.get(call.code(), CallError)
    return kind(call.code(), call.details() or "", reason, metadata, tuple(violations), retry_after_s)


def decode_batch(error: ranking_service_pb2.BatchError) -> CallError:
    """Return the exception for one failed request of many."""
    code = next((each for each in grpc.StatusCode if each.value[0] == error.code), grpc.StatusCode.UNKNOWN)
    return _BY_CODE.get(code, CallError)(code, error.message, error.reason)


def _details(call: grpc.Call) -> list[Any]:
    for key, value in call.trailing_metadata() or ():
        if key == _DETAILS_KEY:
            try:
                return list(status_pb2.Status.FromString(value).details)
            except DecodeError:
                return []
    return []
