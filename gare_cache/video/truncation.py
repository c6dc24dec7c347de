"""Notice files that were cut short, by the sizes, packets and end marks of their container."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from gare_cache.video.containers import ISO_MEDIA, MATROSKA, checked_size

_SAMPLE_BOXES = frozenset({b"mdat", b"moov", b"moof"})
_FIRST_BOXES = _SAMPLE_BOXES | {b"ftyp", b"wide"}
_EBML_HEADER, _EBML_SEGMENT = 0x1A45DFA3, 0x18538067
_UNKNOWN_RIFF_SIZES = frozenset({0, 0xFFFFFFFF})
_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_ASF_INDEX = bytes.fromhex("90080033b1e5cf1189f400a0c90349cb")
_HEAD_BYTES = 1 << 16  # of a file, in which ASF and FLV declare their size
_FLV_TAGS = frozenset({8, 9, 18})  # audio, video, script
_OGG_VIDEO = (b"\x80theora", b"OVP80", b"BBCD", b"\x80daala")  # starts of their first packets
_OGG_FIRST, _OGG_LAST = 2, 4  # flags of a page
_TAIL_BYTES = 1 << 18  # in which the last packets of MPEG streams are found
_TS_SYNC, _TS_PACKET_BYTES = b"\x47", (188, 192, 204)  # plain, M2TS, with error correction
_TS_SYNCS = 5  # in a row, before a packet size is believed
_PS_PACK, _PS_END = 0xBA, 0xB9


def missing_bytes(path: Path, container_name: str) -> int:
    """Return how many of the bytes that the container announces are missing from the file.

    Announced by the top-level boxes of ISO media, the elements of Matroska, the chunks of AVI, the
    file properties or packets of ASF, the metadata and tags of FLV, the pages of Ogg, the blocks of
    GIF, and the packets of MPEG transport and programme streams. A missing end mark of GIF, or of
    a video in Ogg, counts as one byte. 0 for other containers, and for a cut exactly between two
    units of a stream without sizes and end marks.
    """
    size = checked_size(path)
    reader = _ENDS.get(container_name)
    if reader is None:
        return 0
    with path.open("rb") as file:
        return max(0, reader(file, size) - size)


def looks_like_iso_media(path: Path) -> bool:
    """Return whether a file begins as MP4 and MOV do, also where FFmpeg cannot open it."""
    try:
        with path.open("rb") as file:
            return file.read(8)[4:] in _FIRST_BOXES
    except OSError:
        return False


def _iso_media_end(file: BinaryIO, file_size: int) -> int:
    position = 0
    kind = b""
    while position + 16 <= file_size:
        size, kind, long_size = struct.unpack(">I4sQ", _read(file, position, 16))
        size = long_size if size == 1 else size
        if size < 8:  # 0: the box extends to the end of the file; otherwise not a box
            break
        if position + size > file_size and kind not in _SAMPLE_BOXES:
            break
        position += size
    # The samples of a fragment follow it.
    return position + 8 if kind == b"moof" and position == file_size else position


def _matroska_end(file: BinaryIO, file_size: int) -> int:
    """Walk the elements, and those within elements of unknown size, as written live."""
    position = 0
    live = False
    while position < file_size:
        head = _read(file, position, 12)
        id_length = 9 - head[0].bit_length()
        known = int.from_bytes(head[:4], "big") in (_EBML_HEADER, _EBML_SEGMENT)
        if id_length > 4 or not (live or known):
            break
        if len(head) <= id_length:
            return position + id_length + 1
        length = 9 - head[id_length].bit_length()
        if length > 8:
            break
        mask = (1 << 7 * length) - 1
        size = int.from_bytes(head[id_length : id_length + length], "big") & mask
        position += id_length + length
        live = live or size == mask
        position += 0 if size == mask else size
    return position


def _riff_end(file: BinaryIO, file_size: int) -> int:
    """Walk the RIFF chunks, and those within lists of unknown size, as written to a pipe."""
    position = end = 0
    live = False
    while len(head := _read(file, position, 8)) == 8:
        kind, size = struct.unpack("<4sI", head)
        if kind != b"RIFF" and not (live and kind.replace(b" ", b"0").isalnum()):
            break
        unknown = kind in (b"RIFF", b"LIST") and size in _UNKNOWN_RIFF_SIZES
        live = live or unknown
        end = position + (12 if unknown else 8 + size)
        position = end + end % 2
    else:
        end = position + 8 if live and position < file_size and any(head) else end
    return end


def _asf_end(file: BinaryIO, file_size: int) -> int:
    head = file.read(_HEAD_BYTES)
    start = head.find(_ASF_FILE_PROPERTIES) if head.startswith(_ASF_HEADER) else -1
    properties = head[start : start + 100]
    if start < 0 or len(properties) < 100:
        return 0
    if not properties[88] & 1:
        return int.from_bytes(properties[40:48], "little")
    # Broadcast: the size is unknown; packets of one size follow the 50 bytes of the data object.
    packet_bytes = int.from_bytes(properties[96:100], "little")
    position = int.from_bytes(head[16:24], "little") + 50
    while packet_bytes and position < file_size:
        unit = _read(file, position, 24)
        if unit.startswith(_ASF_INDEX):
            return position + int.from_bytes(unit[16:], "little")
        if not unit[0] & 0x80:  # without error correction data: not a packet as they are written
            break
        position += packet_bytes
    return position


def _flv_end(file: BinaryIO, file_size: int) -> int:
    head = file.read(_HEAD_BYTES)
    # An AMF property: name, then the type of a double.
    _, _, value = head.partition(b"\x00\x08filesize\x00")
    declared = struct.unpack(">d", value[:8])[0] if len(value) >= 8 else 0
    if 0 < declared < 2**63:
        return int(declared)
    position = int.from_bytes(head[5:9], "big") + 4
    while position < file_size:
        tag = _read(file, position, 4)
        if tag[0] not in _FLV_TAGS:
            break
        # A header of 11 bytes, the data, and the size of both in 4 bytes.
        position += 15 + (int.from_bytes(tag[1:], "big") if len(tag) == 4 else 0)
    return position


def _ogg_end(file: BinaryIO, file_size: int) -> int:
    position = 0
    videos: set[bytes] = set()
    while position < file_size:
        page = _read(file, position, 27 + 255)
        if not page.startswith(b"OggS"[: len(page)]):
            return 0
        if len(page) < 27 or len(page) < 27 + page[26]:
            return position + 27 + 255
        start = position + 27 + page[26]
        serial = page[14:18]
        if page[5] & _OGG_FIRST and _read(file, start, 8).startswith(_OGG_VIDEO):
            videos.add(serial)
        if page[5] & _OGG_LAST:
            videos.discard(serial)
        position = start + sum(page[27 : 27 + page[26]])
    return max(position, file_size + bool(videos))


def _gif_end(file: BinaryIO, file_size: int) -> int:
    position = 13 + _colour_bytes(_read(file, 10, 1))
    while position < file_size:
        block = _read(file, position, 10)
        if block[0] == 0x3B:  # the trailer
            return position + 1
        if block[0] == 0x21:  # an extension and its label
            position += 2
        elif block[0] == 0x2C:  # an image: place and size, flags, colours, code size
            position += 11 + _colour_bytes(block[9:])
        else:
            return 0
        while position < file_size and (length := _read(file, position, 1)[0]):
            position += 1 + length
        position += 1
    return max(position, file_size) + 1


def _colour_bytes(flags: bytes) -> int:
    return 3 << (flags[0] & 7) + 1 if flags and flags[0] & 0x80 else 0


def _transport_end(file: BinaryIO, file_size: int) -> int:
    """Continue the packets that run up to the end; the file may begin or change in between."""
    start = max(0, file_size - _TAIL_BYTES)
    tail = _read(file, start, _TAIL_BYTES)
    for size, first in ((n, offset) for n in _TS_PACKET_BYTES for offset in range(n)):
        syncs = tail[first::size]
        if len(syncs) >= _TS_SYNCS and not syncs.strip(_TS_SYNC):
            # An M2TS packet has its 4 further bytes before the sync byte.
            return start + first + (len(syncs) - 1) * size + (188 if size == 192 else size)
    return 0


def _program_end(file: BinaryIO, file_size: int) -> int:
    """Walk the last packets, from each place that could be a pack header until one leads on."""
    tail_start = max(0, file_size - _TAIL_BYTES)
    tail = _read(file, tail_start, _TAIL_BYTES)
    pack = -1
    while (pack := tail.find(bytes([0, 0, 1, _PS_PACK]), pack + 1)) >= 0:
        position = pack
        while len(tail) - position >= 6 and tail.startswith(b"\0\0\1", position):
            position += _program_unit_bytes(tail, position)
        rest = tail[position:]
        if len(rest) < 6 and (
            not any(rest) or rest.startswith((b"\0\0\1", b"\0\0\1"[: len(rest)]))
        ):
            announced = position + 6 if any(rest) else position
            return tail_start + announced
    return 0


def _program_unit_bytes(data: bytes, position: int) -> int:
    kind = data[position + 3]
    if kind == _PS_END:
        return 4
    if kind != _PS_PACK:
        return 6 + int.from_bytes(data[position + 4 : position + 6], "big")
    if data[position + 4] >> 6 != 1:  # MPEG-1
        return 12
    return 14 + (data[position + 13] & 7 if position + 13 < len(data) else 0)


def _read(file: BinaryIO, position: int, count: int) -> bytes:
    file.seek(position, os.SEEK_SET)
    return file.read(count)


_ENDS: dict[str, Callable[[BinaryIO, int], int]] = {
    ISO_MEDIA: _iso_media_end,
    MATROSKA: _matroska_end,
    "avi": _riff_end,
    "asf": _asf_end,
    "flv": _flv_end,
    "ogg": _ogg_end,
    "gif": _gif_end,
    "mpegts": _transport_end,
    "mpeg": _program_end,
}
