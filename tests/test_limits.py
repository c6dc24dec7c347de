"""Small files that would take the machine's memory are refused, with the limit that says so."""

import io
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gare_cache.annotations.readers import read_annotations
from gare_cache.cache.exchange.files import open_feature_file
from gare_cache.config import read_values
from gare_cache.errors import ConfigError, FeatureFileError, LimitExceeded
from gare_cache.evaluation.similarity_file import SimilarityFileError, read_similarity
from gare_cache.files import read_parquet
from gare_cache.limits import LIMITS, TABLE_VALUES


def npy(shape: tuple[int, ...]) -> bytes:
    file = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + bytes(64)


def repeated(text: str, rows: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), [text])


def test_tables_that_grow_when_decoded(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"video": repeated("v", 21_000_000)}), path)
    with pytest.raises(LimitExceeded, match=r"a.parquet: 21,000,000 values .*MAX_TABLE_VALUES"):
        read_annotations("generic", path)
    pq.write_table(pa.table({"caption": repeated("a" * 500_000, 4_000)}), path, compression="zstd")
    assert path.stat().st_size < 2_000_000
    with pytest.raises(LimitExceeded, match=r"2,000,0..,000 bytes .*GARE_CACHE_MAX_TABLE_BYTES"):
        read_parquet(path)


def test_yaml_of_nested_aliases_or_levels(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    lines = [f"z{n}: &z{n} [{', '.join([f'*z{n - 1}'] * 10)}]" for n in range(1, 10)]
    path.write_text("\n".join(["z0: &z0 [x]", *lines]))
    with pytest.raises(LimitExceeded, match=r"more than 100,000 values.*GARE_CACHE_MAX_YAML_NODES"):
        read_values(path)
    for text in ("a: " + "[" * 20_000 + "]" * 20_000, "a: &a [*a]"):
        path.write_text(text)
        with pytest.raises(LimitExceeded, match="the limit is 100"):
            read_values(path)
    for text in ("a: 2020-13-45", 'a: !!int ""', "!!timestamp x"):
        path.write_text(text)
        with pytest.raises(ConfigError, match="is not valid YAML"):
            read_values(path)


def test_nested_json_and_long_values(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    for levels in (200, 100_000):
        path.write_text('{"video": "a", "caption": ' + "[" * levels + "]" * levels + "}")
        with pytest.raises(LimitExceeded, match=r"a.jsonl:1: .*the limit is 100"):
            read_annotations("generic", path)
    path.write_text('{"video": "a", "caption": "' + "b" * 200_000 + '"}')
    with pytest.raises(LimitExceeded, match="200,000 characters in one value"):
        read_annotations("generic", path)


def test_arrays_whose_header_announces_more_than_there_is(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(npy((10**6, 10**7)))
    with pytest.raises(SimilarityFileError, match="40,000,000,000,000 bytes, but holds 64"):
        read_similarity(path)
    archive = tmp_path / "a.npz"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("frames.npy", npy((10**9, 4, 8)))
    with pytest.raises(FeatureFileError, match="announces"), open_feature_file(archive):
        pass


def test_hdf5_of_shape_without_data_or_with_data_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("frames", (10**9, 4, 8), "f4", chunks=(1000, 4, 8))
    with pytest.raises(LimitExceeded, match="MAX_EXPANSION"), open_feature_file(path):
        pass
    with h5py.File(path, "w") as file:
        file.create_dataset("frames", (2, 8), "f4", external=[(str(tmp_path / "b"), 0, 64)])
    with pytest.raises(FeatureFileError, match="other files"), open_feature_file(path):
        pass


def test_limits_are_raised_by_their_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"a": [1, 2, 3]}), path)
    for limit in LIMITS:
        monkeypatch.setenv(limit.variable, "2")
        with pytest.raises(LimitExceeded, match=rf"a: 3 .*limit is 2.*{limit.variable}"):
            limit.check("a", 3)
        monkeypatch.delenv(limit.variable)
    monkeypatch.setenv(TABLE_VALUES.variable, "2")
    with pytest.raises(LimitExceeded):
        read_parquet(path)
    monkeypatch.setenv(TABLE_VALUES.variable, "3")
    assert read_parquet(path).num_rows == 3
    monkeypatch.setenv(TABLE_VALUES.variable, "many")
    with pytest.raises(ConfigError, match="must be a whole number above 0"):
        read_parquet(path)


def test_what_a_column_of_strings_may_take_is_told_by_its_first_row(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    ids = pa.array([f"id {number}" for number in range(5_000)])
    long = pa.DictionaryArray.from_arrays(pa.array([0] + [1] * 4_999), ["a", "b" * 500_000])
    mixed = pa.table({"id": ids, "long": long, "none": pa.nulls(5_000, pa.string())})
    pq.write_table(mixed, path, compression="zstd")
    with pytest.raises(LimitExceeded, match=r"2,4..,...,... bytes .*MAX_TABLE_BYTES"):
        read_parquet(path)
    # A plain page before those of a dictionary, and a row group of short values before a long one.
    parts = [mixed.slice(0, 1), mixed.slice(1)]
    with pq.ParquetWriter(path, mixed.schema, compression="zstd") as file:
        for part in parts:
            file.write_table(part)
    with pytest.raises(LimitExceeded, match=r"2,4..,...,... bytes .*MAX_TABLE_BYTES"):
        read_parquet(path)
    short = mixed.select(["id", "none"])
    pq.write_table(short, path)
    assert read_parquet(path) == short
    pq.write_table(short.slice(0, 0), path)
    assert read_parquet(path) == short.slice(0, 0)


def test_what_columns_take_that_are_not_read_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    long = repeated("a" * 500_000, 4_000)
    ids = pa.array([f"id {number}" for number in range(4_000)])
    pq.write_table(pa.table({"id": ids, "long.one": long}), path, compression="zstd")
    assert read_parquet(path, ["id"])["id"].to_pylist() == ids.to_pylist()
    for names in (None, ["long.one"], ["id", "long.one"]):
        with pytest.raises(LimitExceeded, match=r"bytes .*GARE_CACHE_MAX_TABLE_BYTES"):
            read_parquet(path, names)
