"""Measure the structure of checkouts: lines a room, modules with one importer, long functions.

    python benchmarks/structure.py CHECKOUT [CHECKOUT ...]

Reads the sources and imports nothing. Docstrings do not count as lines of a function.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

PACKAGE = "gare_cache"
LONG = 40


def modules(checkout: Path) -> dict[str, Path]:
    """Return the files of the package by module name."""
    files = sorted((checkout / PACKAGE).rglob("*.py"))
    names = [".".join(file.relative_to(checkout).with_suffix("").parts) for file in files]
    return {name.removesuffix(".__init__"): file for name, file in zip(names, files, strict=True)}


def imported(tree: ast.AST, known: dict[str, Path]) -> set[str]:
    """Return the package's modules that a module imports."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                names.add(inner if inner in known else node.module)
    return names & known.keys()


def long_functions(tree: ast.AST) -> Iterator[str]:
    """Yield the functions of more than 40 lines, their docstring left out."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node, clean=False)
            lines = (node.end_lineno or 0) - node.lineno + 1
            if lines - (docstring.count("\n") + 1 if docstring else 0) > LONG:
                yield node.name


def measure(checkout: Path) -> None:
    """Print the figures of one checkout."""
    known = modules(checkout)
    trees = {name: ast.parse(file.read_text()) for name, file in known.items()}
    importers = Counter(target for tree in trees.values() for target in imported(tree, known))
    rooms: Counter[str] = Counter()
    for name, file in known.items():
        rooms[".".join(name.split(".")[:2])] += file.read_text().count("\n")
    leaves = [name for name, file in known.items() if file.name != "__init__.py"]
    once = [name for name in leaves if importers[name] == 1]
    lengths = {name: known[name].read_text().count("\n") for name in leaves}
    print(f"{checkout}: {len(leaves)} modules, {sum(rooms.values()):,} lines")
    print(f"modules with one importer: {len(once)}, of fewer than 60 lines: ", end="")
    print(sum(lengths[name] < 60 for name in once))
    print(f"modules of more than 300 lines: {sum(count > 300 for count in lengths.values())}")
    print(f"functions of more than {LONG} lines: ", end="")
    print(sum(1 for tree in trees.values() for _ in long_functions(tree)))
    for room, lines in sorted(rooms.items()):
        print(f"  {room.removeprefix(PACKAGE + '.'):<20} {lines:>6,}")


if __name__ == "__main__":
    for folder in sys.argv[1:]:
        measure(Path(folder))
