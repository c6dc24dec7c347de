"""Compare the frames found with ffprobe's count: `python benchmarks/video_table.py FOLDER`.

Prints a Markdown table of every file of a folder: the decoder and why it is not decord (or why
there are no frames), the frames found, and the frames that ffprobe decodes (`-count_frames`) from
the same stream. Needs the ffmpeg package of the system.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path

from gare_cache.errors import DecodeError
from gare_cache.video.decoders import decord_objection
from gare_cache.video.decoding import decode_clip
from gare_cache.video.probing import VideoProbe, probe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    print("| file | container, codec | decoder | frames found | by ffprobe |")
    print("|---|---|---|---|---|")
    for path in paths:
        print(f"| `{path.name}` {_row(path)}", flush=True)


def _row(path: Path) -> str:
    try:
        found: VideoProbe | None = probe(path)
        clip = decode_clip(path, sampler="segment_centre", max_frames=12)
    except DecodeError as err:
        reason = str(err).replace(str(path), "").lstrip(" :").removeprefix("is ")
        return f"| | none: {reason} | 0 | {_count(path, 'v:0')} |"
    assert found is not None
    kind = f"{found.container.split(',')[0]}, {found.codec}"
    why = decord_objection(found) or clip.switch_reason
    why = f": {why}" if clip.decoder == "pyav" and why else ""
    counted = _count(path, str(found.stream_index))
    return f"| {kind} | {clip.decoder}{why} | {len(found.times):,} | {counted} |"


def _count(path: Path, stream: str) -> str:
    command = ["ffprobe", "-v", "error", "-select_streams", stream, "-count_frames"]
    wanted = ["-show_entries", "stream=nb_read_frames", "-of", "json", str(path)]
    result = subprocess.run([*command, *wanted], capture_output=True, text=True, check=False)
    streams = json.loads(result.stdout or "{}").get("streams", [])
    if not streams:
        return "no video"
    return f"{int(streams[0].get('nb_read_frames', 0)):,}"


if __name__ == "__main__":
    main()
