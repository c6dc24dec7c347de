"""Code identity: the source files that a result depends on, as an import closure and its digest.

The same walk serves this package's code (``code_digest``) and custom parts
(``gare_cache.own.own_digests``). It reads the import statements of the files, including those
inside functions, and imports nothing.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache, lru_cache
from pathlib import Path

from gare_cache.files import canonical_digest, file_digest

PACKAGE = __name__.partition(".")[0]

# Modules that cannot change a number, each with its reason. Neither they nor modules that only they
# import belong to an identity.
NO_EFFECT: Mapping[str, str] = {
    "gare_cache": "names the public functions and the version; computes nothing",
    "gare_cache.errors": "texts of messages and exit codes",
    "gare_cache.project.progress": "draws progress bars and prints lines",
}


def import_closure(
    entries: Iterable[str], locate: Callable[[str], Mapping[str, Path]]
) -> dict[str, Path]:
    """Collect the modules that the entry modules import, directly or indirectly.

    Args:
        entries: names of the entry modules.
        locate: maps a dotted name to the modules that importing it runs, with their files; empty
            for names to ignore, such as those of installed packages.

    Returns:
        The files by module name, including those of the entries.
    """
    closure: dict[str, Path] = {}
    waiting, seen = list(entries), set(entries)
    while waiting:
        for module, file in locate(waiting.pop()).items():
            if module not in closure:
                closure[module] = file
                new = set(_imported_names(file.read_bytes(), _package(module, file))) - seen
                waiting += new
                seen |= new
    return closure


def code_closure(entry: str, *, folder: Path | None = None) -> dict[str, Path]:
    """Collect the modules of this package that determine what one of them computes.

    Args:
        entry: dotted name, such as ``"gare_cache.stages.train"``.
        folder: folder that holds the package; None takes this module's.

    Returns:
        The files by module name, without the modules of ``NO_EFFECT``.
    """
    root = folder or Path(__file__).parents[1]
    return import_closure([entry], lambda name: _locate(root, name))


def code_digest(entry: str, *, folder: Path | None = None) -> str:
    """Return the SHA-256 (hex) of the code that determines what a module computes.

    Args:
        entry: as for ``code_closure``.
        folder: as for ``code_closure``.
    """
    files = code_closure(entry, folder=folder)
    return canonical_digest({module: file_digest(file) for module, file in files.items()})


@cache
def installed_code_digest(entry: str) -> str:
    """Return ``code_digest`` of the installed package, computed once per process."""
    return code_digest(entry)


def _locate(root: Path, name: str) -> dict[str, Path]:
    """Return the package's modules that ``import name`` runs: the module and its parents."""
    files = {}
    parts = name.split(".")
    for count in range(1, len(parts) + 1) if parts[0] == PACKAGE else ():
        module = ".".join(parts[:count])
        base = root.joinpath(*parts[:count])
        file = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
        if module not in NO_EFFECT and file.is_file():
            files[module] = file
    return files


def _package(module: str, file: Path) -> str:
    return module if file.name == "__init__.py" else module.rpartition(".")[0]


@lru_cache(maxsize=1024)
def _imported_names(source: bytes, package: str) -> tuple[str, ...]:
    return tuple(_names(ast.parse(source), package))


def _names(tree: ast.AST, package: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: None if node.level < 2 else 1 - node.level]
            base = ".".join([*(parents if node.level else ()), *filter(None, [node.module])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
