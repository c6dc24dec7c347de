"""Limits on what is read from files: a small or damaged file cannot take the machine's memory.

Each limit is far above what data sets need and is raised by an environment variable. All JSON, YAML
and npy headers of the package are read by the functions here; Parquet by ``files.read_parquet``.
"""

from __future__ import annotations

import json
import math
import os
import tokenize
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, Any

import numpy as np
import yaml

from gare_cache.errors import ConfigError, LimitExceeded, UnreadableFile


@dataclass(frozen=True)
class Limit:
    """A bound on one quantity of a file.

    Attributes:
        variable: environment variable that replaces the default.
        default: the largest value accepted.
        unit: what is counted, for messages.
    """

    variable: str
    default: int
    unit: str

    @property
    def value(self) -> int:
        """The bound in force.

        Raises:
            ConfigError: the environment variable is not a whole number above 0.
        """
        text = os.environ.get(self.variable, "")
        if not text:
            return self.default
        if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text)):
            raise ConfigError(f"${self.variable} is {text!r}; it must be a whole number above 0")
        return int(text)

    def check(self, where: object, found: int, *, at_least: bool = False) -> None:
        """Refuse what exceeds the bound.

        Args:
            where: the file, and the place in it.
            found: the value found.
            at_least: counting stopped at ``found``.

        Raises:
            LimitExceeded: the message names the file, both values and the variable.
        """
        if found > self.value:
            raise LimitExceeded(
                f"{where}: {'more than ' * at_least}{found - at_least:,} {self.unit}, the limit is "
                f"{self.value:,}; if the file is meant to be so, raise ${self.variable}"
            )


TEXT_BYTES = Limit("GARE_CACHE_MAX_TEXT_BYTES", 256 * 2**20, "bytes of text")
VALUE_CHARACTERS = Limit("GARE_CACHE_MAX_VALUE_CHARACTERS", 2**17, "characters in one value")
NESTING = Limit("GARE_CACHE_MAX_NESTING", 100, "levels of nesting")
YAML_NODES = Limit("GARE_CACHE_MAX_YAML_NODES", 100_000, "values, those of aliases repeated")
TABLE_VALUES = Limit("GARE_CACHE_MAX_TABLE_VALUES", 20_000_000, "values (rows times columns)")
TABLE_BYTES = Limit("GARE_CACHE_MAX_TABLE_BYTES", 2**30, "bytes once decompressed")
EXPANSION = Limit("GARE_CACHE_MAX_EXPANSION", 100, "times its size on the disk, decompressed")
LIMITS = (
    TEXT_BYTES,
    VALUE_CHARACTERS,
    NESTING,
    YAML_NODES,
    TABLE_VALUES,
    TABLE_BYTES,
    EXPANSION,
)
_ANY_EXPANSION_BYTES = 256 * 2**20  # up to here the ratio does not matter

