"""How services are served, and how every call ends: with its answer, or with a status that carries its details."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message

from lockd.ops import logs
from lockd.raft.port import RaftError
from lockd.rpc.errors import InvalidRequestError, RefusedError, abort, from_error
from lockd.rpc.gateway import Context
from lockd.rpc.undecodable import explain

RpcHandler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


def serve(service: ServiceDescriptor, implementation: object, **special: RpcHandler) -> grpc.GenericRpcHandler[Any, Any]:
    """The handlers of a service, whose unary methods are the async methods of `implementation` with the same names.

    Requests are decoded here and not by gRPC, so that bytes which are no message are refused with the field that is wrong. `special`
    brings handlers of its own making for the methods that are not unary.
    """
    handlers: dict[str, RpcHandler] = dict(special)
    for method in service.methods:
        if method.name not in handlers:
            handlers[method.name] = _unary(method, getattr(implementation, method.name))
    return grpc.method_handlers_generic_handler(service.full_name, handlers)


def _unary(method: MethodDescriptor, call: Callable[[Any, Context], Awaitable[Message]]) -> RpcHandler:
    request_type: Any = message_factory.GetMessageClass(method.input_type)
    descriptor: Descriptor = method.input_type

    async def handle(data: bytes, context: Context) -> bytes:
        try:
            request = request_type.FromString(data)
        except DecodeError:
            await abort(context, from_error(InvalidRequestError([explain(descriptor, data)])))
        try:
            return (await call(request, context)).SerializeToString()
        except RefusedError as refused:
            await abort(context, refused.status)
        except (InvalidRequestError, RaftError) as error:
            await abort(context, from_error(error))
        except Exception as error:  # noqa: BLE001 - the last line of defence: the call fails, the node lives
            logs.get().exception("handler_failed", method=method.full_name)
            await abort(context, from_error(error))

    return grpc.unary_unary_rpc_method_handler(handle)


def page_size(asked: int, most: int = 1_000) -> int:
    """The page size to use: the most where none was asked for."""
    return min(asked, most) if asked else most
