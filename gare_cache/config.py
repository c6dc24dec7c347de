"""params.yaml -> typed, frozen settings; every tunable with its default and range."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from gare_cache.errors import ConfigError, unknown_name
from gare_cache.evaluation.normalisers import read_choice
from gare_cache.heads.combinations import (
    POOLED,
    TOKEN_WISE,
    needs_word_tokens,
    require_effect,
    same_for_all_videos,
)
from gare_cache.own import is_own, split_own

# Names -> the settings beside the name. A name with a colon is the import path of a class of the
# user's own, which takes ``options``.
AGGREGATORS = {"mean": (), "lstm": (), "transformer": ("layers", "init")}
INTERACTIONS: dict[str, tuple[str, ...]] = {POOLED: (), TOKEN_WISE: ()}
POOLINGS = {
    "mean": (),
    "text_conditioned": ("temperature",),
    "cross_attention": ("heads", "dropout"),
}
CONTRASTIVE = {"info_nce": (), "ncl": ("iterations", "detach_biases")}

Fraction = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
REGULARISERS = ("ib", "eps", "dir", "orthogonality", "trust_region")


Options = dict[str, Any]


class Settings(BaseModel):
    """Base of all settings: immutable, no unknown keys, no silent conversion."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _require_own(place: str, settings: Settings, known: Mapping[str, Sequence[str]]) -> None:
    values = settings.model_dump(exclude_none=True)
    name = values.pop("name")
    if is_own(name):
        split_own(name)
    elif name not in known:
        message = unknown_name(f"{place}.name", name, known)
        raise ValueError(f"{message} (one of your own has an import path, such as my_file:MyClass)")
    for setting, value in values.items():
        if setting not in known.get(name, ("options",)):
            raise ValueError(
                f"{place}.{setting} is {value!r}, but {place.split('.')[-1]} {name!r} has no such "
                f"setting; set {place}.{setting}: null"
            )


class DatasetSettings(Settings):
    """Which videos and captions; protocol and fractions belong to some readers each."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    reader: str = "generic"
    annotations: str
    video_roots: list[str]
    protocol: str | None = None
    captions: Literal["each", "paragraph"] = "each"
    val_fraction: Fraction | None = None
    test_fraction: Fraction | None = None


class EncoderSettings(Settings):
    """Which frozen encoder."""

    model: str
    pretrained: str | None = None
    quick_gelu: bool | None = None
    trust_checkpoint: bool = False
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    context_length: Count | None = None
    preprocess: Literal["exact", "device"] = "exact"


class ViewSettings(Settings):
    """Augmented encodings of every video."""

    count: Count
    seed: Annotated[int, Field(ge=0)] = 0
    smallest_crop: Annotated[float, Field(gt=0, le=1)] = 0.5
    flip: bool = True
    operations: Annotated[int, Field(ge=0)] = 2
    magnitude: Annotated[int, Field(ge=0, le=30)] = 9


class ExtractSettings(Settings):
    """Which frames, and how they are encoded."""

    sampler: Literal["fps_then_uniform", "segment_centre"] = "fps_then_uniform"
    max_frames_cached: Count = 64
    views: ViewSettings | None = None
    patch_tokens: bool = False
    word_tokens: bool = False
    batch_frames: Count = 128
    batch_captions: Count = 256
    deadline_seconds: Positive = 60.0
    max_failed_percent: Annotated[float, Field(ge=0, le=100)] = 5.0


class AggregatorSettings(Settings):
    """Temporal aggregator; layers and init belong to the transformer, options to one's own."""

    name: str = "transformer"
    layers: Count | None = None
    init: Literal["encoder", "random"] | None = None
    options: Options | None = None

    @model_validator(mode="after")
    def _own_settings(self) -> AggregatorSettings:
        _require_own("head.aggregator", self, AGGREGATORS)
        return self


class InteractionSettings(Settings):
    """How a text and the frames of a video are compared; options belong to one's own class."""

    name: str = "pooled"
    options: Options | None = None

    @model_validator(mode="after")
    def _own_settings(self) -> InteractionSettings:
        _require_own("head.interaction", self, INTERACTIONS)
        return self


class PoolingSettings(Settings):
    """How frames become the scored video; each setting belongs to one pooling."""

    name: Literal["mean", "text_conditioned", "cross_attention"] = "text_conditioned"
    temperature: Positive | None = None
    heads: Count | None = None
    dropout: Fraction | None = None

    @model_validator(mode="after")
    def _own_settings(self) -> PoolingSettings:
        _require_own("head.pooling", self, POOLINGS)
        return self


