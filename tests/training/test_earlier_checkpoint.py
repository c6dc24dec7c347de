"""A run and its cache, both made before the settings had their present form, are still read."""

from pathlib import Path

import numpy as np
import torch

from gare_cache.cache.loading import load_cache
from gare_cache.heads.settings import TransformerSettings
from gare_cache.settings import parse_settings
from gare_cache.training.checkpoint import load_checkpoint, require_encoder
from gare_cache.training.settings import TrainSettings

FOLDER = Path(__file__).parents[1] / "data/before_typed_settings"


def test_an_earlier_checkpoint_scores_an_earlier_cache_as_it_did() -> None:
    (folder,) = (FOLDER / "cache").iterdir()
    cache = load_cache(folder)
    checkpoint = load_checkpoint(FOLDER / "head.safetensors")
    require_encoder(checkpoint, cache.encoder_id, where=folder)
    test = cache.split("test")
    mask = torch.from_numpy(test.mask)
    frames = torch.from_numpy(test.frames).float().masked_fill(~mask[..., None], 0.0)
    scores = checkpoint.head.similarity(torch.from_numpy(test.text).float(), frames, mask)
    stored = np.load(FOLDER / "similarity.npy")
    assert stored.shape == (6, 3)
    np.testing.assert_allclose(scores.numpy(), stored, atol=1e-6)


def test_the_settings_of_its_record_are_read_although_they_list_null() -> None:
    record = load_checkpoint(FOLDER / "head.safetensors").record["settings"]
    assert record["head"]["aggregator"]["options"] is None
    aggregator = load_checkpoint(FOLDER / "head.safetensors").head.settings["aggregator"]
    assert aggregator == TransformerSettings(layers=2).model_dump()
    assert parse_settings(TrainSettings, record["train"]).loss.contrastive.name == "info_nce"
