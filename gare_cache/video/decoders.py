"""The two decoders, decord and PyAV, and the rule that chooses between them.

Both return the frames as FFmpeg's swscale converts them to 8-bit RGB: alpha is dropped,
non-square samples stay so, and frames of other sizes are scaled to the size of the first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from gare_cache.errors import DecodeError
from gare_cache.video.containers import ISO_MEDIA, MATROSKA, decoded_packets, open_video
from gare_cache.video.probing import VideoProbe

Frames = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.int64]
Step = Callable[
    [int, Frames], Frames
]  # number of a frame among those asked, (H, W, 3) -> (h, w, 3)
Decoder = Callable[[Path, VideoProbe, Indices, Step], Frames]

DECORD_CODECS = frozenset({"h264", "hevc", "vp9"})
MOST_DIFFERENCE = 2.0  # mean grey levels between the decoders; their own rounding gives below 1
DECORD_CONTAINERS = frozenset({ISO_MEDIA, MATROSKA})


def choose_decoder(probe: VideoProbe, *, decord_available: bool) -> str:
    """Choose the decoder by the file's properties alone, so that features are reproducible.

    Args:
        probe: the properties of the file.
        decord_available: whether decord can be imported.

    Returns:
        ``"decord"`` or ``"pyav"``.
    """
    return "decord" if decord_available and decord_objection(probe) is None else "pyav"


def decord_objection(probe: VideoProbe) -> str | None:
    """Say why decord 0.6 cannot decode a file correctly; None if it can.

    decord fails on AV1, reports hidden frames, and its colours of 10-bit samples are 3 grey levels
    off. It silently returns wrong frames from MPEG-TS, and after keyframes at which decoding must
    not begin: open groups of pictures, as written by x265, and intra refresh.
    """
    objections = {
        f"its codec is {probe.codec}": probe.codec not in DECORD_CODECS,
        f"its container is {probe.container}": probe.container not in DECORD_CONTAINERS,
        f"it has {probe.bit_depth} bits a sample": probe.bit_depth > 8,
        "its frame rate varies": not probe.constant_rate,
        "it has an edit list": probe.has_edit_list,
        "it is rotated or mirrored": probe.rotation != 0 or probe.mirrored,
        f"it has {probe.num_video_streams} video streams": probe.num_video_streams != 1,
        "its keyframes are not independent": not probe.clean_keyframes or probe.pts is None,
        "its first frame is damaged": probe.damaged_start,
    }
    return next((reason for reason, applies in objections.items() if applies), None)


def import_decord() -> ModuleType | None:
    """Import decord and silence it; None if it is not installed or does not load."""
    try:
        import decord
    except (ImportError, OSError):
        return None
    decord.logging.set_level(decord.logging.QUIET)
    module: ModuleType = decord
    return module


def keep_whole(_: int, frame: Frames) -> Frames:
    """Keep a frame as it is decoded."""
    return frame


def decode_with_decord(
    path: Path, probe: VideoProbe, indices: Indices, step: Step = keep_whole
) -> Frames:
    """Decode frames with decord, on one thread, where PyAV agrees on the file.

    Both must give the same count and times, and the same pictures for the first and last frames
    of the file's first second and of its last second.

    Args:
        path: a local file.
        probe: its probe.
        indices: (F,) ascending indices of presented frames.
        step: what to keep of each frame, called as soon as it is decoded.

    Returns:
        (F, H, W, 3) uint8 RGB, as ``step`` returns them.

    Raises:
        DecodeError: decord is absent, or its count, times or pictures differ.
        Exception: whatever decord raises.
    """
    decord = import_decord()
    if decord is None:
        raise DecodeError("decord is not installed")
    checked = _ends(probe)
    union = np.union1d(indices, checked)
    reader = decord.VideoReader(str(path.absolute()), ctx=decord.cpu(0), num_threads=1)
    try:
        if len(reader) != len(probe.times):
            raise DecodeError(f"decord counts {len(reader)} frames, not {len(probe.times)}")
        # decord counts from the first frame, in float32.
        stamps = np.asarray(reader.get_frame_timestamp(union), np.float64)[:, 0]
        if np.abs(stamps - (probe.times[union] - probe.times[0])).max() > 0.5 / probe.fps:
            raise DecodeError("decord gives other times to the frames")
        expected = dict(zip(checked, decode_with_pyav(path, probe, checked), strict=True))
        place = {int(index): number for number, index in enumerate(indices)}
        kept: list[Frames] = []
        for index in union.tolist():  # one at a time: whole frames may be large
            frame = np.asarray(reader.get_batch([index]).asnumpy()[0].copy(), np.uint8)
            if index in expected:
                _check_picture(frame, expected.pop(index), float(probe.times[index]))
            if index in place:
                kept.append(step(place[index], frame))
    finally:
        del reader  # an open reader keeps decoding into memory in the background
    return np.stack(kept)


def _ends(probe: VideoProbe) -> Indices:
    """Return the first and last frame of the first second of a file and of its last second."""
    first, last = probe.times[0], probe.times[-1]
    inner = [np.searchsorted(probe.times, first + 1) - 1, np.searchsorted(probe.times, last - 1)]
    return np.unique(np.clip([0, *inner, len(probe.times) - 1], 0, None)).astype(np.int64)


def _check_picture(frame: Frames, expected: Frames, seconds: float) -> None:
    if frame.shape != expected.shape:
        raise DecodeError(f"decord gives frames {frame.shape[:2]}, PyAV {expected.shape[:2]}")
    difference = float(np.abs(expected.astype(np.int16) - frame).mean())
    if difference > MOST_DIFFERENCE:
        raise DecodeError(
            f"decord and PyAV differ by {difference:.1f} grey levels at {seconds:.3f} s"
        )


def decode_with_pyav(
    path: Path, probe: VideoProbe, indices: Indices, step: Step = keep_whole
) -> Frames:
    """Decode frames with PyAV, on one thread, each identified by its timestamp.

    If decoding may begin at every keyframe, the reader seeks to the keyframe before a wanted frame
    and checks its timestamp; if that fails, the stream is decoded from its start.

    A frame is rejected if FFmpeg marks it as corrupt, or if a packet failed between the last
    keyframe and it; it is never replaced by a neighbour or a guess.

    Args:
        path: a local file.
        probe: its probe.
        indices: (F,) ascending indices of presented frames.
        step: what to keep of each frame, called as soon as it is decoded and upright.

    Returns:
        (F, H, W, 3) uint8 RGB, upright (H and W swapped by quarter turns), as ``step`` returns
        them.

    Raises:
        DecodeError: a frame cannot be decoded.
    """
    keys = indices if probe.pts is None else probe.pts[indices]
    wanted = {int(key): number for number, key in enumerate(keys)}

    def kept(key: int, frame: Frames) -> Frames:
        return step(wanted[key], _upright(frame, probe))

    may_seek = probe.clean_keyframes and probe.pts is not None and not probe.has_edit_list
    frames = _seek_and_decode(path, probe, list(wanted), kept) if may_seek else {}
    if missing := [key for key in wanted if key not in frames]:
        with _opened(path, probe) as (container, stream):
            frames |= _decode_run(container, stream, probe, missing, kept)
    for index, key in zip(indices, wanted, strict=True):
        if key not in frames:
            raise DecodeError(
                f"{path} is damaged: the frame at {probe.times[index]:.3f} s "
                f"(number {index} of {len(probe.times)}) cannot be decoded"
            )
    return np.stack([frames[key] for key in wanted])


def _opened(
    path: Path, probe: VideoProbe
) -> AbstractContextManager[tuple[InputContainer, VideoStream]]:
    return open_video(path, probe.stream_index, most_pixels=probe.most_pixels)


def _seek_and_decode(
    path: Path, probe: VideoProbe, wanted: list[int], step: Step
) -> dict[int, Frames]:
    frames: dict[int, Frames] = {}
    with suppress(DecodeError), _opened(path, probe) as (container, stream):
        for keyframe, run in _runs(probe.keyframe_pts, wanted):
            container.seek(keyframe, stream=stream)
            frames |= _decode_run(container, stream, probe, run, step, begin=keyframe)
    return frames


def _runs(keyframe_pts: Indices, wanted: list[int]) -> list[tuple[int, list[int]]]:
    """Group wanted timestamps by the last keyframe at or before each."""
    runs: dict[int, list[int]] = {}
    for pts in wanted:
        keyframe = int(keyframe_pts[np.searchsorted(keyframe_pts, pts, side="right") - 1])
        runs.setdefault(keyframe, []).append(pts)
    return list(runs.items())


def _decode_run(
    container: InputContainer,
    stream: VideoStream,
    probe: VideoProbe,
    wanted: list[int],
    step: Step,
    *,
    begin: int | None = None,
) -> dict[int, Frames]:
    """Decode until all wanted frames are decoded; damaged ones are left out.

    Args:
        container: the open file.
        stream: its video stream.
        probe: its probe.
        wanted: timestamps, or frame numbers if the probe has no timestamps.
        step: what to keep of the frame of each.
        begin: timestamp that the first packet must have, after a seek.

    Returns:
        (H, W, 3) frames by timestamp or number, as ``step`` returns them.
    """
    frames: dict[int, Frames] = {}
    # One for all frames and on one thread: a frame's own is made anew, with a thread per processor.
    rgb = partial(
        VideoReformatter().reformat,
        width=probe.width,
        height=probe.height,
        format="rgb24",
        threads=1,
    )
    for key, frame in _intact_frames(container, stream, probe, begin):
        if key in wanted:
            frames[key] = step(key, np.asarray(rgb(frame).to_ndarray(), np.uint8))
            if len(frames) == len(wanted):
                break
    return frames


def _intact_frames(
    container: InputContainer, stream: VideoStream, probe: VideoProbe, begin: int | None
) -> Iterator[tuple[int, VideoFrame]]:
    """Yield the frames that no failed packet can affect, with their timestamp or number."""
    count = 0
    damaged = False
    intact: set[int | None] = set()
    for position, (packet, decoded) in enumerate(decoded_packets(container, stream)):
        if position == 0 and begin is not None and packet.pts != begin:
            return
        if packet.is_keyframe and probe.clean_keyframes:
            damaged = False
        damaged = damaged or decoded is None
        if not damaged:
            intact.add(packet.pts)
        for frame in decoded or []:
            key = count if probe.pts is None else frame.pts
            sound = not damaged if probe.pts is None else frame.pts in intact
            count += 1
            if key is not None and sound and not frame.is_corrupt:
                yield key, frame


def _upright(frame: Frames, probe: VideoProbe) -> Frames:
    """Mirror and rotate an (H, W, 3) frame so that it stands upright."""
    if probe.mirrored:
        frame = frame[:, ::-1]
    return np.ascontiguousarray(np.rot90(frame, k=-(probe.rotation // 90)))


DECODERS: dict[str, Decoder] = {"decord": decode_with_decord, "pyav": decode_with_pyav}
