"""The door of a service: where there is no place, a call is sent away before its request is even read.

A server that is offered more than it can do is as good as its refusals are cheap. So one is made beforehand, and is
sent as soon as gRPC tells of the call: no token is looked up, nothing is decoded, and the log hears of it only where it
has room for a line.
"""

from collections.abc import Mapping
from typing import TypeAlias

import grpc

from server.admission import Admission

Handler: TypeAlias = "grpc.RpcMethodHandler[bytes, bytes]"


class Door(grpc.GenericRpcHandler):
    """Finds the handler of a call.

    Args:
        handlers: by the method's path, `/package.Service/Method`.
        refusing: those that refuse, of methods that need a place.
        admission: has the places.
    """

    def __init__(
        self, handlers: Mapping[str, Handler], refusing: Mapping[str, Handler], admission: Admission | None
    ) -> None:
        self._handlers = handlers
        self._refusing = refusing
        self._admission = admission

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "Handler | None":
        """Return what answers a call; None: it is not for this service."""
        if self._admission is not None and self._admission.full:
            refusing = self._refusing.get(handler_call_details.method)
            if refusing is not None:
                return refusing
        return self._handlers.get(handler_call_details.method)
