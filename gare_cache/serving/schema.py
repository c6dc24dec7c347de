"""What the server is asked and what it answers, as JSON; ``openapi`` documents it from here."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

MOST_CHARACTERS = 1000  # of one sentence; CLIP reads 77 tokens
MOST_TOP = 200
MOST_FOLDERS = 500  # that are listed
IMAGE_BYTES = 10 * 2**20
SEARCH_BYTES = 64 * 2**10
MOST_SECONDS = 1e6

Sentence = Annotated[str, Field(max_length=MOST_CHARACTERS)]
Key = Annotated[str, Field(pattern="^[0-9a-f]{20}$", description="key that an answer gave")]
Seconds = Annotated[float, Field(ge=0, le=MOST_SECONDS, allow_inf_nan=False)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SearchRequest(_Model):
    """A query of sentences and examples, and which videos may be returned."""

    query: Sentence = Field("", description='what the video shows; "a dog^0.5" has half the weight')
    also: list[Sentence] = Field([], max_length=8, description="more sentences")
    without: list[Sentence] = Field([], max_length=8, description="matches of these rank lower")
    like: list[Key] = Field([], max_length=8, description="videos that it resembles")
    images: list[Key] = Field([], max_length=4, description="keys of posted example images")
    run: str | None = Field(None, description="one of the runs of /api/info; the first if null")
    split: str | None = Field(None, description="only videos of train, val or test")
    folder: str | None = Field(None, description="only videos below this folder, as in /api/info")
    top: int = Field(24, ge=1, le=MOST_TOP, description="number of videos")
    min_seconds: Seconds = Field(0.0, description="shortest span of a moment")
    max_seconds: Seconds | None = Field(None, gt=0, description="longest span of a moment")


class Video(_Model):
    """A video that can be found."""

    key: str = Field(description="opaque name in URLs")
    video_id: str
    name: str = Field(description="name of its file, or the id")
    folder: str = Field(description="below the folder that holds all videos")
    split: str
    clip_start: float = Field(description="seconds in the file where the clip starts")
    clip_end: float | None = Field(description="where it ends; null is the end of the file")
    captions: list[str] = Field(description="the first three")
    thumbnail: str | None = Field(description="URL of a JPEG; null if there is none")
    file: str | None = Field(description="URL of the video file; null if it cannot be had")
    missing: str | None = Field(description="why there is no file")


class Hit(_Model):
    """A video found, and the moment in it."""

    video: Video
    rank: int = Field(description="among the searched videos, 1 is best")
    score: float
    percentile: float = Field(description="share of the searched videos that rank lower, percent")
    best_time: float | None = Field(description="seconds in the file of the best frame")
    start: float | None = Field(description="start of the moment, in seconds")
    end: float | None
    same_as: int | None = Field(
        description="rank of the better hit that it nearly equals; null if there is none"
    )


class Results(_Model):
    """The hits of a query, the best first."""

    run: str
    hits: list[Hit]
    searched: int = Field(description="number of videos searched")
    reranked: int = Field(description="of these, how many were scored exactly")
    notes: list[str] = Field(description="what to know about the result")


class RunInfo(_Model):
    """A run that ranks videos."""

    name: str
    videos: int
    head: str = Field(description="what scores the pairs")


class Info(_Model):
    """What is served."""

    project: str
    version: str
    videos: int
    failed: int = Field(description="listed videos without features, which cannot be found")
    runs: list[RunInfo]
    splits: list[str]
    folders: list[str] = Field(description=f"the topmost {MOST_FOLDERS}; others can be searched")
    suggestions: list[str] = Field(description="captions to try")
    encodes: bool = Field(description="whether sentences and images can be searched for")
    encoder_note: str = Field(description="what to set for that; empty if they can")
    examples: list[Video] = Field(description="videos to begin with where they cannot")
    fold_above: float = Field(description="cosine of mean frames above which hits are the same")
    image_bytes: int = Field(description="largest example image")
    query_characters: int = Field(description="longest sentence")
    most_top: int = Field(description="most videos of an answer")


class Example(_Model):
    """An example image that was posted."""

    key: str = Field(description="to give as `images` of a search")
    width: int
    height: int


class Fault(_Model):
    """Why there is no answer, in one line."""

    error: str
