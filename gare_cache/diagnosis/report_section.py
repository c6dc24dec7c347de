"""Section on the increment in a run's report, from diagnosis.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gare_cache.diagnosis.readings import answers
from gare_cache.files import read_json
from gare_cache.reports.content import IncrementSection

_AGAIN = "run `gare-cache diagnose` and then `gare-cache report`."


def increment_section(file: Path, record: dict[str, Any]) -> IncrementSection | None:
    """Return the answers of a run's diagnosis, or why there are none.

    Args:
        file: ``diagnosis.json``, which may be missing.
        record: of the reported run.

    Returns:
        None for a head without increment.
    """
    if not record["settings"]["head"]["gap"]:
        return None
    if not file.is_file():
        return IncrementSection((), f"The increment was not diagnosed: {_AGAIN}", None)
    diagnosis = read_json(file)
    if diagnosis["run_key"] != record["run_key"]:
        note = (
            f"The existing diagnosis belongs to run {diagnosis['run_key']}, not to this one, "
            f"{record['run_key']}; it is left out: {_AGAIN}"
        )
        return IncrementSection((), note, None)
    try:
        sentences = answers(diagnosis)
    except KeyError:  # written before every difference had its adjusted p
        note = f"The existing diagnosis was written by another version; it is left out: {_AGAIN}"
        return IncrementSection((), note, None)
    note = f"Measured on the {diagnosis['split']} split, {diagnosis['coverage']}."
    return IncrementSection(sentences, note, "../diagnosis/diagnosis")
