"""Python interface to a trained run: score sentences against videos, search videos.

The public names can be imported from ``gare_cache``; docs/api.md has examples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gare_cache.cache.reader import FeatureCache
from gare_cache.config import read_values
from gare_cache.data.split import load_frames
from gare_cache.data.words import Words
from gare_cache.encoders.encoder import Encoder
from gare_cache.errors import CacheError, ConfigError, FingerprintMismatch, unknown_name
from gare_cache.evaluation.metrics import check_finite
from gare_cache.evaluation.retrieved import TopK
from gare_cache.extraction.project_encoder import project_encoder
from gare_cache.extraction.sentences import encode_sentences
from gare_cache.files import file_digest
from gare_cache.heads.retrieval import RetrievalHead
from gare_cache.heads.scoring import blocks
from gare_cache.manifest.tables import read_manifest
from gare_cache.own import own_names, use_project
from gare_cache.project.features import open_features
from gare_cache.project.paths import PARAMS_FILE, Workspace, open_workspace
from gare_cache.project.progress import progress
from gare_cache.reproducibility import resolve_device
from gare_cache.search.choice import StoreChoice
from gare_cache.search.hits import SearchHit
from gare_cache.search.opening import open_searcher
from gare_cache.search.query import Query
from gare_cache.search.searcher import Searcher, Wanted
from gare_cache.training.checkpoint import Checkpoint, load_checkpoint, require_encoder

Array = npt.NDArray[Any]
Scores = npt.NDArray[np.float32]

# Number of videos whose frames are held as float32 at a time.
_VIDEOS_AT_A_TIME = 4096
# Videos and texts whose scores are held while the best are chosen, of which each takes 30 bytes.
_VIDEOS_RANKED_AT_A_TIME = 1024
_TEXTS_RANKED_AT_A_TIME = 4096


Found = SearchHit
"""Former name of ``SearchHit``."""


@dataclass(frozen=True)
class TopVideos:
    """The best videos of each text, the best first; equal scores in the order of the videos.

    Attributes:
        video_ids: K ids for each of the T texts.
        scores: (T, K) float32.
    """

    video_ids: list[list[str]]
    scores: Scores


@dataclass(frozen=True, eq=False, repr=False)
class Run:
    """A trained head with its settings, features and encoder; made by ``load_run``.

    Attributes:
        outputs: folder of the run.
        head: the head, in evaluation mode, on the device.
        settings: sections ``head`` and ``train`` of the run's params.yaml.
        record: of the run: seed, data, versions, machine, validation score.
        encoder_id: identity of the encoder whose features the head takes.
        device: where scores are computed.
    """

    outputs: Path
    head: RetrievalHead
    settings: Mapping[str, Any]
    record: Mapping[str, Any]
    encoder_id: str
    device: torch.device
    _checkpoint: Checkpoint
    _params: Path
    _trust: bool
    _searchers: dict[StoreChoice, Searcher] = field(default_factory=dict)

    def __repr__(self) -> str:
        score, epoch = self.record["validation_score"], self.record["best_epoch"]
        return (
            f"Run({str(self.outputs)!r}, {self.record['run_key'][:12]}, epoch {epoch}, selection "
            f"score {score:.1f}, device {self.device})"
        )

    @cached_property
    def cache(self) -> FeatureCache:
        """The current features of the run's project.

        Raises:
            ConfigError: there is no params.yaml.
            CacheError: nothing was extracted, or the cache is missing or has changed.
            FingerprintMismatch: it holds features of another encoder.
        """
        cache, _ = open_features(self._workspace)
        require_encoder(self._checkpoint, cache.encoder_id, where=cache.folder)
        return cache

    @cached_property
    def encoder(self) -> Encoder:
        """The project's encoder, loaded on first use.

        Raises:
            ConfigError: there is no params.yaml, or it names no encoder (imported features).
            FingerprintMismatch: it is another encoder than the head's.
        """
        workspace = self._workspace
        manifest = read_manifest(workspace.manifest)
        encoder = project_encoder(workspace, manifest, device=str(self.device))
        if encoder.encoder_id != self.encoder_id:
            raise FingerprintMismatch(
                f"the head of {self.outputs} was trained on encoder {self.encoder_id[:12]}, but "
                f"{self._params} describes encoder {encoder.encoder_id[:12]}; restore its settings"
            )
        return encoder

    def video_ids(self, split: str | None = None) -> list[str]:
        """Return the ids of the videos with features.

        Args:
            split: ``train``, ``val`` or ``test``; None for all videos of the cache.

        Raises:
            CacheError: the manifest has no such split.
        """
        table = self.cache.tables["video"]
        ids = [id_ for id_, row in table.latest().items() if table.status(row) == "ok"]
        if split is None:
            return ids
        rows = read_manifest(self._workspace.manifest).videos.to_pylist()
        splits = {row["video_id"]: row["split"] for row in rows}
        if split not in splits.values():
            raise CacheError(unknown_name("split", split, set(splits.values())))
        return [id_ for id_ in ids if splits.get(id_) == split]

    def frames(self, video_ids: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return the frame features of videos as the head takes them.

        Args:
            video_ids: ids of the cache.

        Returns:
            (V, F, D) float32 frames, zero on padding, and their (V, F) mask, on the device.

        Raises:
            CacheError: a video is not in the cache, or could not be encoded.
        """
        ids = _ids(video_ids)
        known = self.cache.tables["video"].latest()
        unknown = [id_ for id_ in ids if id_ not in known]
        if unknown:
            raise CacheError(
                f"{self.cache.folder} has no video {unknown[0]!r} ({len(unknown)} of "
                f"{len(ids)} are not in it); Run.video_ids() lists those that have features"
            )
        empty = [id_ for id_, n in zip(ids, self.cache.num_frames(ids), strict=True) if n == 0]
        if empty:
            reason = self.cache.failures().get(empty[0], "no frames")
            raise CacheError(
                f"{len(empty)} of {len(ids):,} videos have no features (first: "
                f"{empty[0]!r}: "
                f"{reason}); leave them out: Run.video_ids() lists those that have"
            )
        frames, mask = load_frames(self.cache, ids, self.head.settings["max_frames"])
        return frames.to(self.device), mask.to(self.device)

    def encode(self, sentences: Sequence[str]) -> tuple[Tensor, Words | None]:
        """Encode sentences as extraction encodes captions, including rounding to float16.

        Args:
            sentences: a non-empty list.

        Returns:
            (T, D) float32 features and, if the head needs them, word tokens (T, W, D) and their
            mask (T, W), on the device.

        Raises:
            ConfigError: there is no sentence, or one is not a string, or as ``encoder``.
        """
        is_list = isinstance(sentences, Sequence) and not isinstance(sentences, str)
        if not is_list or not sentences or not all(isinstance(s, str) for s in sentences):
            raise ConfigError(
                f"the sentences are {_shown(sentences)}; give a non-empty list of strings, or "
                "features (T, D) as a tensor or array to score"
            )
        extract = self._workspace.params.extract
        return encode_sentences(
            self.encoder,
            sentences,
            device=self.device,
            batch=extract.batch_captions,
            with_words=extract.word_tokens,
            keep_words=self.head.needs_words,
        )

    def score(
        self,
        texts: Sequence[str] | Tensor | Array,
        videos: Sequence[str] | tuple[Any, Any] | None = None,
        *,
        words: tuple[Any, Any] | None = None,
    ) -> Scores:
        """Score texts against videos.

        Args:
            texts: sentences, or features (T, D) of the run's encoder.
            videos: ids of the cache, frames (V, F, D) of the run's encoder with their mask
                (V, F), or None for all videos of ``video_ids()``.
            words: word tokens (T, W, D) and their mask (T, W) for features given as ``texts``,
                if ``run.head.needs_words``; those of sentences are encoded with them.

        Returns:
            (T, V) float32, rows are texts; higher means a better match.

        Raises:
            ConfigError: shapes do not fit, word tokens are missing or superfluous, or as
                ``encode``.
            NonFiniteScores: a score is NaN or infinite, for example because a feature is.
            CacheError: as ``cache`` and ``frames``.
        """
        text, tokens = self._texts(texts, words)
        if isinstance(videos, tuple) and len(videos) == 2 and not isinstance(videos[0], str):
            frames, mask = (_tensor(array, self.device) for array in videos)
            return self._similarity(text, frames, mask, tokens)
        ids = self._scored_ids(videos)
        parts = [
            self._similarity(text, *self.frames(ids[part]), tokens)
            for part in blocks(len(ids), _VIDEOS_AT_A_TIME)
        ]
        return np.concatenate(parts, axis=1)  # (T, V)

    def top_k(
        self,
        texts: Sequence[str] | Tensor | Array,
        k: int = 10,
        videos: Sequence[str] | None = None,
        *,
        words: tuple[Any, Any] | None = None,
    ) -> TopVideos:
        """Return the K best videos of each text by the scores of ``score``.

        Videos are read and scored in blocks of which K are kept, so that neither all scores nor all
        frames are held: 170,000 texts against 10,000 videos are 6.8 GB of scores.

        Args:
            texts: as of ``score``.
            k: videos of each text; all where there are fewer.
            videos: ids of the cache; None for all videos of ``video_ids()``.
            words: as of ``score``.

        Raises:
            ConfigError: ``k`` is below 1, or as ``score``.
            NonFiniteScores, CacheError: as ``score``.
        """
        if k < 1:
            raise ConfigError(f"k is {k}; ask for at least 1 video of each text")
        text, tokens = self._texts(texts, words)
        ids = self._scored_ids(videos)
        rows = list(blocks(len(text), _TEXTS_RANKED_AT_A_TIME)) or [slice(0, 0)]
        tops = [TopK(k, part.stop - part.start) for part in rows]
        is_long = len(ids) > _VIDEOS_RANKED_AT_A_TIME or len(rows) > 1
        shown = progress("rank videos", len(ids)) if is_long else nullcontext(lambda _: None)
        with shown as advance:
            for places in blocks(len(ids), _VIDEOS_RANKED_AT_A_TIME):
                frames, mask = self.frames(ids[places])
                with torch.no_grad():
                    encoded = self.head.encode_frames(frames, mask)
                for part, top in zip(rows, tops, strict=True):
                    own = None if tokens is None else (tokens[0][part], tokens[1][part])
                    scores = self._similarity(text[part], encoded, mask, own, encoded=True)
                    top.add(scores, np.arange(places.start, places.stop))
                advance(len(frames))
        best = [top.best() for top in tops]
        found = [[ids[place] for place in row] for _, part in best for row in part.tolist()]
        return TopVideos(found, np.concatenate([scores for scores, _ in best]))

    def _scored_ids(self, videos: Sequence[str] | None) -> list[str]:
        ids = self.video_ids() if videos is None else _ids(videos)
        if not ids:
            raise ConfigError("there is no video to score; give at least one id")
        return ids

    def search(
        self,
        query: str | Query,
        *,
        top: int = 10,
        videos: Sequence[str] | None = None,
        store: StoreChoice = StoreChoice(),  # noqa: B008
    ) -> list[SearchHit]:
        """Search the videos of the manifest that match a query best, and the moment in each.

        In a gallery of more than 2,048 videos the head scores a shortlist exactly; the captions of
        the gallery tell how long it must be (``gare_cache.search``).

        Args:
            query: a sentence, or what ``make_query`` returns.
            top: number of videos to return.
            videos: ids to search; None for all.
            store: what finds the shortlist.

        Returns:
            The best first; equal scores in the order of the manifest.

        Raises:
            ConfigError: ``top`` is below 1, the query is empty, or as ``encoder``.
            CacheError: a video has no features, or as ``cache``.
        """
        ids = None if videos is None else _ids(videos)
        return list(self.open_searcher(store).search(query, Wanted(top=top, ids=ids)).hits)

    @property
    def searcher(self) -> Searcher:
        """What ``search`` asks; its own ``search`` takes filters and returns notes, too.

        Raises:
            CacheError: as ``cache``.
        """
        return self.open_searcher()

    def open_searcher(self, store: StoreChoice = StoreChoice()) -> Searcher:  # noqa: B008
        """Return the searcher with a store of one's choice; opened once for each.

        Args:
            store: what finds the shortlist: ``StoreChoice("faiss", nprobe=128)``.

        Raises:
            CacheError: as ``cache``.
            ConfigError, EnvironmentFailure: the store's package is not installed, or its server
                does not answer.
        """
        if store not in self._searchers:
            _ = self.cache  # refuses features of another encoder before anything is kept of them
            self._searchers[store] = open_searcher(
                self._workspace,
                self.head,
                head_id=file_digest(self.outputs / "run" / "head.safetensors"),
                device=self.device,
                encoder=lambda: self.encoder,
                store=store,
            )
        return self._searchers[store]

    @property
    def _workspace(self) -> Workspace:
        if not self._params.is_file():
            raise ConfigError(
                f"{self._params} does not exist, but it tells where the features are and which "
                "encoder made them; give it with load_run(outputs, params=...), or score your own "
                "features and frames"
            )
        beside = self.outputs.absolute().parent == self._params.absolute().parent
        return open_workspace(self._params, self.outputs, borrow=beside, trust=self._trust)

    def _texts(
        self, texts: Sequence[str] | Tensor | Array, words: tuple[Any, Any] | None
    ) -> tuple[Tensor, Words | None]:
        if not isinstance(texts, Tensor | np.ndarray):
            if words is not None:
                raise ConfigError("word tokens of sentences are encoded with them; leave words out")
            return self.encode(texts)
        if words is None:
            if self.head.needs_words:
                raise ConfigError(
                    "this head compares the word tokens of the texts: give "
                    "words=(tokens (T, W, D), mask (T, W)) with their features, or sentences"
                )
            return _tensor(texts, self.device), None
        if not self.head.needs_words:
            raise ConfigError("this head uses no word tokens; leave words out")
        tokens, mask = (_tensor(array, self.device) for array in words)
        return _tensor(texts, self.device), (tokens, mask)

    def _similarity(
        self,
        text: Tensor,
        frames: Tensor,
        mask: Tensor,
        words: Words | None,
        *,
        encoded: bool = False,
    ) -> Scores:
        scored = self.head.similarity(text, frames, mask, words, encoded=encoded)
        scores: Scores = scored.cpu().numpy()
        check_finite(scores)
        return scores


