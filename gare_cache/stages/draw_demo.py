"""Draw the demo data set, with progress."""

from __future__ import annotations

from pathlib import Path

from gare_cache.demo.videos import draw_dataset
from gare_cache.stages.progress import progress


def draw_demo(folder: Path, *, num_train: int, num_val: int, num_test: int, seed: int) -> Path:
    """Draw what is missing of the demo data set and return its annotation file."""
    with progress("draw videos", num_train + num_val + num_test) as advance:
        drawn = 0

        def on_progress(done: int, _: int) -> None:
            nonlocal drawn
            advance(done - drawn)
            drawn = done

        return draw_dataset(
            folder,
            num_train=num_train,
            num_val=num_val,
            num_test=num_test,
            seed=seed,
            on_progress=on_progress,
        )
