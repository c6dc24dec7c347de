from pathlib import Path

import pytest

from gare_cache.annotations.readers import (
    READERS,
    check_joins,
    read_annotations,
    split_fractions,
)
from gare_cache.errors import ConfigError

NOWHERE = Path("nowhere")


def test_a_protocol_is_for_readers_that_have_some_and_needed_there() -> None:
    with pytest.raises(ConfigError, match=r"dataset.protocol is 'full', but reader 'generic'"):
        read_annotations("generic", NOWHERE, "full")
    with pytest.raises(ConfigError, match=r"protocol is not set; reader 'msrvtt' needs one of 1k"):
        read_annotations("msrvtt", NOWHERE)
    with pytest.raises(ConfigError, match=r"unknown protocol of reader 'msrvtt' '1k-a'; did you"):
        read_annotations("msrvtt", NOWHERE, "1k-a")


def test_fractions_have_a_default_and_are_refused_where_no_split_is_cut() -> None:
    given = {"val_fraction": None, "test_fraction": 0.3}
    assert split_fractions("generic", given) == {"val_fraction": 0.1, "test_fraction": 0.3}
    none = {"val_fraction": None, "test_fraction": None}
    assert split_fractions("msrvtt", none) == {"val_fraction": 0.0, "test_fraction": 0.0}
    for name in none:
        with pytest.raises(ConfigError, match=rf"dataset.{name} is 0.2, but reader 'msrvtt' takes"):
            split_fractions("msrvtt", {**none, name: 0.2})


def test_sentences_that_describe_the_whole_video_are_not_joined() -> None:
    check_joins("generic")
    with pytest.raises(ConfigError, match=r"dataset.captions is 'paragraph', but the protocols of"):
        check_joins("msrvtt")


@pytest.mark.parametrize("check", [read_annotations, split_fractions])
def test_every_look_up_names_the_nearest_reader(check: object) -> None:
    assert callable(check)
    with pytest.raises(ConfigError, match=r"unknown reader 'msrvt'; did you mean 'msrvtt'"):
        check("msrvt", {})


def test_every_data_set_has_its_protocols_by_name() -> None:
    assert {name: reader.protocols for name, reader in READERS.items()} == {
        "generic": (),
        "folder": (),
        "msrvtt": ("1k-a-9k", "1k-a-7k", "full"),
        "didemo": ("paragraph", "paragraph-listed", "sentence"),
        "activitynet": ("paragraph", "paragraph-val2"),
        "msvd": ("all-captions", "first-caption"),
        "lsmdc": ("1k",),
        "youcook2": ("clip", "clip-milnce", "video"),
        "tgif": ("all-captions",),
        "vatex": ("hgr", "random-1k5"),
        "moments": ("video", "window"),
    }