_HEADERS: dict[tuple[int, int], Callable[..., tuple[tuple[int, ...], bool, np.dtype[Any]]]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
# Errors of numpy's parser, which evaluates a Python literal.
_HEADER_ERRORS = (
    *(ValueError, KeyError, TypeError, AttributeError, EOFError, OverflowError),
    *(SyntaxError, RecursionError, MemoryError, tokenize.TokenError),
)


def read_bytes(path: Path) -> bytes:
    """Read a text file whole.

    Raises:
        LimitExceeded: it is larger than ``TEXT_BYTES``.
    """
    TEXT_BYTES.check(path, path.stat().st_size)
    return path.read_bytes()


def read_text(path: Path) -> str:
    """Read a UTF-8 file whole, with or without a byte order mark.

    Raises:
        LimitExceeded: it is larger than ``TEXT_BYTES``.
        UnreadableFile: it is not UTF-8.
    """
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as err:
        raise UnreadableFile(f"{path} is not UTF-8 text ({err})") from err


def parse_json(where: object, text: str | bytes, **options: Any) -> Any:
    """Parse JSON.

    Args:
        where: the file, and the place in it, for messages.
        text: the JSON text.
        options: passed to ``json.loads``.

    Raises:
        LimitExceeded: it is nested deeper than ``NESTING``.
        ValueError: it is not JSON.
    """
    try:
        value = json.loads(text, **options)
    except RecursionError as err:
        raise _too_deep(where) from err
    _check_values(where, value)
    return value


def parse_yaml(where: object, text: str, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> Any:
    """Parse a YAML document of plain values.

    Args:
        where: the file, for messages.
        text: the document.
        loader: a safe loader.

    Raises:
        LimitExceeded: it is nested deeper than ``NESTING``, or has more values than ``YAML_NODES``;
            a value that aliases repeat counts each time.
        ConfigError: it is not YAML.
    """
    reader = None
    try:
        reader = loader(text)
        node = reader.get_single_node()
        _check_nodes(where, node)
        return None if node is None else reader.construct_document(node)
    except RecursionError as err:
        raise _too_deep(where) from err
    except LimitExceeded:
        raise
    # Not only YAMLError: a date of month 13, a number of 5,000 digits, "!!int" of nothing.
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError) as err:
        raise ConfigError(f"{where} is not valid YAML: {' '.join(str(err).split())}") from err
    finally:
        if reader is not None:
            reader.dispose()


def read_yaml(path: Path, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> Any:
    """Read a YAML file of plain values.

    Raises:
        LimitExceeded: as ``read_text`` and ``parse_yaml``.
        ConfigError: it is not YAML.
    """
    content = read_bytes(path)
    try:
        text = content.decode()
    except UnicodeDecodeError as err:
        raise ConfigError(f"{path} is not valid YAML: {err}") from err
    return parse_yaml(path, text, loader)


def check_expansion(where: object, stored_bytes: int, expanded_bytes: int) -> None:
    """Refuse compressed or absent data that is far larger than what is stored of it.

    Raises:
        LimitExceeded: it is over 256 MiB and over ``EXPANSION`` times its size on the disk.
    """
    if expanded_bytes > _ANY_EXPANSION_BYTES:
        EXPANSION.check(where, math.ceil(expanded_bytes / max(1, stored_bytes)))


def read_npy_header(
    file: IO[bytes], where: object, size: int
) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
    """Read the header of an npy file and check that the array it announces is there.

    Args:
        file: the open file, at its start; afterwards at the first byte of the array.
        where: the file, for messages.
        size: bytes of the whole file.

    Returns:
        Shape, dtype, and whether the array is in Fortran order.

    Raises:
        UnreadableFile: it is no npy file, holds pickled objects, or fewer bytes than announced.
    """
    try:
        shape, fortran, dtype = _HEADERS[np.lib.format.read_magic(file)](file)
    except _HEADER_ERRORS as err:
        raise UnreadableFile(
            f"{where} is not an npy array ({err}); a pickle is never loaded, because it can run "
            "any code: save plain arrays with numpy.save"
        ) from err
    if dtype.hasobject:
        raise UnreadableFile(
            f"{where} holds pickled Python objects, which are never loaded, because they can run "
            "any code; save an array of numbers, or of strings, with numpy.save"
        )
    present = size - file.tell()
    announced = math.prod(shape) * max(1, dtype.itemsize)
    if min(shape, default=0) < 0 or announced > present:
        raise UnreadableFile(
            f"{where} announces an array of shape {shape}, {announced:,} bytes, but holds "
            f"{present:,}; it is cut short or damaged: write it again"
        )
    return shape, dtype, fortran


def read_npy(path: Path) -> np.ndarray[Any, np.dtype[Any]]:
    """Read an npy file of plain numbers or strings.

    Raises:
        UnreadableFile: as ``read_npy_header``.
    """
    with path.open("rb") as file:
        read_npy_header(file, path, path.stat().st_size)
        file.seek(0)
        array: np.ndarray[Any, np.dtype[Any]] = np.load(file, allow_pickle=False)
    return array


def _too_deep(where: object) -> LimitExceeded:
    return LimitExceeded(
        f"{where}: nested too deeply to be read, the limit is {NESTING.value:,} levels"
    )


def _check_values(where: object, value: Any) -> None:
    """Walk through the levels of parsed JSON, which has no cycles."""
    level = [value] if value and isinstance(value, dict | list) else []
    depth = 0
    while level:
        depth += 1
        NESTING.check(where, depth, at_least=True)
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node)
            if child and isinstance(child, dict | list)
        ]


def _check_nodes(where: object, root: yaml.Node | None) -> None:
    """Count the nodes below a root; an alias is the node that it names, and may contain itself."""
    waiting = [(root, 1)]
    count = 0
    while waiting:
        node, depth = waiting.pop()
        count += 1
        YAML_NODES.check(where, count, at_least=True)
        if isinstance(node, yaml.CollectionNode):
            NESTING.check(where, depth, at_least=True)
            pairs = isinstance(node, yaml.MappingNode)
            inner = chain.from_iterable(node.value) if pairs else node.value
            waiting += [(child, depth + 1) for child in inner]
