"""How every handler ends: with its answer, or with a status that carries its details."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from lockd.ops import logs
from lockd.raft.port import RaftError
from lockd.rpc.errors import InvalidRequestError, RefusedError, abort, from_error
from lockd.rpc.gateway import Context

ServiceT = TypeVar("ServiceT")
RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")

Handler = Callable[[ServiceT, RequestT, Context], Awaitable[ResponseT]]


def answered(handler: Handler[ServiceT, RequestT, ResponseT]) -> Callable[[ServiceT, RequestT, Any], Awaitable[ResponseT]]:
    """Turn a handler's refusals into the status of the call; a fault of our own is logged and answered INTERNAL."""

    @functools.wraps(handler)
    async def wrapped(self: ServiceT, request: RequestT, context: Context) -> ResponseT:
        try:
            return await handler(self, request, context)
        except RefusedError as refused:
            await abort(context, refused.status)
        except (InvalidRequestError, RaftError) as error:
            await abort(context, from_error(error))
        except Exception as error:  # noqa: BLE001 - the last line of defence: the call fails, the node lives
            logs.get().exception("handler_failed", handler=handler.__qualname__)
            await abort(context, from_error(error))

    return wrapped


def page_size(asked: int, most: int = 1_000) -> int:
    """The page size to use: the most where none was asked for."""
    return min(asked, most) if asked else most
