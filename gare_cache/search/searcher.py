"""Search a gallery: shortlist, exact scores, moments.

The shortlist is the nearest of the videos' vectors (``RetrievalHead.video_vectors``); the head then
scores the shortlisted pairs exactly, and its scores give the order.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from gare_cache.data.words import Words
from gare_cache.encoders.encoder import Encoder
from gare_cache.encoders.sentence_encoder import SentenceEncoder
from gare_cache.encoders.settings import ExtractSettings
from gare_cache.errors import CacheError, ConfigError, GareCacheError, counted, unknown_name
from gare_cache.evaluation.metrics import check_finite
from gare_cache.extraction.sentences import encode_sentences
from gare_cache.heads.retrieval import RetrievalHead
from gare_cache.search.calibration import Calibration, is_chance
from gare_cache.search.examples import image_features, video_features
from gare_cache.search.gallery import Gallery, head_vectors, scored_frames
from gare_cache.search.hits import SearchHit, SearchResult
from gare_cache.search.moments import check_seconds, find_moment
from gare_cache.search.query import Query, QueryPart, make_query
from gare_cache.search.store import Mask, VectorStore

# A gallery of at most this size is scored exactly as a whole.
WHOLE = 2048


@dataclass(frozen=True)
class Wanted:
    """Which videos a search may return, and how.

    Attributes:
        top: number of hits.
        ids: only these videos; None is all.
        split: ``train``, ``val`` or ``test``; None is all.
        folder: only videos whose file lies below it; None is all.
        least_seconds: shortest span of a moment.
        most_seconds: longest span; None is no limit.
    """

    top: int = 10
    ids: Sequence[str] | None = None
    split: str | None = None
    folder: Path | None = None
    least_seconds: float = 0.0
    most_seconds: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.top, int) or self.top < 1:
            raise ConfigError(f"top is {self.top}; ask for at least 1 video")
        for fault in check_seconds(self.least_seconds, self.most_seconds):
            raise ConfigError(fault)


@dataclass(frozen=True)
class _Encoded:
    """A query as the head takes it.

    Attributes:
        text: (T, D) features of its sentences, with ``words``; T may be 0.
        words: word tokens of the sentences, where the head needs them.
        examples: (E, D) vectors of its images and videos, of length 1.
        weights: (T + E,), whose absolute values add to 1; sentences first.
        own: places of gallery videos that are examples, which are not returned.
        notes: what was said about the sentences.
    """

    text: Tensor
    words: Words | None
    examples: Tensor
    weights: Tensor
    own: Sequence[int]
    notes: Sequence[str]


class Searcher:
    """Searches one gallery with one head."""

    def __init__(
        self,
        gallery: Gallery,
        head: RetrievalHead,
        store: VectorStore,
        encoder: Callable[[], Encoder],
        sentences: Callable[[], SentenceEncoder],
        settings: ExtractSettings,
        calibration: Calibration,
    ) -> None:
        """Prepare a search.

        Args:
            gallery: the videos.
            head: scores pairs.
            store: the gallery's vectors, in its order.
            encoder: returns the encoder; it is called once, when an example needs it.
            sentences: returns what encodes sentences; it is called once, when a query needs it.
            settings: of the extraction, for examples and word tokens.
            calibration: how many videos are scored exactly in a gallery of more than ``WHOLE``,
                and which scores are those of a match.
        """
        self.gallery = gallery
        self.head = head
        self._store = store
        self._encoder = functools.cache(encoder)
        self.sentence_encoder = functools.cache(sentences)
        self._settings = settings
        self._calibration = calibration

    @property
    def most_pixels(self) -> int:
        """Pixels that an example image may have."""
        return self._settings.max_frame_pixels

    def search(self, query: str | Query, wanted: Wanted | None = None) -> SearchResult:
        """Return the videos that match a query best.

        Args:
            query: a sentence, or what ``make_query`` returns.
            wanted: which videos, how many, and how long their moments.

        Raises:
            ConfigError: an example cannot be read, or a filter matches no video.
            DecodeError: a video given as an example cannot be decoded.
            NonFiniteScores: a score is NaN or infinite.
        """
        (found,) = self.search_many([(query, wanted or Wanted())])
        if isinstance(found, GareCacheError):
            raise found
        return found

    def search_many(
        self, queries: Sequence[tuple[str | Query, Wanted]]
    ) -> list[SearchResult | GareCacheError]:
        """Search for each of several queries, whose sentences are encoded at once.

        Args:
            queries: each with the videos that it wants.

        Returns:
            Its result, or the error that ``search`` raises for it; a score may differ from that of
            ``search`` in the last bits.
        """
        asked = [query if isinstance(query, Query) else make_query(query) for query, _ in queries]
        sentences = [part.value for of in asked for part in of.parts if part.kind == "text"]
        text, words = self._sentences(sentences)
        found: list[SearchResult | GareCacheError] = []
        first = 0
        for of, (_, wanted) in zip(asked, queries, strict=True):
            own = slice(first, first + sum(part.kind == "text" for part in of.parts))
            first = own.stop
            tokens = None if words is None or own.start == own.stop else _of(words, own)
            try:
                found.append(self._search(self._encoded(of, text[own], tokens), wanted))
            except GareCacheError as err:
                found.append(err)
        return found

    def _search(self, encoded: _Encoded, wanted: Wanted) -> SearchResult:
        allowed = self._allowed(wanted)
        allowed[list(encoded.own)] = False
        searched = int(allowed.sum())
        if not searched:
            raise ConfigError(
                "no video is left to search: the filters, or the example itself, leave out all; "
                "search more videos"
            )
        places, nearest = self._shortlist(encoded, allowed, searched, wanted.top)
        scores = self._scores(encoded, places)
        order = np.lexsort((places, -scores))
        hits = self._hits(encoded, places[order], scores[order], searched, wanted)
        best = float(scores[order[0]])
        notes = [*encoded.notes, *self._no_match(encoded, best, nearest), *self._notes()]
        return SearchResult(hits, searched, len(places), notes)

    def shortlist_note(self) -> str | None:
        """Say how many videos are scored exactly, and what was measured of it; None for all."""
        found = self._calibration
        if len(self.gallery.videos) <= WHOLE:
            return None
        line = f"{counted(found.rerank, 'video')} of a shortlist are scored exactly"
        if found.agreement is None:
            return f"{line}; captions would tell whether that is enough"
        return (
            f"{line}: the first ten are those of full scoring for {100 * found.agreement:.1f} % of "
            f"{counted(found.queries, 'caption')}"
        )

    def _no_match(self, encoded: _Encoded, best: float, nearest: float) -> list[str]:
        if len(encoded.text) != 1 or len(encoded.examples):
            return []
        least = self._calibration.least_match
        if least is not None and best < least:
            return [
                f"no close match: the best score is {best:.3f}, and 95 % of the captions of this "
                f"gallery score at least {least:.3f} with their video"
            ]
        size = len(self.gallery.videos)
        vector, sample = self._vector(encoded), self._calibration.sample
        if least is None and is_chance(sample, vector, nearest, size):
            return ["no close match: no video stands out from the others"]
        return []

    def _notes(self) -> list[str]:
        failed = self.gallery.failed
        return (
            [f"{counted(failed, 'listed video', 'have')} no features and cannot be found"]
            if failed
            else []
        )

    def _allowed(self, wanted: Wanted) -> Mask:
        videos = self.gallery.videos
        allowed = np.ones(len(videos), bool)
        if wanted.ids is not None:
            allowed[:] = False
            allowed[[self._place(id_) for id_ in wanted.ids]] = True
        if wanted.split is not None:
            splits = self.gallery.splits
            if wanted.split not in splits:
                known = dict.fromkeys(splits.tolist())
                raise ConfigError(unknown_name("split", wanted.split, known))
            allowed &= splits == wanted.split
        if wanted.folder is not None:
            below = wanted.folder.absolute().resolve()
            inside = [
                path is not None and path.is_relative_to(below) for path in self.gallery.files
            ]
            if not any(inside):
                raise ConfigError(f"no video of the gallery lies in {wanted.folder}")
            allowed &= np.array(inside)
        return allowed

    def _place(self, id_: str) -> int:
        if id_ not in self.gallery.place_of:
            raise CacheError(
                f"{self.gallery.cache.folder} has no features of a video {id_!r} of the manifest"
            )
        return self.gallery.place_of[id_]

    def _shortlist(
        self, encoded: _Encoded, allowed: Mask, searched: int, top: int
    ) -> tuple[npt.NDArray[np.int64], float]:
        """Return the places to score, and the cosine of the nearest vector."""
        whole = searched <= WHOLE
        count = 1 if whole else max(self._calibration.rerank, top)
        found = self._store.nearest(self._vector(encoded)[None].numpy(), count, allowed)
        nearest = float(found.scores[0, 0])
        if whole:
            return np.flatnonzero(allowed), nearest
        places: npt.NDArray[np.int64] = found.rows[0]
        kept: npt.NDArray[np.int64] = places[places >= 0]
        return kept, nearest

    def _scores(self, encoded: _Encoded, places: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Return the exact scores (K,) of the shortlisted videos."""
        frames, mask = scored_frames(self.gallery, self.head, places.tolist())
        parts = []
        if len(encoded.text):
            scores_of_text = self.head.similarity(encoded.text, frames, mask, encoded.words)
            parts.append(scores_of_text.cpu())
        if len(encoded.examples):
            parts.append(encoded.examples @ head_vectors(self.head, frames, mask).T)
        scores: npt.NDArray[np.float64] = (
            (encoded.weights @ torch.cat(parts)).double().numpy()  # (K,)
        )
        check_finite(scores[None])
        return scores

    def _hits(
        self,
        encoded: _Encoded,
        places: npt.NDArray[np.int64],
        scores: npt.NDArray[np.float64],
        searched: int,
        wanted: Wanted,
    ) -> list[SearchHit]:
        shown = places[: wanted.top].tolist()
        most = self.head.settings["max_frames"]
        (frames, mask), times = self.gallery.frames(shown, most), self.gallery.times(shown, most)
        matches = self._frame_scores(encoded, frames, mask)
        hits = []
        for rank, (place, score) in enumerate(zip(shown, scores, strict=False), 1):
            video, real = self.gallery.videos[place], mask[rank - 1]
            span = find_moment(
                matches[rank - 1][real].numpy(),
                times[rank - 1][real].numpy(),
                bounds=(video.start, video.end),
                least=wanted.least_seconds,
                most=wanted.most_seconds,
            )
            hits.append(
                SearchHit(
                    video.video_id,
                    float(score),
                    rank=rank,
                    percentile=100.0 * (searched - rank) / searched,
                    path=video.path,
                    best_time=None if span is None else span.best,
                    start=None if span is None else span.start,
                    end=None if span is None else span.end,
                )
            )
        return hits

    @torch.no_grad()
    def _frame_scores(self, encoded: _Encoded, frames: Tensor, mask: Tensor) -> Tensor:
        """Return (V, F) weighted cosines of the query's parts and the head's aggregated frames."""
        device = self.head.logit_scale.device
        self.head.eval()
        aggregated = self.head.encode_frames(frames.to(device), mask.to(device))
        return F.normalize(aggregated, dim=-1).cpu() @ self._vector(encoded)

    @torch.no_grad()
    def _vector(self, encoded: _Encoded) -> Tensor:
        """Return the weighted sum (D,) of the query's vectors of length 1."""
        text = F.normalize(self.head.encode_text(encoded.text), dim=-1).cpu()
        return encoded.weights @ torch.cat([text, encoded.examples])

    def _encoded(self, query: Query, text: Tensor, words: Words | None) -> _Encoded:
        """Return a query whose sentences are encoded, with its examples."""
        sentences = [part for part in query.parts if part.kind == "text"]
        examples = [part for part in query.parts if part.kind != "text"]
        weights = torch.tensor([part.weight for part in (*sentences, *examples)])
        own: list[int] = []
        vectors = [self._example(part, own) for part in examples]
        return _Encoded(
            text,
            words,
            torch.stack(vectors) if vectors else torch.empty(0, text.shape[1]),
            weights / weights.abs().sum(),
            own,
            self._cut([part.value for part in sentences]),
        )

    def _sentences(self, sentences: Sequence[str]) -> tuple[Tensor, Words | None]:
        device = self.head.logit_scale.device
        if not sentences:
            return torch.empty(0, self.head.settings["dim"], device=device), None
        return encode_sentences(
            self.sentence_encoder(),
            sentences,
            device=device,
            batch=len(sentences),
            with_words=self._settings.word_tokens,
            keep_words=self.head.needs_words,
        )

    def _cut(self, sentences: Sequence[str]) -> list[str]:
        if not sentences or not self.sentence_encoder().count_cut(sentences):
            return []
        limit = counted(self.sentence_encoder().context_length, "token")
        return [f"the query is longer than {limit}: the rest is cut"]

    def _example(self, part: QueryPart, own: list[int]) -> Tensor:
        """Return the vector (D,) of an image or a video; a video of the gallery goes to ``own``."""
        most = self.head.settings["max_frames"]
        if part.kind == "video" and part.value in self.gallery.place_of:
            place = self.gallery.place_of[part.value]
            own.append(place)
            frames, mask = self.gallery.frames([place], most)
            return head_vectors(self.head, frames, mask)[0]
        path = Path(part.value)
        if part.kind == "image":
            pixels = self._settings.max_frame_pixels
            features = image_features(self._encoder(), path, most_pixels=pixels)
        elif path.is_file():
            features = video_features(self._encoder(), path, self._settings)
        else:
            raise ConfigError(
                f"{part.value!r} is neither the id of a video with features nor a video file"
            )
        kept = np.linspace(0, len(features) - 1, min(len(features), most)).astype(int)
        frames = features[kept].half().float()[None]  # (1, F, D)
        return head_vectors(self.head, frames, torch.ones(frames.shape[:2], dtype=torch.bool))[0]


def _of(words: Words, sentences: slice) -> Words:
    tokens, mask = words  # (T, W, D), (T, W)
    return tokens[sentences], mask[sentences]
