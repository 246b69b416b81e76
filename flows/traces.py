"""Traces: from a request through its operation and the steps to each adapter's call, as one.

They are sent where an endpoint is set, by OpenTelemetry's own exporter; elsewhere nothing of it is
imported, and a span costs next to nothing. The context travels in the operation's row, so that a
trace goes on in other processes, on other machines, and after a restart.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from adapters.settings import Settings

P = ParamSpec("P")
R = TypeVar("R")

_tracer = trace.get_tracer("cloudloom")
_context = TraceContextTextMapPropagator()
_sending = False


def span(
    name: str, parent: str | None = None, **attributes: str
) -> AbstractContextManager[trace.Span]:
    """Be a part of the trace that goes on here, or of `parent`, as W3C writes one down."""
    where = _context.extract({"traceparent": parent}) if parent else None
    told = {f"cloudloom.{key}": value for key, value in attributes.items()}
    return _tracer.start_as_current_span(name, where, attributes=told)


def here() -> str | None:
    """Where the trace is now, for whoever goes on with it elsewhere; None when there is none."""
    carrier: dict[str, str] = {}
    _context.inject(carrier)
    return carrier.get("traceparent")


@contextmanager
def sent(settings: Settings, service: str) -> Iterator[None]:
    """Send what is traced inside, if anywhere; the last of it before this ends."""
    if not (settings.otlp_endpoint or os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")):
        yield
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    global _sending  # noqa: PLW0603 - as its own provider, OpenTelemetry has one a process
    ours = settings.otlp_endpoint.rstrip("/")
    exporter = OTLPSpanExporter(f"{ours}/v1/traces" if ours else None)
    provider = TracerProvider(resource=Resource.create({"service.name": f"cloudloom-{service}"}))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    _sending = True
    try:
        yield
    finally:
        provider.shutdown()


def handed_out(make: Callable[P, R]) -> Callable[P, R]:
    """Let every call of the adapter that this makes be a span of its own, where they are sent."""

    @wraps(make)
    def watched(*args: P.args, **kwargs: P.kwargs) -> R:
        adapter = make(*args, **kwargs)
        return cast(R, _Watched(adapter)) if _sending else adapter

    return watched


class _Watched:
    """An adapter whose calls are spans."""

    def __init__(self, adapter: object) -> None:
        self._adapter = adapter
        self._name = type(adapter).__module__.removeprefix("adapters.")

    def __getattr__(self, name: str) -> Any:
        thing = getattr(self._adapter, name)
        if not callable(thing):
            return thing

        @wraps(thing)
        def call(*args: Any, **kwargs: Any) -> Any:
            with span(f"{self._name}.{name}"):
                return thing(*args, **kwargs)

        return call
