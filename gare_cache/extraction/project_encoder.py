"""Encoder, layout and identity of the extraction that params.yaml describes."""

from __future__ import annotations

from typing import Any

from gare_cache.cache.identity import extraction_identity
from gare_cache.cache.schema import Layout
from gare_cache.demo import demo_encoder_dir
from gare_cache.encoders.augmentation import Views, view_identity
from gare_cache.encoders.encoder import Encoder, load_encoder
from gare_cache.encoders.hub import LOCAL_DIR
from gare_cache.encoders.loading import ModelSource
from gare_cache.encoders.settings import EncoderSettings, ExtractSettings
from gare_cache.errors import ConfigError
from gare_cache.manifest.tables import Manifest
from gare_cache.project.paths import Workspace
from gare_cache.project.progress import say
from gare_cache.reproducibility import resolve_device

DEMO_MODEL = "demo"


def project_encoder(
    workspace: Workspace,
    manifest: Manifest | None,
    *,
    device: str,
    precision: str | None = None,
    download: bool = True,
) -> Encoder:
    """Load the encoder that params.yaml names, and say what its weights needed to fit.

    Args:
        workspace: the project.
        manifest: the items to encode; None if others have checked that there are some.
        device: where the encoder runs.
        precision: overrides the precision of params.yaml.
        download: whether missing weights are downloaded; otherwise they stay random.

    Raises:
        ConfigError: no encoder is set, or there is nothing to encode.
    """
    settings = _encoder_settings(workspace, manifest)
    encoder = load_encoder(
        model_source(workspace, settings),
        precision=precision or settings.precision,
        device=resolve_device(device),
        context_length=settings.context_length,
        preprocess=settings.preprocess,
        download=download,
    )
    for note in encoder.notes if precision is None else ():
        say(f"note: {note}")
    return encoder


def project_identity(workspace: Workspace, encoder: Encoder) -> dict[str, Any]:
    """Return the identity of the extraction that params.yaml describes."""
    settings = workspace.params.extract
    views = project_views(settings)
    return extraction_identity(
        encoder=encoder.identity,
        sampling={
            "sampler": settings.sampler,
            "max_frames": settings.max_frames_cached,
            "patch_tokens": settings.patch_tokens,
            "word_tokens": settings.word_tokens,
            "views": None if views is None else view_identity(views),
            "batch_frames": settings.batch_frames,
            "batch_captions": settings.batch_captions,
        },
        decoder_rule=decoder_rule(),
    )


def decoder_rule() -> str:
    """Return the version of the rule that chooses decoders, with those of this machine."""
    # Imported late: a search decodes nothing.
    from gare_cache.video.decoders import import_decord
    from gare_cache.video.decoding import DECODER_RULE

    return f"{DECODER_RULE} with {'decord' if import_decord() else 'PyAV alone'}"


def project_layout(settings: ExtractSettings, encoder: Encoder) -> Layout:
    """Return the layout of the cache that the settings describe.

    Raises:
        ConfigError: the settings ask for patch or word tokens that the encoder cannot provide.
    """
    if settings.word_tokens:
        encoder.require_words()
    return Layout(
        max_frames=settings.max_frames_cached,
        dim=encoder.dim,
        num_views=0 if settings.views is None else settings.views.count,
        num_patches=encoder.count_patches() if settings.patch_tokens else 0,
        words=settings.word_tokens,
    )


def project_views(settings: ExtractSettings) -> Views | None:
    """Return how videos are augmented; None for no augmentation."""
    return None if settings.views is None else Views(**settings.views.model_dump())


def _encoder_settings(workspace: Workspace, manifest: Manifest | None) -> EncoderSettings:
    settings = workspace.params.encoder
    instead = "bring features with `gare-cache import-features`"
    if settings is None:
        raise ConfigError(f"encoder is not set, so nothing can be encoded; set it, or {instead}")
    if manifest is not None and manifest.videos["path"].null_count == len(manifest.videos):
        raise ConfigError(
            f"the manifest names no video file: dataset.video_roots is empty; set it, or {instead}"
        )
    return settings


def model_source(workspace: Workspace, settings: EncoderSettings) -> ModelSource:
    """Return what the settings name, with the folders of this machine."""
    model = settings.model
    if model == DEMO_MODEL:
        model = f"{LOCAL_DIR}{demo_encoder_dir()}"
    elif model.startswith(LOCAL_DIR):
        model = f"{LOCAL_DIR}{workspace.project / model.removeprefix(LOCAL_DIR)}"
    return ModelSource(
        model=model,
        pretrained=settings.pretrained,
        quick_gelu=settings.quick_gelu,
        trust_checkpoint=settings.trust_checkpoint,
    )
