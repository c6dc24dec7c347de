"""What one client may take of the server: bytes, seconds, requests a second."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable

from starlette.requests import ClientDisconnect, Request

from gare_cache.serving.refusals import Refusal

BODY_SECONDS = 30.0
_BURST_SECONDS = 3.0
_MOST_CLIENTS = 10_000


async def read_body(request: Request, most: int) -> bytes:
    """Return the body of a request; reading stops at the limit.

    Args:
        request: the request.
        most: bytes.

    Raises:
        Refusal: it is longer (413), or came too slowly (408).
    """
    too_long = Refusal(413, f"the request has more than {most:,} bytes, the limit")
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > most:
        raise too_long
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                body += part
                if len(body) > most:
                    raise too_long
    except TimeoutError as err:
        raise Refusal(408, f"the request took longer than {BODY_SECONDS:g} s to arrive") from err
    except ClientDisconnect as err:
        raise Refusal(400, "the request was cut short") from err
    return bytes(body)


class ClientRate:
    """Requests a second of each client, with a burst of three seconds' worth: a token bucket."""

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Set the rate.

        Args:
            per_second: requests of one client; 0 is no limit.
            clock: seconds.
        """
        self._per_second = per_second
        self._burst = max(1.0, _BURST_SECONDS * per_second)
        self._clock = clock
        self._clients: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, client: str) -> None:
        """Count a request.

        Raises:
            Refusal: the client asks too often (429).
        """
        if not self._per_second:
            return
        now = self._clock()
        left, then = self._clients.pop(client, (self._burst, now))
        left = min(self._burst, left + (now - then) * self._per_second)
        allowed = left >= 1
        self._clients[client] = (left - allowed, now)
        if len(self._clients) > _MOST_CLIENTS:
            self._clients.popitem(last=False)
        if not allowed:
            message = f"more than {self._per_second:g} requests a second; slow down"
            raise Refusal(429, message, retry_after=1)