def load_run(
    outputs: Path | str,
    *,
    params: Path | str | None = None,
    device: str = "auto",
    trust: bool = False,
) -> Run:
    """Load a head trained by ``gare-cache train``.

    Args:
        outputs: folder of outputs that contains ``run/head.safetensors``.
        params: the project's params.yaml; None looks beside the folder of outputs. Custom modules
            that it names are imported from its folder.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        trust: also import what the run names and params.yaml does not: its code runs.

    Raises:
        ConfigError: nothing was trained there, or a custom part is not named in params.yaml, cannot
            be imported or has changed.
    """
    folder = Path(outputs)
    file = folder.absolute().parent / "params.yaml" if params is None else Path(params)
    use_project(file.parent, own_names(read_values(file)) if file.is_file() else (), trust=trust)
    if folder.name == "run" and (folder / "head.safetensors").is_file():
        raise ConfigError(f"{folder} is the run itself; give the folder of outputs that holds it")
    checkpoint = load_checkpoint(folder / "run" / "head.safetensors")
    target = resolve_device(device)
    return Run(
        outputs=folder,
        head=checkpoint.head.to(target),
        settings=checkpoint.record["settings"],
        record=checkpoint.record,
        encoder_id=checkpoint.encoder_id,
        device=target,
        _checkpoint=checkpoint,
        _params=file,
        _trust=trust,
    )


