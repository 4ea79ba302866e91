"""Services to gRPC: every method decodes its request, answers, and turns errors into statuses in one place."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message

from server.errors import DETAILS_KEY, InvalidRequestError, Violation, failure

REQUEST_ID_KEY = "x-request-id"
_MOST_REQUEST_ID = 128

Context = grpc.aio.ServicerContext[Any, Any]


def service_handler(service: ServiceDescriptor, servicer: object) -> grpc.GenericRpcHandler:
    """Return a handler for all methods of a service.

    Args:
        service: the service, as the contract has it.
        servicer: has a method for each RPC, by the RPC's name: `async (request, context) -> response`, where the
            response is a stream an async generator of responses, where the request is one an async iterator of them.
    """
    methods = {
        method.name: _method_handler(method, getattr(servicer, method.name))
        for method in service.methods
        if hasattr(servicer, method.name)
    }
    return grpc.method_handlers_generic_handler(service.full_name, methods)


def _method_handler(
    method: MethodDescriptor, answer: Callable[[Any, Context], Any]
) -> "grpc.RpcMethodHandler[Any, Any]":
    request_class = message_factory.GetMessageClass(method.input_type)
    name = method.full_name

    def decode(serialised: bytes) -> Message | None:
        # gRPC would report a deserialiser that raises as a failure of the server.
        try:
            return request_class.FromString(serialised)
        except DecodeError:
            return None

    def decoded(request: Message | None) -> Message:
        if request is None:
            raise InvalidRequestError([Violation("", f"the bytes are not a {method.input_type.full_name}")])
        return request

    async def decoded_stream(requests: AsyncIterator[Message | None]) -> AsyncIterator[Message]:
        async for request in requests:
            yield decoded(request)

    async def call(request: Message | None, context: Context) -> Message:
        async with _aborting(name, context):
            response: Message = await answer(decoded(request), context)
            return response
        raise AssertionError("abort raises")

    async def stream(request: Any, context: Context) -> AsyncIterator[Message]:
        async with _aborting(name, context):
            async for response in answer(
                decoded_stream(request) if method.client_streaming else decoded(request), context
            ):
                yield response

    if method.server_streaming:
        kind = (
            grpc.stream_stream_rpc_method_handler if method.client_streaming else grpc.unary_stream_rpc_method_handler
        )
        return kind(stream, request_deserializer=decode, response_serializer=_serialise)
    return grpc.unary_unary_rpc_method_handler(call, request_deserializer=decode, response_serializer=_serialise)


@asynccontextmanager
async def _aborting(method: str, context: Context) -> AsyncIterator[None]:
    """End a call with the status of the error that its body raises."""
    try:
        yield
    except (asyncio.CancelledError, GeneratorExit):
        raise
    except Exception as error:
        told = failure(error, method=method, request_id=_request_id(context))
        await context.abort(told.code, told.message, ((DETAILS_KEY, told.details),))


def _serialise(response: Message) -> bytes:
    return response.SerializeToString()


def _request_id(context: Context) -> str:
    """Return the caller's request id, if it sent one that may stand in a log."""
    for key, value in context.invocation_metadata() or ():
        if key == REQUEST_ID_KEY and isinstance(value, str) and value.isascii() and value.isprintable():
            return value[:_MOST_REQUEST_ID]
    return ""
