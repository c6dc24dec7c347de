"""Meetings of the processes of a training, at which one that does not come is named."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch.distributed as dist
from torch.distributed import DistError, Store  # type: ignore[attr-defined]

from gare_cache.errors import EnvironmentFailure

_TICK_SECONDS = 1.0
_GRACE_SECONDS = 10.0  # after the limits of the store and of the exchange


class Meetings:
    """Wait for all processes before each exchange of data, for a limited time.

    A collective operation of gloo or NCCL that a process does not join ends late and does not say
    who is missing. Here each process writes at the store that it has come, and waits until the
    others have written, too. The store belongs to torchrun, so it answers while a process is
    stopped. Where it does not answer itself, or a process is stopped in the middle of an exchange
    that cannot be interrupted, this process says so and ends.

    Without a store, for a single process, a meeting is nothing.
    """

    def __init__(
        self, store: Store | None = None, rank: int = 0, count: int = 1, timeout: float = 0.0
    ) -> None:
        """Args: the store of all processes, the own rank, their number, seconds of a wait."""
        self._store = store
        self._rank = rank
        self._count = count
        self._timeout = timeout
        self._number = 0
        self._waiting_for = ""
        self._ticks_left = 0.0
        if store is not None:
            threading.Thread(target=self._watch, name="meetings", daemon=True).start()

    @contextmanager
    def before(self, exchange: str) -> Iterator[None]:
        """Meet, then run the block, in which the processes exchange data.

        Args:
            exchange: what they exchange, for the message.

        Raises:
            EnvironmentFailure: a process did not come in time, or left during the exchange.
        """
        if self._store is None:
            yield
            return
        try:
            self._watch_over(exchange)
            self._meet(self._store, exchange, self._timeout)
            yield
        except RuntimeError as err:  # of gloo: torch has no class for a lost connection
            # Who took part until its time limit comes at nearly the same moment.
            grace = min(self._timeout, _GRACE_SECONDS)
            self._meet(self._store, f"the end of {exchange}", grace)
            raise EnvironmentFailure(
                f"rank {self._rank} of {self._count}: {exchange} failed: "
                f"{' '.join(str(err).split())}"
            ) from err
        finally:
            self._waiting_for = ""

    def part(self) -> None:
        """Leave the process group, which may wait for what was not exchanged."""
        self._watch_over("the end of the process group")
        try:
            dist.destroy_process_group()
        finally:
            self._waiting_for = ""

    def _watch_over(self, exchange: str) -> None:
        self._ticks_left = 2 * (self._timeout + _GRACE_SECONDS)
        self._waiting_for = exchange

    def _meet(self, store: Store, exchange: str, seconds: float) -> None:
        self._number += 1
        store.set(self._key(self._number, self._rank), "here")
        keys = {rank: self._key(self._number, rank) for rank in range(self._count)}
        try:
            store.wait(list(keys.values()), timedelta(seconds=seconds))
        except DistError as err:  # of the time limit, which also a pause of this process exceeds
            missing = [str(rank) for rank, key in keys.items() if not store.check([key])]
            if missing:
                raise EnvironmentFailure(
                    f"rank {self._rank} of {self._count}: rank {', '.join(missing)} did not come "
                    f"to {exchange} within {self._timeout:g} s (--timeout) and is stopped, dead or "
                    "slow; start the training again, and it continues after its last complete epoch"
                ) from err
        # Everyone has come to the meeting before, so nobody still waits for the one before that.
        store.delete_key(self._key(self._number - 2, self._rank))

    def _watch(self) -> None:
        """End the process in a wait that has no other end; the body of a thread.

        Ticks are counted, not the clock, which goes on while all processes are paused.
        """
        while True:
            threading.Event().wait(_TICK_SECONDS)
            self._ticks_left -= _TICK_SECONDS
            if self._waiting_for and self._ticks_left < 0:
                sys.stderr.write(
                    f"error: rank {self._rank} of {self._count} still waits for "
                    f"{self._waiting_for}; torchrun or another process is stopped\n"
                )
                sys.stderr.flush()
                os._exit(EnvironmentFailure.exit_code)

    @staticmethod
    def _key(number: int, rank: int) -> str:
        return f"meeting/{number}/{rank}"
