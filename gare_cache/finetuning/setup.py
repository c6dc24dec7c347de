"""A training whose features are encoded anew for every batch, by towers that train, too."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from gare_cache.data.split import FeatureSplit
from gare_cache.data.words import Words, WordTokens
from gare_cache.errors import ConfigError
from gare_cache.finetuning.chunked import Part, backward_through
from gare_cache.finetuning.settings import FinetuneSettings
from gare_cache.finetuning.towers import Towers
from gare_cache.losses.objective import LossTerms
from gare_cache.training.distributed import Processes
from gare_cache.training.loop import Draw, TrainingSetup, loss_of_scores
from gare_cache.training.settings import TrainSettings

Pixels = npt.NDArray[np.uint8]
# Streams the frames (F, H, W, 3) of videos by id, each with what its augmentation is drawn from;
# None leaves them as they are.
FrameSource = Callable[
    [Sequence[str], Sequence[str] | None], AbstractContextManager[Iterator[Pixels]]
]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_ROWS = 256  # captions or frames encoded at a time for validation


@dataclass(frozen=True)
class FinetuneSetup(TrainingSetup):
    """Towers, head, loss and optimiser of a finetuning.

    The splits are those of the frozen encoder's cache: their ids, captions and pairs are used, and
    their features as a form to be filled.

    Attributes:
        towers: the encoder that trains.
        settings: of the finetuning.
        source: of the frames of any video.
        num_frames: F, the most frames a video.
    """

    towers: Towers
    settings: FinetuneSettings
    source: FrameSource
    num_frames: int
    _tokens: dict[str, Tensor] = field(default_factory=dict)
    _scaler: list[torch.amp.GradScaler] = field(default_factory=list)

    @property
    def modules(self) -> dict[str, nn.Module]:
        """Everything that trains, by the name under which its state is kept."""
        return {**super().modules, "towers": self.towers}

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All parameters that train."""
        return [parameter for parameter in super().parameters if parameter.requires_grad]

    @property
    def encoding(self) -> list[nn.Parameter]:
        """The parameters that make the encoded features."""
        return [*super().encoding, *(parameter for _, parameter in self.towers.trained)]

    @property
    def device(self) -> torch.device:
        """Where everything is computed."""
        return self.head.logit_scale.device

    @property
    def scaler(self) -> torch.amp.GradScaler:
        """Scales the loss in float16, whose gradients would else become zero; idle otherwise."""
        if not self._scaler:
            enabled = self.settings.precision == "float16"
            self._scaler.append(torch.amp.GradScaler(self.device.type, enabled=enabled))
        return self._scaler[0]

    @property
    def scaling(self) -> dict[str, Any]:
        """The state of the scaler: in float16 the next step depends on it."""
        return self.scaler.state_dict()

    def rescale(self, scaling: dict[str, Any]) -> None:
        """Take up the ``scaling`` that a state kept."""
        self.scaler.load_state_dict(scaling)

    def losses(self, draw: Draw, settings: TrainSettings) -> Generator[LossTerms]:
        """Yield the loss of each batch of an epoch, with its gradient left on the parameters.

        Raises:
            ConfigError: a loss is not finite.
            DecodeError: a video cannot be decoded.
        """
        split, video_of_text = self.train_split, self.train_split.video_of_text.cpu()
        shares = [draw.processes.own(batch) for batch in draw.batches]
        videos = [_distinct(video_of_text[share].tolist()) for share in shares]
        asked = [split.video_ids[video] for of_batch in videos for video in of_batch]
        draws = None if self.settings.augment.is_idle else self._draws(draw, videos)
        with self.source(asked, draws) as stream:
            for number, (batch, share, of_batch) in enumerate(
                zip(draw.batches, shares, videos, strict=True), start=draw.begin + 1
            ):
                frames = [next(stream) for _ in of_batch]
                loss = self._differentiated(draw, batch, share, of_batch, frames)
                if not loss.total.isfinite():
                    raise ConfigError(
                        f"the loss is {float(loss.total):g} in batch {number} of epoch "
                        f"{draw.epoch}; lower finetune.learning_rate or finetune.encoder_lr_scale. "
                        "The state after the last whole epoch is kept"
                    )
                yield loss

    def update(self, *, max_grad_norm: float, processes: Processes) -> None:
        """Follow the gradient that ``losses`` left; float16 skips a step with inf or NaN in it."""
        self.sum_gradients(processes)
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.parameters, max_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    @torch.no_grad()
    def validation_split(self, processes: Processes) -> FeatureSplit:
        """Encode the validation split with the towers as they are; the processes share it."""
        split = self.val_split
        own = range(processes.rank, len(split.video_ids), processes.count)
        with self.source([split.video_ids[video] for video in own], None) as stream:
            encoded = {video: self._encoded_frames(next(stream)).cpu() for video in own}
        for theirs in processes.collect(encoded):
            encoded |= theirs
        frames, mask = padded([encoded[v] for v in range(len(split.video_ids))], self.num_frames)
        text, words = self._encoded_captions(split)
        return replace(
            split, frames=frames.to(self.device), mask=mask.to(self.device), text=text, words=words
        )

    def tokens_of(self, split: FeatureSplit) -> Tensor:
        """Return the tokenized captions (T, context) of a split, on the CPU."""
        if split.name not in self._tokens:
            self._tokens[split.name] = self.towers.encoder.tokenize(split.captions)
        return self._tokens[split.name]

    def _draws(self, draw: Draw, videos: Sequence[Sequence[int]]) -> list[str]:
        ids = self.train_split.video_ids
        return [
            f"{draw.epoch}/{number}/{ids[video]}"
            for number, of_batch in enumerate(videos, start=draw.begin)
            for video in of_batch
        ]

    def _differentiated(
        self,
        draw: Draw,
        batch: Tensor,
        share: Tensor,
        videos: Sequence[int],
        frames: Sequence[Pixels],
    ) -> LossTerms:
        """Compute a batch's loss and leave its gradient on the parameters."""
        lengths = [len(of_video) for of_video in frames]
        pixels = np.concatenate(frames)  # (N, H, W, 3)
        tokens = self.tokens_of(self.train_split)[share]
        column = {video: number for number, video in enumerate(videos)}
        of_text = self.train_split.video_of_text.cpu()[share].tolist()
        columns = torch.tensor([column[video] for video in of_text], device=self.device)
        found: list[LossTerms] = []

        def differentiate(features: Sequence[Tensor]) -> None:
            encoded, captions = features
            by_video, mask = padded(torch.split(encoded, lengths), self.num_frames)
            by_pair, mask = by_video[columns], mask.to(self.device)[columns]  # (b, F, D), (b, F)
            text, words = self._as_text(captions, tokens)
            all_frames, all_masks = draw.processes.gather_features(by_pair, mask)
            scores = self.head.pair_scores(text, all_frames, all_masks, words)
            loss = loss_of_scores(self, draw, batch, scores)
            self.scaler.scale(loss.total).backward()  # type: ignore[no-untyped-call]
            found.append(LossTerms(loss.total.detach(), loss.terms))

        chunk = self.settings.chunk or len(share)
        parts = [
            Part(lambda i, j: self._frames(pixels[i:j]), len(pixels), chunk * self.num_frames),
            Part(lambda i, j: self._captions(tokens[i:j]), len(tokens), chunk),
        ]
        backward_through(parts, differentiate, device=self.device)
        return found[0]

    def _frames(self, pixels: Pixels) -> Tensor:
        with self._autocast():
            return self.towers.frames(self.towers.pixels_on_device(pixels)).float()

    def _captions(self, tokens: Tensor) -> Tensor:
        """Encode captions to words (b, W, D) where the head compares words, else to (b, D)."""
        tokens = tokens.to(self.device)
        with self._autocast():
            if self.head.needs_words:
                return self.towers.words(tokens).float()
            return self.towers.sentences(tokens).float()

    def _autocast(self) -> torch.autocast:
        dtype = DTYPES[self.settings.precision]
        return torch.autocast(
            self.device.type,
            torch.bfloat16 if dtype == torch.float32 else dtype,
            enabled=dtype != torch.float32,
        )

    def _as_text(self, captions: Tensor, tokens: Tensor) -> tuple[Tensor, Words | None]:
        if captions.dim() == 2:
            return captions, None
        last = tokens.argmax(dim=-1).to(captions.device)  # (b,) position of EOT
        rows = torch.arange(len(captions), device=captions.device)
        steps = torch.arange(captions.shape[1], device=captions.device)
        mask = steps <= last[:, None]  # (b, W)
        return captions[rows, last], (captions.masked_fill(~mask[..., None], 0.0), mask)

    def _encoded_frames(self, pixels: Pixels) -> Tensor:
        parts = [pixels[i : i + _ROWS] for i in range(0, len(pixels), _ROWS)]
        return torch.cat(
            [self.towers.frames(self.towers.pixels_on_device(part)).float() for part in parts]
        )

    def _encoded_captions(self, split: FeatureSplit) -> tuple[Tensor, WordTokens | None]:
        tokens = self.tokens_of(split)
        texts, words, lengths = [], [], []
        for start in range(0, len(tokens), _ROWS):
            part = tokens[start : start + _ROWS]
            if not self.head.needs_words:
                texts.append(self.towers.sentences(part.to(self.device)).float())
                continue
            text, padded_words = self._as_text(
                self.towers.words(part.to(self.device)).float(), part
            )
            assert padded_words is not None
            texts.append(text)
            words.append(padded_words[0][padded_words[1]])
            lengths.append(padded_words[1].sum(dim=1))
        of_split = WordTokens(torch.cat(words), torch.cat(lengths)) if words else None
        return torch.cat(texts), of_split


def padded(videos: Sequence[Tensor], num_frames: int) -> tuple[Tensor, Tensor]:
    """Pad the frames of videos to one length.

    Args:
        videos: (F_i, D) features each, 1 <= F_i <= F.
        num_frames: F.

    Returns:
        (V, F, D), zero on padding, and the mask (V, F) on the CPU.
    """
    frames = torch.stack(
        [nn.functional.pad(video, (0, 0, 0, num_frames - len(video))) for video in videos]
    )
    lengths = torch.tensor([len(video) for video in videos])
    return frames, torch.arange(num_frames) < lengths[:, None]


def _distinct(numbers: Sequence[int]) -> list[int]:
    return list(dict.fromkeys(numbers))