class GapSettings(Settings):
    """GARE's gap module psi."""

    side: Literal["text", "video"] = "text"
    context: Literal["frames", "words"] = "frames"
    query: Literal["gap", "text"] = "gap"
    eta: Literal[1, -1] = 1
    layers: Count = 1
    heads: Count = 1
    dropout: Fraction = 0.3
    init: Literal["normal", "identity"] = "normal"


class HeadSettings(Settings):
    """The retrieval head; pooling, gap and reference_padding belong to the pooled interaction."""

    projection: Literal["none", "linear"] = "none"
    aggregator: AggregatorSettings = AggregatorSettings()
    interaction: InteractionSettings = InteractionSettings()
    pooling: PoolingSettings | None = PoolingSettings()
    gap: GapSettings | None = GapSettings()
    reference_padding: bool = False

    @model_validator(mode="after")
    def _no_idle_setting(self) -> HeadSettings:
        name = self.interaction.name
        if name == POOLED and self.pooling is None:
            raise ValueError(
                "head.pooling is null, but the interaction 'pooled' needs one; set "
                "head.pooling.name, or another head.interaction.name"
            )
        require_effect(
            projection=self.projection,
            aggregator=self.aggregator.name,
            interaction=name,
            pooling=None if self.pooling is None else self.pooling.model_dump(exclude_none=True),
            gap=self._gap(),
            reference_padding=self.reference_padding,
        )
        return self

    @property
    def needs_word_tokens(self) -> bool:
        """Whether a built-in head compares the word tokens of the captions."""
        return needs_word_tokens(self.interaction.name, self._gap())

    def _gap(self) -> dict[str, Any] | None:
        return None if self.gap is None else self.gap.model_dump()


class ContrastiveSettings(Settings):
    """The contrastive loss; iterations and detach_biases belong to ncl, options to one's own."""

    name: str = "info_nce"
    iterations: Annotated[int, Field(ge=0)] | None = None
    detach_biases: bool | None = None
    options: Options | None = None

    @model_validator(mode="after")
    def _own_settings(self) -> ContrastiveSettings:
        _require_own("train.loss.contrastive", self, CONTRASTIVE)
        return self


class BottleneckSettings(Settings):
    """L_ib."""

    weight: NonNegative = 1e-4
    reduction: Literal["sum", "mean"] = "sum"
    anchor: Literal["video", "text"] = "video"
    prior_sigma: Positive = 1.0
    normalise: bool = False


class SpreadSettings(Settings):
    """L_eps."""

    weight: NonNegative = 0.01
    bound: Positive = 0.5
    form: Literal["clamp", "smooth"] = "clamp"


class DirectionSettings(Settings):
    """L_dir."""

    weight: NonNegative = 0.01
    alpha: Positive = 2.0


class OrthogonalitySettings(Settings):
    """L_orth."""

    weight: NonNegative = 0.0


class TrustRegionSettings(Settings):
    """L_tr; the radius is fixed, or where a learned one starts."""

    weight: NonNegative = 0.0
    radius: Positive = 1.0
    learned: bool = False


class LossSettings(Settings):
    """The objective."""

    contrastive: ContrastiveSettings = ContrastiveSettings()
    false_negatives: Literal["keep", "mask"] = "keep"
    ib: BottleneckSettings = BottleneckSettings()
    eps: SpreadSettings = SpreadSettings()
    dir: DirectionSettings = DirectionSettings()
    orthogonality: OrthogonalitySettings = OrthogonalitySettings()
    trust_region: TrustRegionSettings = TrustRegionSettings()


class TrainSettings(Settings):
    """The optimisation."""

    seed: Annotated[int, Field(ge=0)] = 0
    threads: Annotated[int, Field(ge=0)] = 0
    num_frames: Count = 12
    frame_choice: Literal["even", "jittered"] = "even"
    views: bool = False
    epochs: Count = 5
    batch_size: Annotated[int, Field(ge=2)] = 128
    optimizer: Literal["bert_adam", "adamw"] = "bert_adam"
    learning_rate: Positive = 1e-4
    logit_scale_learning_rate: NonNegative = 1e-7
    weight_decay: NonNegative = 0.2
    weight_decay_on: Literal["weights", "all_but_bias"] = "weights"
    warmup: Fraction = 0.1
    max_grad_norm: Positive = 1.0
    reference_gather: bool = False
    loss: LossSettings = LossSettings()


class BankSettings(Settings):
    """Which training items the inductive normalisers know."""

    size: Count | None = None
    seed: Annotated[int, Field(ge=0)] = 0


