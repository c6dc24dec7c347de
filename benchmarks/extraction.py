"""Time extraction against the plain loop: `python benchmarks/extraction.py [--device cuda]`.

Draws H.264 files, makes a CLIP with random weights, and prints a Markdown table of medians over
several rounds: the plain loop (decode, preprocess, encode and write, one after the other), decoding
alone (the worker processes, nothing encoded), encoding alone (frames at hand), and the pipeline.
What the pipeline could reach where both sides share the processor is 1 / (1/decode + 1/encode);
with a GPU it is the slower side.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
from measure import print_table, write_results

MODEL: dict[str, Any] = {
    "embed_dim": 512,
    "vision_cfg": {"image_size": 224, "layers": 6, "width": 384, "patch_size": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 384, "heads": 6, "layers": 1},
}
WIDTH, HEIGHT, FPS = 320, 240, 25


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=int, default=64)
    parser.add_argument("--seconds", type=int, default=4, help="length of a video")
    parser.add_argument("--frames", type=int, default=12, help="frames encoded of a video")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=0, help="0: as gare-cache extract")
    parser.add_argument("--size", type=int, default=224, help="pixels of the model's images")
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0: its own choice")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--preprocess", default="exact", choices=["exact", "device"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        _report(options, _Bench(options, Path(folder)))


def _report(options: argparse.Namespace, bench: Any) -> None:
    sides: dict[str, Callable[[], None]] = {
        "plain loop": bench.plain_loop,
        "decode alone": bench.decode_alone,
        "encode alone": bench.encode_alone,
        "pipeline": bench.pipeline,
    }
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(options.rounds + 1):
        for name, run in sides.items():
            started = time.perf_counter()
            run()
            rates[name].append(options.videos / (time.perf_counter() - started))
    rates = {name: values[1:] for name, values in rates.items()}  # the first round warms up
    bounds, of_bound = [], []
    for decode, encode, pipeline in zip(*list(rates.values())[1:], strict=True):
        shared = 1 / (1 / decode + 1 / encode)
        bounds.append(shared if options.device == "cpu" else min(decode, encode))
        of_bound.append(100 * pipeline / bounds[-1])
    bound_name = "1 / (1/decode + 1/encode)" if options.device == "cpu" else "the slower side"
    rows = [
        {
            "form": name,
            "videos/s": statistics.median(values),
            "lowest": min(values),
            "highest": max(values),
        }
        for name, values in {**rates, bound_name: bounds}.items()
    ]
    print_table(rows)
    print(f"pipeline / bound, median of {options.rounds} rounds: ", end="")
    print(f"{statistics.median(of_bound):.0f} % ({min(of_bound):.0f} to {max(of_bound):.0f})")
    what = f"{options.workers} decoders, {options.size} px, {options.preprocess}"
    write_results(f"extraction_{options.workers}_{options.size}_{options.preprocess}", {what: rows})


class _Bench:
    """The four ways of doing it, on the same files and the same model."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        import os

        from gare_cache.cache.schema import Layout
        from gare_cache.reproducibility import resolve_device, set_threads

        set_threads(options.threads)
        self._options = options
        self._folder = folder
        self._caches = 0
        self._layout = Layout(max_frames=options.frames, dim=MODEL["embed_dim"])
        self._workers = options.workers or min(os.cpu_count() or 1, 16)
        self._sources = [
            _write_video(folder / f"{number}.mp4", number, options.seconds * FPS)
            for number in range(options.videos)
        ]
        self._encoder = _make_encoder(
            folder / "encoder",
            resolve_device(options.device),
            preprocess=options.preprocess,
            size=options.size,
        )
        with self._decoded() as decoded:
            self._frames = list(decoded)

    def plain_loop(self) -> None:
        from functools import partial

        from gare_cache.extraction.decode import decode_video

        decode: Callable[..., Any] = partial(decode_video, **self._sampling())
        with self._writer() as (writer, units):
            for unit in units:
                videos = [decode(self._sources[row]) for row in unit.rows]
                encoded = self._encode(unit, videos)
                writer.commit(
                    unit,
                    encoded.values,
                    encoded.outcomes,
                    thumbnails=encoded.thumbnails,
                    seconds=encoded.seconds,
                )

    def decode_alone(self) -> None:
        with self._decoded() as decoded:
            for _ in decoded:
                pass

    def encode_alone(self) -> None:
        with self._writer() as (_, units):
            for unit in units:
                self._encode(unit, [self._frames[row] for row in unit.rows])

    def pipeline(self) -> None:
        from itertools import islice

        from gare_cache.extraction.encode import committing

        with (
            self._decoded() as decoded,
            self._writer() as (writer, units),
            committing(writer) as commit,
        ):
            for unit in units:
                commit(unit, self._encode(unit, islice(decoded, len(unit.rows))))

    def _sampling(self) -> dict[str, Any]:
        return {
            "sampler": "segment_centre",
            "max_frames": self._options.frames,
            "preprocessing": self._encoder.preprocessing,
        }

    def _decoded(self) -> Any:
        from gare_cache.extraction.decode import decode_in_workers

        return decode_in_workers(
            self._sources, **self._sampling(), workers=self._workers, deadline_seconds=60
        )

    def _encode(self, unit: Any, videos: Any) -> Any:
        from gare_cache.extraction.encode import encode_videos

        return encode_videos(
            self._encoder,
            unit.rows,
            videos,
            layout=self._layout,
            batch_frames=128,
            on_video=lambda _: None,
        )

    def _writer(self) -> Any:
        from contextlib import contextmanager

        from gare_cache.cache.identity import Owner
        from gare_cache.cache.writer import open_writer

        @contextmanager
        def opened() -> Any:
            self._caches += 1
            with open_writer(
                self._folder / f"cache{self._caches}",
                dataset="benchmark",
                identity={"encoder": self._encoder.identity},
                layout=self._layout,
                head_start={},
                owner=Owner("0" * 32, str(self._folder)),
            ) as writer:
                rows = writer.allocate("video", self._sources)
                yield writer, writer.pending("video", rows)

        return opened()


def _write_video(path: Path, seed: int, num_frames: int) -> dict[str, Any]:
    """Write a moving pattern with some noise, so that the file is of an ordinary size."""
    generator = np.random.default_rng(seed)
    base = generator.integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8)
    picture = np.repeat(np.repeat(base, 8, axis=0), 8, axis=1)
    noise = generator.integers(0, 12, picture.shape, dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(num_frames):
            frame = np.roll(picture // 2 + noise, (number, 2 * number), axis=(0, 1))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    stat = path.stat()
    return {
        "video_id": path.stem,
        "path": str(path),
        "start_seconds": None,
        "end_seconds": None,
        "size_bytes": stat.st_size,
        "mtime_ns": stat.st_mtime_ns,
    }


def _make_encoder(folder: Path, device: Any, *, preprocess: str, size: int) -> Any:
    import json

    import torch
    from safetensors.torch import save_file

    from gare_cache.encoders.encoder import load_encoder
    from gare_cache.encoders.loading import ModelSource
    from gare_cache.encoders.open_clip_import import import_open_clip

    folder.mkdir()
    torch.manual_seed(0)
    config = {**MODEL, "vision_cfg": {**MODEL["vision_cfg"], "image_size": size}}
    model = import_open_clip().CLIP(**json.loads(json.dumps(config)))
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    content = {"model_cfg": config, "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    source = ModelSource(f"local-dir:{folder}")
    return load_encoder(source, device=device, preprocess=preprocess)


if __name__ == "__main__":
    main()
