"""Conversion of refusals to a gRPC status with `google.rpc` details, and back at the client.

A status has the code, reason, metadata, message and retry delay of a refusal, and nothing of an unknown exception.
"""

from datetime import timedelta

import grpc
from google.protobuf.any_pb2 import Any
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from services.kit import errors

DOMAIN = "quanyu"
"""The domain of the `ErrorInfo` of a refusal."""

CODES: dict[type[errors.Refusal], grpc.StatusCode] = {
    errors.Invalid: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.Denied: grpc.StatusCode.PERMISSION_DENIED,
    errors.Conflict: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Exhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
}
# The statuses that a server or channel sends itself, without details.
TRANSPORT: dict[grpc.StatusCode, tuple[type[errors.Refusal], str]] = {
    grpc.StatusCode.DEADLINE_EXCEEDED: (errors.Unavailable, "DEADLINE_EXCEEDED"),
    grpc.StatusCode.UNAVAILABLE: (errors.Unavailable, "SERVICE_UNAVAILABLE"),
    grpc.StatusCode.CANCELLED: (errors.Unavailable, "CANCELLED"),
    grpc.StatusCode.RESOURCE_EXHAUSTED: (errors.Overloaded, "SERVICE_OVERLOADED"),
}


def to_status(refusal: errors.Refusal) -> status_pb2.Status:
    """Converts a refusal to a `google.rpc.Status` whose `ErrorInfo` carries its code and reason."""
    metadata = refusal.metadata | {"code": refusal.code}
    details: list[error_details_pb2.ErrorInfo | error_details_pb2.RetryInfo] = [
        error_details_pb2.ErrorInfo(reason=refusal.reason, domain=DOMAIN, metadata=metadata)
    ]
    if refusal.retry_after is not None:
        details.append(error_details_pb2.RetryInfo(retry_delay=refusal.retry_after))
    packed = []
    for detail in details:
        packed.append(Any())
        packed[-1].Pack(detail)
    return status_pb2.Status(code=CODES[type(refusal)].value[0], message=refusal.message, details=packed)


def from_status(status: status_pb2.Status) -> errors.Refusal | None:
    """Returns the refusal that a status carries; None if `to_status` did not make it."""
    info, retry_after = error_details_pb2.ErrorInfo(), None
    for detail in status.details:
        if detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            retry = error_details_pb2.RetryInfo()
            detail.Unpack(retry)
            retry_after = timedelta(seconds=retry.retry_delay.seconds, microseconds=retry.retry_delay.nanos // 1000)
        elif detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            detail.Unpack(info)
    metadata: dict[str, str] = dict(info.metadata)
    code = metadata.pop("code", "")
    if info.domain != DOMAIN or code not in errors.BY_CODE:
        return None
    refusal = errors.restore(code, info.reason, status.message, metadata)
    refusal.retry_after = retry_after
    return refusal


def from_rpc_error(error: grpc.aio.AioRpcError) -> errors.Refusal | None:
    """Returns the refusal of a failed call. A failure of the transport is retryable; a bug of the server is None."""
    status = rpc_status.from_call(error)
    if status is not None and (refusal := from_status(status)):
        return refusal
    if failure := TRANSPORT.get(error.code()):
        kind, reason = failure
        return kind(reason, "The service does not respond at the moment. Try again.")
    return None
