"""Ways to damage the bytes of a file, for tests that feed the result to the tool."""

from collections.abc import Callable
from random import Random

Damage = Callable[[bytes, Random], bytes]


def _block(content: bytes, rng: Random, size: int) -> slice:
    start = rng.randrange(max(1, len(content) - size + 1))
    return slice(start, start + size)


def flip(count: int, where: slice = slice(None)) -> Damage:
    """Flip bits of a part of the file."""

    def damage(content: bytes, rng: Random) -> bytes:
        values = bytearray(content)
        places = range(len(values))[where]
        for _ in range(count if places else 0):
            values[rng.choice(places)] ^= 1 << rng.randrange(8)
        return bytes(values)

    return damage


def cut(share: float) -> Damage:
    """Keep the first part of the file."""
    return lambda content, rng: content[: int(share * len(content))]


def fill(size: int, byte: int | None) -> Damage:
    """Overwrite a block with one byte, or with random ones."""

    def damage(content: bytes, rng: Random) -> bytes:
        values = bytearray(content)
        block = _block(content, rng, size)
        length = len(values[block])
        values[block] = rng.randbytes(length) if byte is None else bytes([byte]) * length
        return bytes(values)

    return damage


def delete(size: int) -> Damage:
    """Remove a block."""

    def damage(content: bytes, rng: Random) -> bytes:
        block = _block(content, rng, size)
        return content[: block.start] + content[block.stop :]

    return damage


def insert(*pieces: bytes) -> Damage:
    """Insert one of some bytes at a random place."""

    def damage(content: bytes, rng: Random) -> bytes:
        at = rng.randrange(len(content) + 1)
        return content[:at] + rng.choice(pieces) + content[at:]

    return damage


def replace(old: bytes, *new: bytes) -> Damage:
    """Replace an occurrence of some bytes."""

    def damage(content: bytes, rng: Random) -> bytes:
        places = [i for i in range(len(content)) if content.startswith(old, i)]
        if not places:
            return content[: len(content) // 2]
        at = rng.choice(places)
        return content[:at] + rng.choice(new) + content[at + len(old) :]

    return damage


def repeat_block(content: bytes, rng: Random) -> bytes:
    """Write a block twice."""
    block = content[_block(content, rng, 64)]
    at = rng.randrange(len(content) + 1)
    return content[:at] + block + content[at:]


def swap_halves(content: bytes, rng: Random) -> bytes:
    """Exchange the parts before and after a place."""
    at = rng.randrange(len(content) + 1)
    return content[at:] + content[:at]


def repeat_line(content: bytes, rng: Random) -> bytes:
    """Write a line twice."""
    lines = content.split(b"\n")
    number = rng.randrange(len(lines))
    return b"\n".join([*lines[:number], lines[number], *lines[number:]])


def drop_line(content: bytes, rng: Random) -> bytes:
    """Leave out a line."""
    lines = content.split(b"\n")
    del lines[rng.randrange(len(lines))]
    return b"\n".join(lines)


WAYS: dict[str, Damage] = {
    "one bit": flip(1),
    "8 bits": flip(8),
    "256 bits": flip(256),
    "a bit of the first 64 bytes": flip(1, slice(64)),
    "8 bits of the first 256 bytes": flip(8, slice(256)),
    "a bit of the last 64 bytes": flip(1, slice(-64, None)),
    "8 bits of the last 256 bytes": flip(8, slice(-256, None)),
    "empty": cut(0),
    "a tenth": cut(0.1),
    "half": cut(0.5),
    "nine tenths": cut(0.9),
    "all but the last byte": lambda content, rng: content[:-1],
    "cut at random": lambda content, rng: content[: rng.randrange(len(content) + 1)],
    "16 zeros": fill(16, 0),
    "512 zeros": fill(512, 0),
    "4096 zeros": fill(4096, 0),
    "64 times 0xff": fill(64, 0xFF),
    "64 random bytes": fill(64, None),
    "another file": lambda content, rng: rng.randbytes(len(content)),
    "a byte less": delete(1),
    "100 bytes less": delete(100),
    "NUL": insert(b"\0", b"\0" * 100),
    "brackets": insert(b"[" * 5000, b"{" * 5000, b'{"a":' * 5000, b"(" * 5000),
    "a large number": insert(b"9" * 400, b"-1", b"1e999", b"18446744073709551616"),
    "a word": insert(b"null", b"true", b"NaN", b"Infinity", b'""', b"{}", b"[]", b"!!x", b"&a *a"),
    "a line separator": insert(
        "\u2028".encode(), "\u0085".encode(), b"\r", b"\n", b"\xff", b"\xed\xa0\x80"
    ),
    "a number instead of text": replace(b'"', b"1", b"", b"\\"),
    "another separator": replace(b",", b";", b"\t", b"\n", b""),
    "twice a block": repeat_block,
    "swapped halves": swap_halves,
    "twice a line": repeat_line,
    "a line less": drop_line,
}
