"""Presets of a new project: settings of data sets, GARE's published values, a DVC pipeline."""

from __future__ import annotations

from importlib.resources import files
from string import Template

from gare_cache.errors import ConfigError, unknown_name
from gare_cache.presets.data_sets import DATA_SETS, DataSet

# Preset -> whether its encoder can be chosen; the demo has a fixed one.
PRESETS = {"demo": False, "generic": True, **dict.fromkeys(DATA_SETS, True)}
# Ablations that papers published, one file each under studies/.
STUDIES = (
    "aggregators",
    "alpha",
    "finetuning",
    "frames",
    "gap_query",
    "gare_losses",
    "heads",
    "ib_anchor",
    "ib_prior",
    "lambda",
    "ncl_batch_size",
    "normalisers",
    "paper",
    "side_context",
)
# All with OpenAI's weights, whose tag sets QuickGELU. The first is the default.
ENCODERS = ("ViT-B-32", "ViT-B-16", "ViT-L-14")
# The small CLIP of the package: no weights to fetch, but it knows the scenes of the demo only.
DEMO_ENCODER = "demo"
OWN_DATA = "generic"
_NAME = "mine"


def project_files(
    preset: str, *, encoder: str | None = None, name: str | None = None
) -> dict[str, str]:
    """Return the files of a new project.

    Args:
        preset: one of ``PRESETS``.
        encoder: one of ``ENCODERS`` or ``DEMO_ENCODER``; None takes the preset's own.
        name: of the data set, for the preset of own data; the others name a known one.

    Returns:
        File name -> text: ``params.yaml``, ``dvc.yaml``, ``.gitignore``, ``README.md`` and the
        studies of the published ablations, ``studies/*.yaml``.

    Raises:
        ConfigError: an unknown preset or encoder, or another encoder for a preset that has its own.
    """
    if preset not in PRESETS:
        raise ConfigError(unknown_name("preset", preset, PRESETS))
    if encoder not in (None, DEMO_ENCODER) and not PRESETS[preset]:
        raise ConfigError(
            f"--encoder is {encoder!r}, but preset {preset!r} comes with its own; leave it out"
        )
    known = (*ENCODERS, DEMO_ENCODER)
    if encoder is not None and encoder not in known:
        raise ConfigError(unknown_name("encoder of a preset", encoder, known))
    data_set = DATA_SETS.get(preset)
    if data_set is not None:
        values = {**vars(data_set), "name": preset}
        params = Template(_read("data_set.yaml")).substitute(values)
        if data_set.val_fraction is not None:
            params += f"  val_fraction: {data_set.val_fraction} # of train, by a hash of the id\n"
        guide = Template(_read("published.md")).substitute(values)
    else:
        params, guide = _read(f"{preset}.yaml"), _read(f"{preset}.md")
    if preset == OWN_DATA:
        params = Template(params).substitute(name=name or _NAME)
    if PRESETS[preset]:
        published = Template(_read("published.yaml")).substitute(
            _training(data_set),
            model=encoder or ENCODERS[0],
            pretrained="null" if encoder == DEMO_ENCODER else "openai",
        )
        params = f"{params}\n{published}"
    return {
        "params.yaml": params,
        "dvc.yaml": _read("pipeline.yaml"),
        ".gitignore": _read("gitignore"),
        "README.md": guide,
        **{f"studies/{name}.yaml": _read(f"studies/{name}.yaml") for name in STUDIES},
    }


def _training(data_set: DataSet | None) -> dict[str, object]:
    """Return the values of ``published.yaml``; own data is trained as MSR-VTT."""
    values = data_set or DATA_SETS["msrvtt-1ka"]
    return {
        "frames": values.frames,
        "words": "null" if values.words is None else values.words,
        "batch": values.batch,
        "v2t": values.v2t,
    }


def _read(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")
