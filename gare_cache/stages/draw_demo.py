"""Draw the videos of the demo data set, showing progress."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from gare_cache.demo.videos import draw_dataset
from gare_cache.project.progress import progress, say


def draw_demo(folder: Path, *, num_train: int, num_val: int, num_test: int, seed: int) -> Path:
    """Draw the missing videos of the demo data set and return its annotation file."""
    with ExitStack() as stack:
        shown = 0
        advance = None

        def on_progress(done: int, total: int) -> None:
            nonlocal shown, advance
            if advance is None:
                shown = done - 1
                advance = stack.enter_context(progress("draw videos", total, done=shown))
            advance(done - shown)
            shown = done

        annotations = draw_dataset(
            folder,
            num_train=num_train,
            num_val=num_val,
            num_test=num_test,
            seed=seed,
            on_progress=on_progress,
        )
    if advance is None:
        say(f"{folder} is complete: nothing to draw")
    return annotations
