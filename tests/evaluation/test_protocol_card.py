import json
from pathlib import Path
from typing import Any

import pytest

from gare_cache.annotations.published_sizes import PUBLISHED_SIZES
from gare_cache.annotations.readers import READERS
from gare_cache.annotations.settings import DatasetSettings
from gare_cache.evaluation.protocol_card import ProtocolCard, SplitCounts, published_tests
from gare_cache.files import read_json, write_record
from gare_cache.stages.evaluate import evaluate
from gare_cache.stages.extract import extract
from gare_cache.stages.prepare import prepare
from gare_cache.stages.train import train
from tests.tiny import SPLIT_SIZES, change_params, workspace


def dataset(reader: str, protocol: str | None) -> DatasetSettings:
    return DatasetSettings(
        name="x", reader=reader, protocol=protocol, annotations="a", video_roots=[]
    )


def differences(reader: str, protocol: str | None, **changes: Any) -> dict[str, list[str]]:
    given = {"split": "test", "v2t": "best_caption_of_all", **changes}
    scored = given.pop("scored")
    given.setdefault("listed", scored)
    found = published_tests(dataset(reader, protocol), scored=scored, **given)
    return {test.source: list(test.differs) for test in found}


def test_the_complete_official_test_is_comparable_with_those_who_score_it() -> None:
    found = differences("didemo", "paragraph", scored=(1004, 1004))
    assert found["Collaborative Experts, ProST, MMEB-V2"] == []
    assert found["CLIP4Clip's code, T-MASS"] == ["protocol paragraph-listed"]
    assert found["VindLU"] == ["1,003 videos, here 1,004"]


def test_a_test_with_missing_videos_is_comparable_with_none() -> None:
    found = differences("didemo", "paragraph", scored=(1003, 1003), listed=(1004, 1004))
    assert all(found.values())
    lacking = ["1,003 of 1,004 videos here", "1,003 of 1,004 captions here"]
    assert found["Collaborative Experts, ProST, MMEB-V2"] == lacking


def test_one_caption_a_video_is_another_test_than_all_captions() -> None:
    found = differences("msvd", "all-captions", scored=(670, 670))
    assert found["Collaborative Experts, CLIP4Clip, X-Pool, CLIP2Video"] == [
        "27,763 captions, here 670"
    ]


def test_scores_of_validation_compare_with_no_published_test() -> None:
    found = differences("msrvtt", "1k-a-9k", scored=(1000, 1000), split="val")
    assert all("the val split here" in differs for differs in found.values())


def test_another_convention_of_video_to_text_is_said() -> None:
    tests = published_tests(
        dataset("vatex", "hgr"),
        split="test",
        v2t="best_caption_of_all",
        scored=(1500, 15_000),
        listed=(1500, 15_000),
    )
    (same,) = [test for test in tests if not test.differs]
    assert same.note == "video to text is by best_caption_group there"


def test_own_data_has_no_published_tests() -> None:
    assert differences("generic", None, scored=(10, 10)) == {}


@pytest.mark.parametrize("reader", PUBLISHED_SIZES)
def test_published_sizes_name_protocols_and_their_official_sizes(reader: str) -> None:
    sizes = READERS[reader].sizes
    for test in PUBLISHED_SIZES[reader]:
        for protocol in test.protocols:
            videos, captions = sizes[protocol]["test"]
            assert videos == test.videos
            assert captions in (None, test.captions)


def test_the_card_counts_each_split_and_the_captions_cut(project: Path) -> None:
    change_params(project, encoder__context_length=5)
    space = workspace(project)
    (project / "videos/test/test2.mp4").unlink()
    prepare(space)
    features = extract(space)
    assert features is not None
    train(space)
    evaluate(space)
    metrics = read_json(space.evaluation / "metrics.json")
    card = ProtocolCard.from_json(json.loads(json.dumps(metrics["card"])))
    assert card.context_length == 5
    assert {name: of.listed_videos for name, of in card.splits.items()} == SPLIT_SIZES
    assert sum(of.found_videos for of in card.splits.values()) == sum(SPLIT_SIZES.values()) - 1
    assert all(of.encoded_videos == of.found_videos for of in card.splits.values())
    cut = {name: of.cut_captions for name, of in card.splits.items()}
    assert cut == features["captions"]["cut"]
    assert sum(filter(None, cut.values())) > 0
    assert card.published == []
    # An earlier version recorded the sum alone.
    older = read_json(space.features)
    write_record(space.features, older | {"captions": older["captions"] | {"cut": 9}})
    evaluate(space)
    card = ProtocolCard.from_json(read_json(space.evaluation / "metrics.json")["card"])
    assert {of.cut_captions for of in card.splits.values()} == {None}


def test_a_card_is_read_back_as_written() -> None:
    card = ProtocolCard(
        *("a", "didemo", "paragraph", False, "test", None),
        splits={"test": SplitCounts(4, 4, 4, 3, 3, 4, 3, None)},
        published=published_tests(
            dataset("didemo", "paragraph"),
            split="test",
            v2t="best_caption_group",
            scored=(3, 3),
            listed=(4, 4),
        ),
    )
    assert ProtocolCard.from_json(json.loads(json.dumps(card.to_json()))) == card
