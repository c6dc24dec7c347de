"""Two processes of one training on this machine, as torchrun would start them."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
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
