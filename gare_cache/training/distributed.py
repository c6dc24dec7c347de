"""Training in several processes: each scores its rows of a batch and sees the whole loss.

A contrastive loss and GARE's terms need the global batch. Every process holds the features and the
same weights. Of a batch of B pairs, process r of W scores texts r B/W to (r + 1) B/W against all B
videos; the rows are gathered, and every process computes the same loss of the whole (B, B) matrix.
Its backward pass through the gathered matrix keeps the process's own rows, so the gradients of the
W processes sum to the gradient of one process. The logit scale and the objective's own parameters
act on the whole matrix: their gradient is the same everywhere and counted once.

Before each exchange the processes meet at torchrun's store
(``gare_cache.training.meeting``), so that one that is stopped, dead or slow is named instead of
waited for.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from gare_cache.errors import ConfigError, EnvironmentFailure, counted
from gare_cache.heads.pairs import PairScores
from gare_cache.heads.retrieval import RetrievalHead
from gare_cache.losses.increments import as_increments
from gare_cache.training.meeting import Meetings

_State = TypeVar("_State")
COLLECTIVE_TIMEOUT = 60.0  # seconds


@dataclass(frozen=True)
class Processes:
    """The processes of one training, seen from one of them; a single one does nothing here.

    Attributes:
        rank: number of this process, from 0.
        count: W, how many there are.
        reference_gather: scale gradients as GARE's reference code does, see ``sum_gradients``.
        meetings: where the processes wait for each other before an exchange.

    What exchanges raises ``EnvironmentFailure`` if another process does not come in time.
    """

    rank: int = 0
    count: int = 1
    reference_gather: bool = False
    meetings: Meetings = field(default_factory=Meetings, repr=False, compare=False)

    def require_shares(self, batch_size: int) -> None:
        """Check that a batch can be shared evenly.

        Raises:
            ConfigError: it cannot.
        """
        if batch_size % self.count:
            raise ConfigError(
                f"train.batch_size is {batch_size}, which {counted(self.count, 'process')} "
                "cannot share "
                f"evenly; make it a multiple of {self.count}"
            )

    def own(self, rows: Tensor) -> Tensor:
        """Return this process's share of a batch's rows (B,)."""
        share = len(rows) // self.count
        return rows[self.rank * share : (self.rank + 1) * share]

    def gather(self, scores: PairScores) -> PairScores:
        """Join the scores (B/W, B) of all processes to those of the batch, differentiably."""
        if self.count == 1:
            return scores
        similarity = self._gather(scores.similarity)
        if scores.delta is None:
            return PairScores(similarity, None)
        return PairScores(similarity, self._gather(as_increments(scores.delta).dense))

    def sum_gradients(
        self,
        parameters: Sequence[nn.Parameter],
        *,
        replicated: Sequence[nn.Parameter],
        encoding: Sequence[nn.Parameter],
    ) -> None:
        """Add up the gradients of all processes, in place: the gradient of one process.

        With ``reference_gather`` the gradient at the encoded features is divided by W, so that of
        the projections and the aggregator, and all else is exact. This is what GARE's reference
        code does: its gather keeps the gradient of the process's own features alone, and
        DistributedDataParallel then averages. The gap module and the scale, which every process
        of the reference applies to the whole batch, keep their exact gradient there, too.

        Args:
            parameters: all that train.
            replicated: those that act on the whole matrix in every process: scale and objective.
            encoding: those that make the encoded features.
        """
        if self.count == 1:
            return
        once = {id(parameter) for parameter in replicated}
        counted = [
            parameter.grad
            if parameter.grad is not None and (self.rank == 0 or id(parameter) not in once)
            else torch.zeros_like(parameter)
            for parameter in parameters
        ]
        present = parameters[0].new_tensor([parameter.grad is not None for parameter in parameters])
        flat = torch.cat([*(gradient.flatten() for gradient in counted), present])
        with self.meetings.before("the sum of the gradients"):
            dist.all_reduce(flat)
        sizes = [*(parameter.numel() for parameter in parameters), len(parameters)]
        *sums, present = torch.split(flat, sizes)
        for parameter, total, used in zip(parameters, sums, present.tolist(), strict=True):
            parameter.grad = total.view_as(parameter).to(parameter.dtype) if used else None
        if self.reference_gather:
            for parameter in encoding:
                if parameter.grad is not None:
                    parameter.grad /= self.count

    def collect(self, state: _State) -> list[_State]:
        """Return the picklable states of all processes, by rank."""
        if self.count == 1:
            return [state]
        states: list[Any] = [None] * self.count
        with self.meetings.before("the states of all processes"):
            dist.all_gather_object(states, state)
        return states

    def start(
        self, modules: Iterable[nn.Module], *, encoding: Sequence[nn.Parameter], seed: int
    ) -> None:
        """Give every process the first one's weights, and a dropout of its own.

        Raises:
            ConfigError: ``reference_gather`` with one process or a head in which it is idle.
        """
        if self.reference_gather and self.count == 1:
            raise ConfigError(
                "train.reference_gather is true, and one process gathers nothing; start several "
                "(torchrun --nproc-per-node=N -m gare_cache.cli train), or set it to false"
            )
        if self.reference_gather and not encoding:
            raise ConfigError(
                "train.reference_gather is true, but this head has neither a projection nor an "
                "aggregator with weights, so it changes nothing; set it to false"
            )
        if self.count == 1:
            return
        with self.meetings.before("the first process's weights"):
            for module in modules:
                for value in module.state_dict().values():
                    dist.broadcast(value, src=0)
        if self.rank > 0:
            torch.manual_seed(seed + (self.rank << 32))

    def _gather(self, rows: Tensor) -> Tensor:
        with self.meetings.before("the scores of the batch"):
            gathered: Tensor = _GatherRows.apply(rows, self.rank, self.count)  # type: ignore[no-untyped-call]
        return gathered


def is_first_process() -> bool:
    """Whether this process writes and prints: rank 0, or the only one."""
    return _number("WORLD_SIZE", 1) == 1 or _number("RANK", 0) == 0


def own_device(name: str) -> str:
    """Give each process of a machine a CUDA device of its own.

    Args:
        name: as on the command line.

    Returns:
        ``cuda:LOCAL_RANK`` for ``auto`` and ``cuda`` where there are several processes and CUDA;
        else the name as given.
    """
    several = _number("WORLD_SIZE", 1) > 1
    if several and name in ("auto", "cuda") and torch.cuda.is_available():
        return f"cuda:{_number('LOCAL_RANK', 0)}"
    return name


@contextmanager
def process_group(
    device: torch.device, *, reference_gather: bool, timeout: float = COLLECTIVE_TIMEOUT
) -> Iterator[Processes]:
    """Join the other processes that torchrun has started, if any, and part at the end.

    Args:
        device: of this process; NCCL connects CUDA devices, gloo CPUs.
        reference_gather: see ``Processes``.
        timeout: seconds that a process waits for the others at each exchange.

    Raises:
        EnvironmentFailure: the processes do not find each other.
    """
    count = _number("WORLD_SIZE", 1)
    if count == 1:
        yield Processes(reference_gather=reference_gather)
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    limit = timedelta(seconds=timeout)
    try:
        store, rank, _ = next(rendezvous("env://", timeout=limit))
        meetings = Meetings(store, rank, count, timeout)
        with meetings.before("the connection"):
            dist.init_process_group(
                "nccl" if device.type == "cuda" else "gloo",
                store=dist.PrefixStore("group", store),  # type: ignore[attr-defined]
                rank=rank,
                world_size=count,
                timeout=limit,
            )
    except EnvironmentFailure:
        raise
    except (ValueError, RuntimeError) as err:
        raise EnvironmentFailure(
            f"WORLD_SIZE is {count}, but the {count} processes could not be connected ({err}); "
            "start them with torchrun, or unset WORLD_SIZE to train in one process"
        ) from err
    try:
        yield Processes(rank, count, reference_gather, meetings)
    finally:
        meetings.part()


class _GatherRows(torch.autograd.Function):
    """Concatenate the rows of all processes; backward keeps the own rows of the gradient."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, rank: int, count: int) -> Tensor:
        ctx.own = slice(rank * len(rows), (rank + 1) * len(rows))
        rows = rows.contiguous()
        gathered = [torch.empty_like(rows) for _ in range(count)]
        dist.all_gather(gathered, rows)
        return torch.cat(gathered)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0][ctx.own], None, None


def encoding_parameters(head: RetrievalHead) -> list[nn.Parameter]:
    """Return the parameters of a head that make the encoded features: all before the pairs."""
    modules = (head.text_projection, head.frame_projection, head.aggregator)
    return [parameter for module in modules for parameter in module.parameters()]


def _number(variable: str, default: int) -> int:
    return int(os.environ.get(variable, default))