def load_index(
    folder: Path | str,
    *,
    device: str = "auto",
    store: StoreChoice = StoreChoice(),  # noqa: B008
) -> Searcher:
    """Open a project for zero-shot search: no head need be trained, and no video have a caption.

    Args:
        folder: the project's folder, with its params.yaml; ``gare-cache index`` makes one.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        store: what finds the shortlist; the exact one unless said otherwise.

    Returns:
        Its ``search`` takes a sentence, or a query of ``make_query``, and returns a
        ``SearchResult``.

    Raises:
        ConfigError: there is no params.yaml, or the store's package is not installed.
        CacheError: nothing was extracted.
        EnvironmentFailure: the store's server does not answer.
    """
    workspace = open_workspace(Path(folder) / PARAMS_FILE)
    return open_searcher(workspace, device=resolve_device(device), store=store)


def _tensor(values: Any, device: torch.device) -> Tensor:
    try:
        return torch.as_tensor(values).to(device)
    except (TypeError, ValueError) as err:
        raise ConfigError(
            f"{_shown(values)} is not a tensor or array of numbers ({err}); give sentences as a "
            "list"
        ) from err


def _ids(videos: Any) -> list[str]:
    ids = [] if isinstance(videos, str) else list(videos)
    if isinstance(videos, str) or not all(isinstance(id_, str) for id_ in ids):
        raise ConfigError(
            f"the videos are {_shown(videos)}; give a list of ids, or your own frames as a tuple "
            "(frames (V, F, D), mask (V, F))"
        )
    return ids


def _shown(value: Any) -> str:
    if isinstance(value, Tensor | np.ndarray):
        return f"{type(value).__name__} of shape {tuple(value.shape)}"
    return f"{' '.join(repr(value).split()):.60}"
