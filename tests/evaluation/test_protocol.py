import numpy as np
import pyarrow as pa
import pytest
import torch

from gare_cache.data.split import FeatureSplit
from gare_cache.errors import CacheError
from gare_cache.evaluation.protocol import apply_protocol
from gare_cache.evaluation.settings import EvaluateSettings
from gare_cache.manifest.tables import CAPTION_SCHEMA, VIDEO_SCHEMA, Manifest

# Videos a (2 captions), b (1), c (3), d (1) in test; e in train. Without features: video b, and
# the texts c#0 and d#0.
VIDEOS = {"a": 2, "e": 2, "b": 1, "c": 3, "d": 1}
CAPTIONS = [
    (f"{video}#{number}", video) for video, count in VIDEOS.items() for number in range(count)
]
WITHOUT = {"c#0", "d#0"}


def make_manifest() -> Manifest:
    split = {video: "train" if video == "e" else "test" for video in VIDEOS}
    videos = [{"video_id": video, "split": split[video]} for video in VIDEOS]
    captions = [
        {"caption_id": id_, "video_id": video, "split": split[video], "caption": f"about {id_}"}
        for id_, video in CAPTIONS
    ]
    return Manifest(
        pa.Table.from_pylist(videos, VIDEO_SCHEMA), pa.Table.from_pylist(captions, CAPTION_SCHEMA)
    )


def make_split() -> FeatureSplit:
    kept = [(id_, v) for id_, v in CAPTIONS if v in "acd" and id_ not in WITHOUT]
    return FeatureSplit(
        name="test",
        video_ids=["a", "c", "d"],
        caption_ids=[id_ for id_, _ in kept],
        captions=[f"about {id_}" for id_, _ in kept],
        frames=torch.zeros(3, 2, 4),
        mask=torch.ones(3, 2, dtype=torch.bool),
        text=torch.arange(len(kept))[:, None].expand(-1, 4).float(),
        video_of_text=torch.tensor(["acd".index(v) for _, v in kept]),
        num_videos_listed=4,
        num_captions_listed=7,
    )


def test_every_listed_query_is_there_with_what_it_lacks() -> None:
    found = apply_protocol(make_split(), make_manifest(), EvaluateSettings())
    t2v, v2t = found.listed["t2v"], found.listed["v2t"]
    assert list(zip(t2v.query_ids, t2v.missing, strict=True)) == [
        ("a#0", None),
        ("a#1", None),
        ("b#0", "video"),
        ("c#0", "text"),
        ("c#1", None),
        ("c#2", None),
        ("d#0", "text"),
    ]
    assert t2v.video_ids == ["a", "a", "b", "c", "c", "c", "d"]
    assert list(zip(v2t.query_ids, v2t.missing, strict=True)) == [
        ("a", None),
        ("b", "video"),
        ("c", None),
        ("d", "text"),  # its video stays in the gallery of t2v
    ]
    assert (t2v.num_items, v2t.num_items) == (4, 7)
    assert found.features.coverage == "3 of 4 test videos, 4 of 7 captions"
    # The scored queries are those without a fault, in the same order.
    assert [id_ for id_, ok in zip(t2v.query_ids, t2v.has_features, strict=True) if ok] == list(
        found.features.caption_ids
    )
    scored = [found.features.video_ids[row] for row in np.unique(found.video_of_text)]
    assert [id_ for id_, ok in zip(v2t.query_ids, v2t.has_features, strict=True) if ok] == scored


def test_one_caption_a_video_is_the_first_listed_and_no_other_stands_in() -> None:
    settings = EvaluateSettings(captions="first", v2t_convention="best_caption_group")
    found = apply_protocol(make_split(), make_manifest(), settings)
    assert found.listed["t2v"].query_ids == ["a#0", "b#0", "c#0", "d#0"]
    assert found.listed["t2v"].missing == [None, "video", "text", "text"]
    assert found.listed["v2t"].num_items == 4
    assert list(found.features.caption_ids) == ["a#0"]
    assert found.features.captions == ["about a#0"]
    assert found.features.text[:, 0].tolist() == [0]
    assert found.features.coverage == "3 of 4 test videos, 1 of 4 captions"


def test_a_protocol_without_a_caption_is_refused() -> None:
    manifest = make_manifest()
    alone = Manifest(manifest.videos.slice(3), manifest.captions.slice(5))
    with pytest.raises(CacheError, match=r"none of the 2 test captions .* evaluate\.captions: all"):
        apply_protocol(make_split(), alone, EvaluateSettings(captions="first"))
