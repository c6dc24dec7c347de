"""Time a training step with a gap module beside one without: `python benchmarks/training_step.py`.

128 pairs of 12 frames at D = 512, a transformer of 4 layers, AdamW, all losses of GARE. The forms
take turns: a step without gap module, and steps with one at dropout 0 and 0.3, each with the pair
tensor (``RetrievalHead.forward``) and without (``pair_scores``, what training calls). X-Pool's
pooling is timed in the same way. Memory is the peak of a process that does three steps of one
form, less that of a process that has only made head and batch.
"""

from __future__ import annotations

import argparse
import functools
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import torch
from measure import median, peak_memory, print_table, ratio, take_turns, write_results

from gare_cache.heads.retrieval import build_head
from gare_cache.losses.objective import Objective

OFF: dict[str, Any] = {name: {"weight": 0.0} for name in ("ib", "eps", "dir")}
TEXT = {"name": "text_conditioned"}
FORMS: dict[str, tuple[dict[str, Any] | None, dict[str, Any], bool]] = {
    "no gap module": (None, TEXT, True),
    "GARE, dropout 0, dense": ({"dropout": 0.0}, TEXT, False),
    "GARE, dropout 0": ({"dropout": 0.0}, TEXT, True),
    "GARE, dropout 0.3, dense": ({"dropout": 0.3}, TEXT, False),
    "GARE, dropout 0.3": ({"dropout": 0.3}, TEXT, True),
    "X-Pool, dropout 0.3, dense": (None, {"name": "cross_attention"}, False),
    "X-Pool, dropout 0.3": (None, {"name": "cross_attention"}, True),
}


def step_of(name: str, batch: int, frames: int, dim: int, device: str) -> Callable[[], None]:
    """Return a function that does one training step of a form."""
    gap, pooling, fast = FORMS[name]
    torch.manual_seed(0)
    head = build_head(
        dim=dim,
        max_frames=frames,
        aggregator={"name": "transformer", "init": "random"},
        pooling=pooling,
        gap=gap,
    ).to(device)
    objective = Objective(**(OFF if gap is None else {}))
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-5)
    text = (torch.randn(batch, dim) * 0.4).to(device)
    features = (torch.randn(batch, frames, dim) * 0.4).to(device)
    mask = (torch.arange(frames) < torch.randint(1, frames + 1, (batch, 1))).to(device)
    form = head.pair_scores if fast else head.forward

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        scores = form(text, features, mask)
        objective(scores.similarity, scores.delta, head.scale).total.backward()
        optimizer.step()
        if device != "cpu":
            torch.cuda.synchronize()

    return step


def peak(name: str, steps: int, threads: int, arguments: tuple[Any, ...]) -> float:
    """Return the peak memory of this process in MB after some steps."""
    torch.set_num_threads(threads)
    step = step_of(name, *arguments)
    for _ in range(steps):
        step()
    return peak_memory()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    size = (128, 12, 512, arguments.device)
    forms = {name: step_of(name, *size) for name in FORMS}
    for form in forms.values():
        form()
    seconds = take_turns(forms, arguments.rounds)
    memory = functools.partial(peak, threads=arguments.threads, arguments=size)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        start = pool.submit(memory, "no gap module", 0).result()
        peaks = {name: pool.submit(memory, name, 3).result() - start for name in FORMS}
    rows = [
        {
            "step": name,
            "s": median(seconds[name]),
            "times the step without gap module": ratio(seconds[name], seconds["no gap module"]),
            "memory, MB": round(peaks[name]),
        }
        for name in FORMS
    ]
    print(f"{arguments.threads} threads\n")
    print_table(rows)
    write_results("training_step", {f"{arguments.threads} threads": rows})


if __name__ == "__main__":
    main()
