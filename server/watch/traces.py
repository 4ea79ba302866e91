"""OpenTelemetry traces: a span for each call, as a child of the caller's (W3C `traceparent` in the metadata)."""

from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

from kg.errors import MissingExtraError
from server.errors import status_code
from server.watch.config import WatchSettings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

_EXPORT_TIMEOUT_S = 2
Answer = Callable[[Any, Any], Any]


class Traces:
    """Makes spans and sends them off in the background; a collector that is away costs no call anything.

    Args:
        provider: where spans go.
    """

    def __init__(self, provider: "TracerProvider") -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("kgrank")
        self._propagator = TraceContextTextMapPropagator()

    @classmethod
    def open(cls, settings: WatchSettings) -> "Traces | None":
        """Return what sends spans where the settings say; None where they don't.

        Raises:
            MissingExtraError: OpenTelemetry is not installed.
        """
        if settings.traces_to is None:
            return None
        try:
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
        except ModuleNotFoundError as error:
            raise MissingExtraError(
                f"the package {error.name!r} is not installed; watch.traces_to needs it",
                "Install it: pip install '.[traces]' in kgrank's clone",
            ) from error
        provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(settings.traces_share)),
            resource=Resource.create({"service.name": "kgrank"}),
        )
        exporter = OTLPSpanExporter(
            endpoint=settings.traces_to, insecure=not settings.traces_tls, timeout=_EXPORT_TIMEOUT_S
        )
        provider.add_span_processor(BatchSpanProcessor(exporter))
        return cls(provider)

    def traced(self, method: str, answer: Answer, *, stream: bool) -> Answer:
        """Return a handler that answers in a span; `stream` says whether it returns an async generator."""
        from opentelemetry.trace import SpanKind, use_span

        service, _, name = method.rpartition(".")

        def begun(context: Any) -> "Span":
            carrier = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
            return self._tracer.start_span(
                f"{service}/{name}",
                context=self._propagator.extract(carrier),
                kind=SpanKind.SERVER,
                attributes={"rpc.system": "grpc", "rpc.service": service, "rpc.method": name},
            )

        async def one(request: Any, context: Any) -> Any:
            current = begun(context)
            try:
                # An exception is not recorded by itself: its text may hold ids of people.
                with use_span(current, record_exception=False, set_status_on_exception=False):
                    return await answer(request, context)
            except Exception as error:
                _fail(current, error)
                raise
            finally:
                current.end()

        async def many(request: Any, context: Any) -> AsyncIterator[Any]:
            current = begun(context)
            try:
                async for response in answer(request, context):
                    yield response
            except Exception as error:
                _fail(current, error)
                raise
            finally:
                current.end()

        return many if stream else one

    def close(self) -> None:
        """Send off what is left, for a few seconds at most."""
        self._provider.shutdown()


def _fail(span: "Span", error: Exception) -> None:
    from opentelemetry.trace import Status, StatusCode

    code = status_code(error)
    span.set_attribute("rpc.grpc.status_code", code.value[0])
    span.set_status(Status(StatusCode.ERROR, code.name))