class EvaluateSettings(Settings):
    """What is scored, and how."""

    split: Literal["train", "val", "test"] = "test"
    captions: Literal["all", "first"] = "all"
    v2t_convention: Literal["best_caption_of_all", "best_caption_group"] = "best_caption_of_all"
    missing: Literal["drop", "count_as_miss"] = "drop"
    resamples: Count = 10_000
    normalisers: list[dict[str, Any]] = []
    bank: BankSettings = BankSettings()

    @field_validator("normalisers")
    @classmethod
    def _known(cls, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for entry in entries:
            try:
                read_choice(entry)
            except ConfigError as err:
                raise ConfigError(f"evaluate.normalisers: {err}") from err
        return entries


class ReportSettings(Settings):
    """What the report shows."""

    examples: Annotated[int, Field(ge=0, le=50)] = 6


class Params(Settings):
    """The whole of params.yaml."""

    dataset: DatasetSettings
    encoder: EncoderSettings | None = None
    extract: ExtractSettings = ExtractSettings()
    head: HeadSettings = HeadSettings()
    train: TrainSettings = TrainSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    report: ReportSettings = ReportSettings()

    @model_validator(mode="after")
    def _no_idle_setting(self) -> Params:
        if self.encoder and self.head.needs_word_tokens and not self.extract.word_tokens:
            raise ValueError(
                "extract.word_tokens is false, but this head compares words "
                "(head.interaction.name: token_wise or head.gap.context: words); set "
                "extract.word_tokens: true"
            )
        loss, gap = self.train.loss, self.head.gap
        active = [name for name in REGULARISERS if getattr(loss, name).weight > 0]
        if gap is None and not is_own(self.head.interaction.name) and active:
            raise ValueError(
                "head.gap is null, so there is no increment to regularise; set "
                f"{_weights(active)} to 0, or give head.gap its settings"
            )
        if gap is not None and same_for_all_videos(gap.model_dump()):
            idle = [name for name in active if name in _of_a_text(gap.side, loss.ib.anchor)]
            if idle:
                raise ValueError(
                    "with head.gap.query: text and head.gap.context: words a text has the same "
                    "increment for all videos, so there is nothing to compare; set "
                    f"{_weights(idle)} to 0, or head.gap.query: gap"
                )
        if loss.trust_region.learned and loss.trust_region.weight == 0:
            raise ValueError(
                "train.loss.trust_region.learned is true at weight 0, where nothing is learned; "
                "set train.loss.trust_region.weight, or learned: false"
            )
        return self


def _weights(regularisers: Sequence[str]) -> str:
    return ", ".join(f"train.loss.{name}.weight" for name in regularisers)


def _of_a_text(side: str, anchor: str) -> tuple[str, ...]:
    """Return the regularisers that compare a text's increments to several videos."""
    at_item = ("eps", "dir", "orthogonality") if side == "text" else ()
    return (*at_item, "ib") if anchor == "text" else at_item


def load_params(path: Path) -> Params:
    """Read and check a params file.

    Raises:
        ConfigError: the file is missing, no YAML, or a setting is unknown, of a wrong type or out
            of range; every fault is named with its place.
    """
    if not path.is_file():
        raise ConfigError(f"{path} does not exist; give the settings with --params FILE")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as err:
        raise ConfigError(f"{path} is no YAML: {' '.join(str(err).split())}") from err
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds no settings")
    return parse_params(values, where=str(path))


def parse_params(values: dict[str, Any], *, where: str) -> Params:
    """Check settings given as plain values.

    Raises:
        ConfigError: as ``load_params``.
    """
    try:
        return Params.model_validate(values)
    except ValidationError as err:
        faults = "; ".join(_fault(fault) for fault in err.errors())
        raise ConfigError(f"{where}: {faults}") from err


def _fault(fault: Any) -> str:
    place = ".".join(map(str, fault["loc"]))
    if fault["type"] == "extra_forbidden":
        *parents, name = fault["loc"]
        section = ".".join(map(str, parents)) or "params"
        return unknown_name(f"setting of {section}", str(name), _known_keys(parents))
    message = re.sub(r"^Value error, ", "", fault["msg"])
    if fault["type"] == "value_error":
        return message
    if fault["type"] == "missing":
        return f"{place} is missing"
    hint = ""
    if isinstance(fault["input"], str) and "number" in message:
        hint = " (YAML reads 1e-3 as text: write 0.001)"
    return f"{place} is {fault['input']!r}: {message[0].lower()}{message[1:]}{hint}"


def _known_keys(parents: list[Any]) -> Iterator[str]:
    model: type[BaseModel] = Params
    for name in parents:
        annotation = model.model_fields[str(name)].annotation
        options = getattr(annotation, "__args__", (annotation,))
        model = next(o for o in options if isinstance(o, type) and issubclass(o, BaseModel))
    return iter(model.model_fields)


def resolve(project: Path, path: str) -> Path:
    """Return a path of params.yaml, relative ones seen from the project's folder."""
    return Path(os.path.normpath(project / Path(path).expanduser()))
