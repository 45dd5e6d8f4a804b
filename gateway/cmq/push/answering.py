"""Reading the answers of subscribers, who may be hostile, so that they cost no more than a push."""

from functools import partial
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import BadHttpMessage

PIECE_BYTES = 4_096
HEADS_MAX = 8  # the answer's own, and those of informational answers before it


class AnswerReader(ResponseHandler):
    """Gives up on an answer with too many others before it.

    Why: aiohttp skips what is informational without a count and without a rest, so that whoever
    sends `100 Continue` for ever has the event loop for themselves. Why in pieces: a thousand of
    them come in one read, and are all parsed before the first is looked at.
    """

    def __init__(self, loop: Any) -> None:
        super().__init__(loop)
        self._heads = 0

    def set_response_params(self, **params: Any) -> None:
        """Begin with the answer to another request."""
        self._heads = 0
        super().set_response_params(**params)

    def data_received(self, data: bytes) -> None:
        """Take in what has come, as far as it is wanted."""
        if not data:
            super().data_received(data)
        for first in range(0, len(data), PIECE_BYTES):
            if self._heads > HEADS_MAX:
                return
            super().data_received(data[first : first + PIECE_BYTES])

    def feed_data(self, data: Any, size: int = 0) -> None:
        """Take in a head."""
        self._heads += 1
        if self._heads <= HEADS_MAX:
            super().feed_data(data, size)
        elif self._heads == HEADS_MAX + 1:
            self.set_exception(BadHttpMessage("too many answers to one request"))
            if self.transport is not None:
                self.transport.abort()


class Connector(aiohttp.TCPConnector):
    """Connections with such readers."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._factory = partial(  # type: ignore[assignment]  # ours is one of theirs
            AnswerReader, loop=self._loop
        )
