"""Search a gallery: shortlist, exact scores, moments.

The shortlist is the nearest of the videos' vectors (``RetrievalHead.video_vectors``); the head then
scores the shortlisted pairs exactly, and its scores give the order.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
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
from gare_cache.search.calibration import Calibration, is_chance
from gare_cache.search.encoded import MOST_FRAME_BYTES, EncodedGallery, unit_vectors
from gare_cache.search.examples import image_features, video_features
from gare_cache.search.hits import SearchHit, SearchResult
from gare_cache.search.moments import check_seconds, find_moment
from gare_cache.search.query import Query, QueryPart, make_query
from gare_cache.search.store import Mask, VectorStore

# A gallery of at most this size is scored exactly as a whole.
WHOLE = 2048
# Videos whose frames are held at once for several queries.
_VIDEOS_AT_ONCE = 4096

Places = npt.NDArray[np.int64]


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


@dataclass(frozen=True)
class _Asked:
    """A query, and which videos it searches.

    Attributes:
        encoded: the query.
        wanted: what is returned.
        allowed: (N,) which videos.
        searched: their number.
    """

    encoded: _Encoded
    wanted: Wanted
    allowed: Mask
    searched: int


@dataclass(frozen=True)
class _Shortlisted:
    """A query with the videos that are scored.

    Attributes:
        asked: the query.
        places: of the videos, (K,), ascending where they are all.
        nearest: cosine of the query and the nearest video's vector.
    """

    asked: _Asked
    places: Places
    nearest: float


@dataclass(frozen=True)
class _Scored:
    """A shortlist as the head scores it.

    Attributes:
        frames: (K, F, D) encoded.
        mask: (K, F).
        similarity: (T, K) of the query's sentences.
    """

    frames: Tensor
    mask: Tensor
    similarity: Tensor


class Searcher:
    """Searches one gallery with one head."""

    def __init__(
        self,
        videos: EncodedGallery,
        store: VectorStore,
        encoder: Callable[[], Encoder],
        sentences: Callable[[], SentenceEncoder],
        settings: ExtractSettings,
        calibration: Calibration,
    ) -> None:
        """Prepare a search.

        Args:
            videos: the gallery as the head sees it.
            store: the gallery's vectors, in its order.
            encoder: returns the encoder; it is called once, when an example needs it.
            sentences: returns what encodes sentences; it is called once, when a query needs it.
            settings: of the extraction, for examples and word tokens.
            calibration: how many videos are scored exactly in a gallery of more than ``WHOLE``,
                and which scores are those of a match.
        """
        self.gallery = videos.gallery
        self.head = videos.head
        self._videos = videos
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
        """Search for each of several queries at once.

        Their sentences are encoded together, equal filters share a look into the store, and the
        frames of all shortlists are read once. The head scores all sentences against the union of
        the shortlists where that is less work than each against its own.

        Args:
            queries: each with the videos that it wants.

        Returns:
            Its result, or the error that ``search`` raises for it; a score may differ from that of
            ``search`` in the last bits.

        Raises:
            ConfigError: a sentence is no query, see ``make_query``.
        """
        asked = [query if isinstance(query, Query) else make_query(query) for query, _ in queries]
        sentences = [part.value for of in asked for part in of.parts if part.kind == "text"]
        text, words = self._sentences(sentences)
        prepared: list[_Asked | GareCacheError] = []
        first = 0
        for of, (_, wanted) in zip(asked, queries, strict=True):
            own = slice(first, first + sum(part.kind == "text" for part in of.parts))
            first = own.stop
            tokens = None if words is None or own.start == own.stop else _of(words, own)
            try:
                prepared.append(self._asked(self._encoded(of, text[own], tokens), wanted))
            except GareCacheError as err:
                prepared.append(err)
        found = iter(self._answers([one for one in prepared if isinstance(one, _Asked)]))
        return [next(found) if isinstance(one, _Asked) else one for one in prepared]

    def _answers(self, asked: Sequence[_Asked]) -> list[SearchResult | GareCacheError]:
        try:
            shortlists = self._shortlists(asked)
            return [
                self._result(of, scored)
                for part in _parts(shortlists)
                for of, scored in zip(part, self._scored(part), strict=True)
            ]
        except GareCacheError as err:  # of which query?
            if len(asked) == 1:
                return [err]
            return [found for one in asked for found in self._answers([one])]

    def _asked(self, encoded: _Encoded, wanted: Wanted) -> _Asked:
        allowed = self._allowed(wanted)
        allowed[list(encoded.own)] = False
        searched = int(allowed.sum())
        if not searched:
            raise ConfigError(
                "no video is left to search: the filters, or the example itself, leave out all; "
                "search more videos"
            )
        return _Asked(encoded, wanted, allowed, searched)

    def _result(self, of: _Shortlisted, scored: _Scored) -> SearchResult:
        encoded, searched = of.asked.encoded, of.asked.searched
        scores = self._scores(encoded, scored)
        order = np.lexsort((of.places, -scores))
        hits = self._hits(of, scored, scores, order[: of.asked.wanted.top])
        best = float(scores[order[0]])
        notes = [*encoded.notes, *self._no_match(encoded, best, of.nearest), *self._notes()]
        return SearchResult(hits, searched, len(of.places), notes)

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

    def disk_note(self) -> str | None:
        """Say what the head's encoded frames take on disk; None where it leaves them as they are.

        ``.gare/search`` keeps them for each head that the project was searched with.
        """
        size = self._videos.frame_bytes
        if not size:
            return None
        if self._videos.kept_frames is None:
            return (
                f"the frames as the head encodes them would take {size / 2**30:.1f} GiB, more than "
                f"{MOST_FRAME_BYTES / 2**30:.0f}: those of a shortlist are computed for every query"
            )
        folder = self._videos.place.parent
        return f"the frames as the head encodes them take {_size(size)} in {folder}"

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

    def _shortlists(self, asked: Sequence[_Asked]) -> list[_Shortlisted]:
        """Return each query with the places to score; equal filters ask the store once."""
        groups: dict[tuple[bytes, int], list[int]] = {}
        for number, one in enumerate(asked):
            few = one.searched <= WHOLE
            count = 1 if few else max(self._calibration.rerank, one.wanted.top)
            groups.setdefault((one.allowed.tobytes(), count), []).append(number)
        found: dict[int, _Shortlisted] = {}
        for (_, count), numbers in groups.items():
            allowed = asked[numbers[0]].allowed
            vectors = torch.stack([self._vector(asked[number].encoded) for number in numbers])
            nearest = self._store.nearest(vectors.numpy(), count, allowed)
            everything = np.flatnonzero(allowed)
            for number, rows, scores in zip(numbers, nearest.rows, nearest.scores, strict=True):
                places = everything if len(everything) <= WHOLE else rows[rows >= 0]
                found[number] = _Shortlisted(asked[number], places, float(scores[0]))
        return [found[number] for number in range(len(asked))]

    def _scored(self, shortlists: Sequence[_Shortlisted]) -> Iterator[_Scored]:
        """Read the frames of all shortlists once, and score the sentences of each query."""
        union = np.unique(np.concatenate([of.places for of in shortlists]))  # (U,)
        frames, mask = self._videos.frames(union.tolist())
        index = [_index(union, of.places, frames.device) for of in shortlists]
        asked = [of.asked.encoded for of in shortlists]
        counts = [len(one.text) for one in asked]
        pairs = sum(count * len(of.places) for count, of in zip(counts, shortlists, strict=True))
        texts = min(sum(counts), self.head.texts_per_video(frames.shape[1]))
        at_once: Sequence[Tensor | None] = [None] * len(asked)
        if len(asked) > 1 and pairs and texts * len(union) <= pairs:
            text = torch.cat([one.text for one in asked])
            words = _joined([one.words for one in asked])
            at_once = torch.split(self._similarity(text, words, frames, mask), counts)
        for one, places, of_union in zip(asked, index, at_once, strict=True):
            own, real = frames[places], mask[places]
            if of_union is None:
                yield _Scored(own, real, self._similarity(one.text, one.words, own, real))
            else:
                yield _Scored(own, real, of_union[:, places])

    def _similarity(
        self, text: Tensor, words: Words | None, frames: Tensor, mask: Tensor
    ) -> Tensor:
        """Return the scores (T, V); T may be 0."""
        if not len(text):
            return torch.empty(0, len(frames), device=frames.device)
        return self.head.similarity(text, frames, mask, words, encoded=True)

    def _scores(self, encoded: _Encoded, scored: _Scored) -> npt.NDArray[np.float64]:
        """Return the exact scores (K,) of the shortlisted videos."""
        parts = [scored.similarity.cpu()]
        if len(encoded.examples):
            vectors = unit_vectors(self.head, scored.frames, scored.mask)
            parts.append(encoded.examples @ vectors.T)
        scores: npt.NDArray[np.float64] = (
            (encoded.weights @ torch.cat(parts)).double().numpy()  # (K,)
        )
        check_finite(scores[None])
        return scores

    def _hits(
        self,
        of: _Shortlisted,
        scored: _Scored,
        scores: npt.NDArray[np.float64],
        order: Places,
    ) -> list[SearchHit]:
        """Return the hits: places of the shortlist, the best first, with their moments."""
        searched, wanted = of.asked.searched, of.asked.wanted
        shown = of.places[order].tolist()
        times = self.gallery.times(shown, self.head.settings["max_frames"])
        first = torch.from_numpy(order).to(scored.frames.device)
        mask = scored.mask[first].cpu()
        matches = F.normalize(scored.frames[first], dim=-1).cpu() @ self._vector(of.asked.encoded)
        hits = []
        for number, (place, score) in enumerate(zip(shown, scores[order], strict=True)):
            video, real = self.gallery.videos[place], mask[number]
            span = find_moment(
                matches[number][real].numpy(),
                times[number][real[: times.shape[1]]].numpy(),
                bounds=(video.start, video.end),
                least=wanted.least_seconds,
                most=wanted.most_seconds,
            )
            hits.append(
                SearchHit(
                    video.video_id,
                    float(score),
                    rank=number + 1,
                    percentile=100.0 * (searched - number - 1) / searched,
                    path=video.path,
                    best_time=None if span is None else span.best,
                    start=None if span is None else span.start,
                    end=None if span is None else span.end,
                )
            )
        return hits

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
            return unit_vectors(self.head, *self._videos.frames([place]))[0]
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
        mask = torch.ones(frames.shape[:2], dtype=torch.bool)
        return unit_vectors(self.head, *self._videos.encode(frames, mask))[0]


def _size(count: int) -> str:
    return f"{count / 2**20:.0f} MiB" if count < 2**30 else f"{count / 2**30:.1f} GiB"


def _parts(shortlists: Sequence[_Shortlisted]) -> Iterator[Sequence[_Shortlisted]]:
    """Cut queries into groups whose shortlists have at most so many videos together."""
    first, union = 0, np.empty(0, np.int64)
    for number, of in enumerate(shortlists):
        union = np.union1d(union, of.places)
        if len(union) > _VIDEOS_AT_ONCE and number > first:
            yield shortlists[first:number]
            first, union = number, of.places
    if first < len(shortlists):
        yield shortlists[first:]


def _index(union: Places, places: Places, device: torch.device) -> Tensor | slice:
    """Return where places stand in their union; all of it is taken as it is."""
    if np.array_equal(union, places):
        return slice(None)
    return torch.from_numpy(np.searchsorted(union, places)).to(device)


def _joined(words: Sequence[Words | None]) -> Words | None:
    known = [of for of in words if of is not None]
    if not known:
        return None
    tokens, masks = zip(*known, strict=True)
    return torch.cat(tokens), torch.cat(masks)


def _of(words: Words, sentences: slice) -> Words:
    tokens, mask = words  # (T, W, D), (T, W)
    return tokens[sentences], mask[sentences]
