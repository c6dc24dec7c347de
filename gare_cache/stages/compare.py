"""Stage compare: which of two methods is better, and on which queries they differ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
from pyarrow import csv as pyarrow_csv

from gare_cache.errors import ConfigError
from gare_cache.evaluation.comparison.finished_runs import read_finished_run
from gare_cache.evaluation.comparison.methods import compare_methods
from gare_cache.files import replacing, write_json, write_parquet
from gare_cache.reports.comparison import describe_comparison

_TABLES = (".parquet", ".csv")


def compare(
    runs_a: Sequence[Path],
    runs_b: Sequence[Path],
    *,
    method_a: str = "head",
    method_b: str = "head",
    queries_file: Path | None = None,
    json_file: Path | None = None,
) -> list[str]:
    """Compare two methods on the same test queries, with one or several seeds of each.

    Args:
        runs_a: outputs folders of A, one per seed.
        runs_b: outputs folders of B, one per seed.
        method_a: name of A in its ``ranks.parquet``.
        method_b: name of B in its ``ranks.parquet``.
        queries_file: where to list the queries won and lost; Parquet or CSV by its suffix.
        json_file: where to write the figures, unrounded.

    Returns:
        Lines to print.

    Raises:
        ConfigError: a folder holds no evaluation, or the list cannot be written in this format.
        NotComparable: the runs were scored on different queries or in different ways.
    """
    if queries_file is not None and queries_file.suffix not in _TABLES:
        raise ConfigError(f"{queries_file} must end in {' or '.join(_TABLES)}")
    comparison = compare_methods(
        [read_finished_run(folder, method_a) for folder in runs_a],
        [read_finished_run(folder, method_b) for folder in runs_b],
    )
    if queries_file is not None:
        _write_table(queries_file, pa.concat_tables(comparison.changed.values()))
    if json_file is not None:
        write_json(json_file, comparison.to_json())
    return describe_comparison(comparison)


def _write_table(path: Path, table: pa.Table) -> None:
    if path.suffix == ".parquet":
        write_parquet(path, table)
    else:
        with replacing(path) as partial:
            pyarrow_csv.write_csv(table, partial)
