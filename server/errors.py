"""Every error that a call can end in, and its gRPC status: one table.

Each has `google.rpc.Status` details: ErrorInfo always, BadRequest for refused fields, RetryInfo where waiting helps. A
defect of ours becomes INTERNAL with an id that is in the log; never a trace, a path or a secret.
"""

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import grpc
import structlog
from google.protobuf import any_pb2
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]  # generated, ships no marker

from kg.errors import (
    GraphAuthError,
    GraphBusyError,
    GraphDiskError,
    GraphError,
    GraphFullError,
    GraphQueryError,
    GraphSetupError,
    GraphUnavailableError,
    KgrankError,
)
from server.refusals import RefusalLog

DOMAIN = "kgrank"
DETAILS_KEY = "grpc-status-details-bin"

# gRPC drops a status whose metadata are above 8 KiB, and the details travel in base64.
_MOST_VIOLATION_BYTES = 4096
_MOST_MESSAGE_BYTES = 400
_ATTEMPTS_TAKE_S = 2.0
_STOPS = (".", "!", "?", ":", ";")
_NOT_AGAIN = ("grpc-retry-pushback-ms", "-1")  # to a client that tries again by itself

_log = structlog.get_logger(__name__)
_REFUSALS = RefusalLog()


@dataclass(frozen=True)
class Violation:
    """A refused field of a request: its path (`events[3].product_id`), and what is wrong with it."""

    field: str
    description: str


class InvalidRequestError(KgrankError):
    """A request has fields that can't be accepted."""

    def __init__(self, violations: Sequence[Violation]) -> None:
        super().__init__(f"{len(violations)} field{'s' * (len(violations) > 1)} of the request can't be accepted")
        self.violations = tuple(violations)


class UnknownProductError(KgrankError):
    """The single product that was asked about is not in the catalogue."""


class UnknownUserError(KgrankError):
    """Nothing is known of the user that was asked about."""


class UnknownModelError(KgrankError):
    """There is no such model in the artifacts folder."""


class ModelRefusedError(KgrankError):
    """A model does not fit the catalogue, or can't be read."""


class NoModelBeforeError(KgrankError):
    """There is no model to roll back to."""


class UnknownRuleError(KgrankError):
    """There is no such rule."""


class SearchOffError(KgrankError):
    """The server was told not to answer searches."""


class NoGraphError(GraphUnavailableError):
    """The server was started without a graph."""


class ErasureWaitsError(KgrankError):
    """A user's erasure is written down, and something kept it from being done; it is tried again until it is."""


class ErasureUnfinishedError(KgrankError):
    """A user is erased but for snapshots that can't be rewritten."""


class OverloadedError(KgrankError):
    """Too many requests are waiting; refused before any work."""


class JournalFullError(KgrankError):
    """The event journal's disk is full; the event is not stored."""


class GraphBehindError(KgrankError):
    """As many events wait on disk for the graph as may; the event is not stored."""


class JournalError(KgrankError):
    """The event journal can't be opened or written."""


class NotServingError(KgrankError):
    """No model is in service, or the server is leaving."""


class UnauthenticatedError(KgrankError):
    """The call has no credentials, or ones that aren't good."""


class DeniedError(KgrankError):
    """The caller lacks the role that the call needs."""


class RateLimitedError(KgrankError):
    """The caller has called too often; `retry_after_s` says when it may again."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__("this caller has called too often", "Call more slowly, or ask an operator for a higher rate.")
        self.retry_after_s = retry_after_s


class AuditError(KgrankError):
    """The audit log can't be written, so that the call was not carried out."""


@dataclass(frozen=True)
class _Status:
    """How a call ends.

    Args:
        code: gRPC's status.
        reason: ours.
        retry_after_s: how long to wait before trying again; None: that does not help, whatever the code says.
        told: what the caller is told instead of the error's own text, which says where the graph is.
        traced: the log has the error itself, under an id that the caller gets.
    """

    code: grpc.StatusCode
    reason: str
    retry_after_s: float | None = None
    told: str = ""
    traced: bool = False


