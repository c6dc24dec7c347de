from gare_cache.heads.settings import HeadSettings
from gare_cache.losses.settings import LossSettings
from gare_cache.reports.run_content import describe_head


def describe(**loss: object) -> str:
    settings = {"loss": LossSettings.model_validate(loss).model_dump()}
    return describe_head({"head": HeadSettings().model_dump(), "train": settings})


def test_a_head_is_named_by_its_parts_and_losses() -> None:
    parts = "transformer, text-conditioned pooling, gap module"
    assert describe() == f"{parts}: InfoNCE, L_ib, L_eps, L_dir"
    changed = {
        "contrastive": {"name": "ncl"},
        "eps": {"weight": 0},
        "dir": {"weight": 0},
        "orthogonality": {"weight": 1},
        "trust_region": {"weight": 1},
    }
    assert describe(**changed) == f"{parts}: NCL, L_ib, L_orth, L_tr"
