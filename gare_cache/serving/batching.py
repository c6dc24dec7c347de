"""One queue for the requests of all clients, answered in batches by one thread."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from gare_cache.serving.refusals import Refusal

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


class Batcher(Generic[Asked, Answer]):
    """Collects what is asked while a batch is being answered, and answers it as the next batch."""

    def __init__(
        self,
        answer: Callable[[Sequence[Asked]], Sequence[Answer | Exception]],
        *,
        most_waiting: int,
        most_at_once: int,
        seconds: float,
    ) -> None:
        """Prepare the queue.

        Args:
            answer: answers a batch, in a thread of its own.
            most_waiting: requests that may wait; others are refused.
            most_at_once: size of a batch.
            seconds: that a request may take, waiting included.
        """
        self._answer = answer
        self._most_waiting = most_waiting
        self._most_at_once = most_at_once
        self._seconds = seconds
        self._waiting: deque[tuple[Asked, asyncio.Future[Answer]]] = deque()
        self._filled = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="search")

    async def ask(self, asked: Asked) -> Answer:
        """Return the answer.

        Raises:
            Refusal: too many requests wait (503), or it took too long (503).
            Exception: what ``answer`` gave in place of one.
        """
        if len(self._waiting) >= self._most_waiting:
            raise Refusal(503, "the server is busy; try again in a moment", retry_after=1)
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((asked, future))
        self._filled.set()
        try:
            async with asyncio.timeout(self._seconds):
                return await future
        except TimeoutError as err:
            message = f"the search took longer than {self._seconds:g} s; try again"
            raise Refusal(503, message, retry_after=5) from err

    async def run(self) -> None:
        """Answer until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._filled.wait()
            batch = self._next_batch()
            if not batch:
                self._filled.clear()
                continue
            asked = [one for one, _ in batch]
            answers: Sequence[Answer | Exception]
            try:
                answers = await loop.run_in_executor(self._thread, self._answer, asked)
            except Exception as err:
                answers = [err] * len(batch)
            for (_, future), answer in zip(batch, answers, strict=True):
                if future.done():  # its client waits no longer
                    continue
                if isinstance(answer, Exception):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)

    def close(self) -> None:
        """End the thread, without waiting for a search that runs."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _next_batch(self) -> list[tuple[Asked, asyncio.Future[Answer]]]:
        batch: list[tuple[Asked, asyncio.Future[Answer]]] = []
        while self._waiting and len(batch) < self._most_at_once:
            asked, future = self._waiting.popleft()
            if not future.done():
                batch.append((asked, future))
        return batch