_DEFECT = _Status(grpc.StatusCode.INTERNAL, "DEFECT", told="the server failed", traced=True)
_SETUP = "the graph does not accept this server; an operator has to mend that"

_TABLE: dict[type[Exception], _Status] = {
    InvalidRequestError: _Status(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS"),
    UnknownProductError: _Status(grpc.StatusCode.NOT_FOUND, "UNKNOWN_PRODUCT"),
    UnknownUserError: _Status(grpc.StatusCode.NOT_FOUND, "UNKNOWN_USER"),
    UnknownModelError: _Status(grpc.StatusCode.NOT_FOUND, "UNKNOWN_MODEL"),
    ModelRefusedError: _Status(grpc.StatusCode.FAILED_PRECONDITION, "MODEL_REFUSED"),
    NoModelBeforeError: _Status(grpc.StatusCode.FAILED_PRECONDITION, "NO_MODEL_BEFORE"),
    UnknownRuleError: _Status(grpc.StatusCode.NOT_FOUND, "UNKNOWN_RULE"),
    SearchOffError: _Status(grpc.StatusCode.FAILED_PRECONDITION, "SEARCH_OFF"),
    OverloadedError: _Status(grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", 0.2),
    JournalFullError: _Status(grpc.StatusCode.RESOURCE_EXHAUSTED, "JOURNAL_FULL", 30),
    GraphBehindError: _Status(grpc.StatusCode.RESOURCE_EXHAUSTED, "GRAPH_BEHIND", 30),
    JournalError: _Status(grpc.StatusCode.UNAVAILABLE, "JOURNAL_FAILED", 5),
    NotServingError: _Status(grpc.StatusCode.UNAVAILABLE, "NOT_SERVING", 1),
    UnauthenticatedError: _Status(grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED"),
    DeniedError: _Status(grpc.StatusCode.PERMISSION_DENIED, "MISSING_ROLE"),
    RateLimitedError: _Status(grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED", 1),
    AuditError: _Status(grpc.StatusCode.UNAVAILABLE, "AUDIT_FAILED", 30),
    NoGraphError: _Status(grpc.StatusCode.UNAVAILABLE, "GRAPH_UNAVAILABLE"),
    ErasureWaitsError: _Status(grpc.StatusCode.UNAVAILABLE, "ERASURE_WAITS", 5),
    ErasureUnfinishedError: _Status(grpc.StatusCode.UNAVAILABLE, "ERASURE_UNFINISHED", 30),
    GraphUnavailableError: _Status(grpc.StatusCode.UNAVAILABLE, "GRAPH_UNAVAILABLE", 5, "the graph does not answer"),
    GraphBusyError: _Status(grpc.StatusCode.UNAVAILABLE, "GRAPH_BUSY", 1, "the graph was too busy; nothing was done"),
    GraphFullError: _Status(
        grpc.StatusCode.RESOURCE_EXHAUSTED, "GRAPH_FULL", 30, "the graph has no room left to write"
    ),
    # What Neo4j itself says of a full disk; it writes nothing any more before it was restarted.
    GraphDiskError: _Status(grpc.StatusCode.UNAVAILABLE, "GRAPH_DISK", 30, "the graph can't write: see to its disk"),
    GraphAuthError: _Status(grpc.StatusCode.FAILED_PRECONDITION, "GRAPH_SETUP", told=_SETUP),
    GraphSetupError: _Status(grpc.StatusCode.FAILED_PRECONDITION, "GRAPH_SETUP", told=_SETUP),
    GraphQueryError: _DEFECT,
    # Whatever else goes wrong in the graph; what it says may quote what was asked, so that only the log has it.
    GraphError: _Status(grpc.StatusCode.UNAVAILABLE, "GRAPH_FAILED", 5, "the graph failed", traced=True),
}


@dataclass(frozen=True)
class Failure:
    """What a caller is told; `details` is the serialised `google.rpc.Status` for the trailing metadata."""

    code: grpc.StatusCode
    reason: str
    message: str
    details: bytes
    not_now: bool = False

    @property
    def trailing(self) -> tuple[tuple[str, str | bytes], ...]:
        """The trailing metadata: what a client's attempts together are too short for is not tried again by itself."""
        return ((DETAILS_KEY, self.details), *((_NOT_AGAIN,) if self.not_now else ()))


def status_code(error: Exception) -> grpc.StatusCode:
    """Return the status that an error ends a call in."""
    return _status(error).code


def _status(error: Exception) -> _Status:
    return next((_TABLE[kind] for kind in type(error).__mro__ if kind in _TABLE), _DEFECT)


def failure(error: Exception, *, method: str, request_id: str) -> Failure:
    """Return what a caller is told of an error; a defect is logged with its trace, under an id that the caller gets."""
    status = _status(error)
    metadata = {"request_id": request_id} if request_id else {}
    if status.traced:
        error_id = secrets.token_hex(8)
        metadata["error_id"] = error_id
        message = f"{status.told}; the server's log has the details under error_id {error_id}"
        _log.error("call_failed", method=method, error_id=error_id, request_id=request_id, exc_info=error)
    else:
        message = status.told or _message(error)
        _REFUSALS.refused(method=method, reason=status.reason, request_id=request_id)
    return _failure(status, error, message, metadata)


def prepared(error: KgrankError) -> Failure:
    """Return what callers are told of an error that is no defect of ours, to be told again and again."""
    return _failure(_status(error), error, _message(error), {})


def refused_again(told: Failure) -> Failure | None:
    """Return what was prepared, and count it; None where the log has room, so that the call gets a line and an id."""
    return told if _REFUSALS.left_out() else None


def _message(error: Exception) -> str:
    """Return an error's text on one line: a sentence for the problem, and one for the remedy."""
    text = str(error)
    if isinstance(error, KgrankError) and error.remedy:
        text = error.problem + ("" if error.problem.endswith(_STOPS) else ".") + f" {error.remedy}"
    return _shortened(text.replace("\n", " "))


def _failure(status: _Status, error: Exception, message: str, metadata: dict[str, str]) -> Failure:
    details = [error_details_pb2.ErrorInfo(reason=status.reason, domain=DOMAIN, metadata=metadata)]
    if isinstance(error, InvalidRequestError):
        details.append(_bad_request(error.violations))
    if status.retry_after_s is not None:
        delay = Duration()
        # An error that knows better than the table says so.
        delay.FromMilliseconds(math.ceil(getattr(error, "retry_after_s", status.retry_after_s) * 1000))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    packed = []
    for detail in details:
        packed.append(any_pb2.Any())
        packed[-1].Pack(detail)
    rich = status_pb2.Status(code=status.code.value[0], message=message, details=packed)
    soon = status.retry_after_s is not None and status.retry_after_s <= _ATTEMPTS_TAKE_S
    not_now = status.code is grpc.StatusCode.UNAVAILABLE and not soon
    return Failure(status.code, status.reason, message, rich.SerializeToString(), not_now)


def _bad_request(violations: Sequence[Violation]) -> error_details_pb2.BadRequest:
    """Return the first few KiB of violations; a last one without a field counts those that are left out."""
    told = error_details_pb2.BadRequest()
    for place, each in enumerate(violations):
        told.field_violations.add(field=each.field, description=each.description)
        if told.ByteSize() > _MOST_VIOLATION_BYTES:
            del told.field_violations[-1]
            told.field_violations.add(field="", description=f"and {len(violations) - place} more")
            break
    return told


def _shortened(message: str) -> str:
    encoded = message.encode()
    if len(encoded) <= _MOST_MESSAGE_BYTES:
        return message
    return encoded[:_MOST_MESSAGE_BYTES].decode(errors="ignore") + "..."
