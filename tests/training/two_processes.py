"""Two processes of one training on this machine, as torchrun would start them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.multiprocessing.spawn import spawn


def run_two(work: Callable[[Path], dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """Return what ``work`` finds in each of two processes."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    spawn(_one, args=(work, folder, port), nprocs=2)
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(2)]


@contextmanager
def torchrun(*arguments: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a command of gare-cache as two processes of torchrun, which ends with the block."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    with subprocess.Popen(
        [*command, "-m", "gare_cache.cli", *arguments],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as program:
        try:
            yield program
        finally:
            program.kill()


def process_of_rank(rank: int, parent: int) -> int:
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            variables = (entry / "environ").read_bytes().split(b"\0")
            its_parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if its_parent == parent and f"RANK={rank}".encode() in variables:
            return int(entry.name)
    raise AssertionError(f"no process of rank {rank}")


def wait_until(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def _one(rank: int, work: Callable[[Path], dict[str, Any]], folder: Path, port: int) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.save(work(folder), folder / f"rank{rank}.pt")
