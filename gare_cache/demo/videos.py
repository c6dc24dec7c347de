"""Write the demo data set: H.264 videos of drawn scenes, and their captions."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import av
import numpy as np

from gare_cache.demo.captions import video_captions
from gare_cache.demo.drawing import Pixels, draw
from gare_cache.demo.scenes import Scene
from gare_cache.demo.splits import SPLITS, sample_splits
from gare_cache.demo.staging import pictures, stage
from gare_cache.errors import ConfigError
from gare_cache.files import read_json, replacing

FORMAT_REVISION = 1  # raised whenever the same settings draw other videos or captions
NUM_FRAMES = 16
FRAMES_PER_SECOND = 8
FRAME_SIZE = 96

_CODECS: dict[str, dict[str, str]] = {
    # No B-frames: with them every file would need an edit list. No lookahead: with it about one
    # file in a hundred comes out differently from run to run.
    "libx264": {"preset": "veryfast", "crf": "20", "bf": "0", "rc-lookahead": "0"},
    "mpeg4": {"qscale": "3"},
}


@dataclass(frozen=True)
class _Item:
    path: Path
    scene: Scene
    seed: tuple[int, int, int]


def draw_dataset(
    root: Path,
    *,
    num_train: int = 2400,
    num_val: int = 300,
    num_test: int = 400,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
    workers: int = 2,
) -> Path:
    """Draw the videos and captions, or only what is missing of them.

    Writes ``videos/{train,val,test}/<split>_<number>.mp4``, ``annotations.csv`` (video, caption,
    split; three captions a video) and ``dataset.json`` (the settings, and whether all is there).
    The same settings give the same bytes on one machine.

    Args:
        root: folder of the data set.
        num_train: videos of training.
        num_val: videos of validation.
        num_test: videos of test.
        seed: fixes scenes, takes and captions.
        on_progress: called with (videos done, videos in all).
        workers: threads that draw and encode.

    Returns:
        The path of ``annotations.csv``.

    Raises:
        ConfigError: a count is not positive, or the folder holds other data.
    """
    counts = {"num_train": num_train, "num_val": num_val, "num_test": num_test}
    wrong = {name: value for name, value in {**counts, "workers": workers}.items() if value < 1}
    if wrong:
        raise ConfigError(f"the demo needs at least one of each; got {wrong}")
    if seed < 0:
        raise ConfigError(f"the demo's seed must not be negative; got {seed}")
    settings = {**counts, "seed": seed, "codec": _codec(), "format_revision": FORMAT_REVISION}
    complete = _check_folder(root, settings)
    items = _plan(root, counts, seed)
    annotations = root / "annotations.csv"
    missing = [item for item in items if not item.path.is_file()]
    if complete and not missing and annotations.is_file():
        return annotations
    _write_state(root, settings, complete=False)
    _write_videos(items, missing, on_progress, workers)
    _replace(annotations, _annotation_table(items).encode())
    _write_state(root, settings, complete=True)
    return annotations


def _codec() -> str:
    return next(name for name in _CODECS if name in av.codecs_available)


def _check_folder(root: Path, settings: dict[str, object]) -> bool:
    """Say whether the folder is complete; refuse one that was not drawn with these settings."""
    state_path = root / "dataset.json"
    if not state_path.is_file():
        if any((root / "videos").glob("*/*.mp4")):
            raise ConfigError(
                f"{root} holds videos but no dataset.json; name an empty folder for the demo"
            )
        return False
    try:
        state = read_json(state_path)
        recorded = state["settings"]
        complete = bool(state["complete"])
    except (ValueError, KeyError, TypeError) as err:
        raise ConfigError(f"{state_path} is not readable ({err!r}); delete {root}") from err
    if recorded != settings:
        differing = [key for key in settings if recorded.get(key) != settings[key]]
        wanted = ", ".join(
            f"{key}={settings[key]} (there: {recorded.get(key)})" for key in differing
        )
        raise ConfigError(
            f"{root} holds demo videos of other settings: asked for {wanted}; "
            "delete that folder or name another"
        )
    return complete


def _plan(root: Path, counts: dict[str, int], seed: int) -> list[_Item]:
    scenes = sample_splits(**counts, seed=seed)
    return [
        _Item(
            root / "videos" / split / f"{split}_{i:05d}.mp4",
            scene,
            (seed, 2 + SPLITS.index(split), i),
        )
        for split in SPLITS
        for i, scene in enumerate(scenes[split])
    ]


def _write_videos(
    items: list[_Item],
    missing: list[_Item],
    on_progress: Callable[[int, int], None] | None,
    workers: int,
) -> None:
    for folder in {item.path.parent for item in missing}:
        folder.mkdir(parents=True, exist_ok=True)
    done = len(items) - len(missing)
    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(_write_video, missing):
            done += 1
            if on_progress is not None:
                on_progress(done, len(items))


def _write_video(item: _Item) -> None:
    take = stage(item.scene, np.random.default_rng(item.seed))
    times = (np.arange(NUM_FRAMES) + 0.5) / NUM_FRAMES
    frames = (draw(picture, size=FRAME_SIZE) for picture in pictures(take, times))
    _replace(item.path, _encode(frames, _codec()))


def _encode(frames: Iterable[Pixels], codec: str) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4", options={"use_editlist": "0"}) as container:
        stream = cast(
            av.VideoStream,
            container.add_stream(codec, rate=FRAMES_PER_SECOND, options=_CODECS[codec]),
        )
        stream.width = stream.height = FRAME_SIZE
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1  # several threads would vary the bytes
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            container.mux(stream.encode(picture))  # converts to the stream's format
        container.mux(stream.encode())
    return buffer.getvalue()


def _annotation_table(items: list[_Item]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("video", "caption", "split"))
    for item in items:
        rng = np.random.default_rng((*item.seed, 1))
        for caption in video_captions(item.scene, rng):
            writer.writerow((item.path.name, caption, item.path.parent.name))
    return text.getvalue()


def _write_state(root: Path, settings: dict[str, object], *, complete: bool) -> None:
    root.mkdir(parents=True, exist_ok=True)
    state = {"settings": settings, "complete": complete}
    _replace(root / "dataset.json", (json.dumps(state, indent=2) + "\n").encode())


def _replace(path: Path, content: bytes) -> None:
    with replacing(path) as partial:
        partial.write_bytes(content)
