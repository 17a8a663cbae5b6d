"""Spans (OpenTelemetry) across gateway, gRPC and MongoDB, and metrics (Prometheus). No personal data in either.

Only the API is used. Without an SDK configured by the deployment, spans are not recorded.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from functools import cache
from typing import Any

from opentelemetry import context, propagate, trace
from prometheus_client import Counter, Gauge, Histogram, start_http_server
from pymongo import monitoring

TRACER = trace.get_tracer("quanyu")
CALLS = Histogram(
    "quanyu_rpc_seconds",
    "Time to answer an rpc.",
    ["method", "code"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
)
STREAMS = Gauge("quanyu_streams", "Streaming rpcs that are open.")
TRACE_HEADERS = ("traceparent", "tracestate")
"""The headers that name the trace of a request."""
_UNTRACED = nullcontext(trace.INVALID_SPAN)
BUGS = Counter("quanyu_bugs_total", "Unknown exceptions answered as INTERNAL.", ["method"])


@cache
def is_tracing() -> bool:
    """True if the deployment configured an SDK before the first request, so that spans are exported."""
    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


def extract_context(metadata: Mapping[str, str]) -> Any:
    """Returns the trace context of an incoming call."""
    return propagate.extract(metadata)


def trace_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Returns the headers that name the trace."""
    return {name: headers[name] for name in TRACE_HEADERS if name in headers} if TRACE_HEADERS[0] in headers else {}


def start_span(name: str, headers: Mapping[str, str]) -> Any:
    """Returns the span of an incoming request as a context manager. Without an SDK it only propagates the caller's trace."""
    if "traceparent" not in headers and not is_tracing():
        return _UNTRACED
    return TRACER.start_as_current_span(name, context=extract_context(headers))


def context_metadata() -> list[tuple[str, str]]:
    """Returns the current trace context as metadata of an outgoing call."""
    if not context.get_current():
        return []
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return list(carrier.items())


def serve_metrics(listen: str) -> None:
    """Serves Prometheus metrics at `host:port`; an empty address turns this off."""
    if listen:
        host, _, port = listen.rpartition(":")
        start_http_server(int(port), addr=host)


class MongoSpans(monitoring.CommandListener):
    """Starts a span for each MongoDB command: its name, database and collection, never its content."""

    def __init__(self) -> None:
        self.open: dict[int, trace.Span] = {}

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        attributes = {"db.system": "mongodb", "db.name": event.database_name, "db.operation": event.command_name}
        if isinstance(collection := event.command.get(event.command_name), str):
            attributes["db.mongodb.collection"] = collection
        self.open[event.request_id] = TRACER.start_span(f"mongo {event.command_name}", attributes=attributes)

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        self._end(event.request_id)

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        self._end(event.request_id, failed=True)

    def _end(self, request_id: int, *, failed: bool = False) -> None:
        if start_span := self.open.pop(request_id, None):
            if failed:
                start_span.set_status(trace.StatusCode.ERROR)
            start_span.end()
