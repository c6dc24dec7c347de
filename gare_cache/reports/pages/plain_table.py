"""Plain-text tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence


def plain_table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    num_left: int = 1,
    *,
    last_left: bool = False,
) -> list[str]:
    """Return cells as lines of aligned columns, two spaces apart.

    Args:
        header: column titles.
        rows: cells, as many as titles in each row.
        num_left: leading columns that are aligned left; the others are aligned right.
        last_left: whether the last column is aligned left, too.

    Returns:
        One line for the header and each row.
    """
    left = {*range(num_left), *([len(header) - 1] if last_left else [])}
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if place in left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()
        for cells in (header, *rows)
    ]
