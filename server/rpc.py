"""Services to gRPC: every method decodes its request, answers, and turns errors into statuses in one place."""

import asyncio
from collections.abc import Awaitable, Callable
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
    """Return a handler for all (unary) methods of a service.

    Args:
        service: the service, as the contract has it.
        servicer: has an `async (request, context) -> response` method for each RPC, by the RPC's name.
    """
    methods = {method.name: _method_handler(method, getattr(servicer, method.name)) for method in service.methods}
    return grpc.method_handlers_generic_handler(service.full_name, methods)


def _method_handler(
    method: MethodDescriptor, answer: Callable[[Any, Context], Awaitable[Message]]
) -> "grpc.RpcMethodHandler[Any, Any]":
    request_class = message_factory.GetMessageClass(method.input_type)
    name = method.full_name

    def decode(serialised: bytes) -> Message | None:
        # gRPC would report a deserialiser that raises as a failure of the server.
        try:
            return request_class.FromString(serialised)
        except DecodeError:
            return None

    async def call(request: Message | None, context: Context) -> Message:
        try:
            if request is None:
                raise InvalidRequestError([Violation("", f"the bytes are not a {method.input_type.full_name}")])
            return await answer(request, context)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            told = failure(error, method=name, request_id=_request_id(context))
            trailing = ((DETAILS_KEY, told.details),)
            await context.abort(told.code, told.message, trailing)
            raise AssertionError("abort raises") from error

    return grpc.unary_unary_rpc_method_handler(call, request_deserializer=decode, response_serializer=_serialise)


def _serialise(response: Message) -> bytes:
    return response.SerializeToString()


def _request_id(context: Context) -> str:
    """Return the caller's request id, if it sent one that may stand in a log."""
    for key, value in context.invocation_metadata() or ():
        if key == REQUEST_ID_KEY and isinstance(value, str) and value.isascii() and value.isprintable():
            return value[:_MOST_REQUEST_ID]
    return ""
