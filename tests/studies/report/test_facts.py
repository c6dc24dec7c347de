import dataclasses

from gare_cache.studies.report.facts import study_facts
from gare_cache.studies.report.table import caption
from gare_cache.studies.study import Published
from tests.studies.report.sample import make_study


def test_facts_are_words():
    protocol = {
        "captions": "all",
        "v2t_convention": "x",
        "missing": "drop",
        "videos": 1000,
        "same": True,
        "digest": "d" * 64,
    }
    facts = dict(study_facts(dataclasses.replace(make_study(), protocol=protocol)))
    assert "Captions" not in facts  # the protocol's section has the conventions
    assert facts["Videos"] == "1,000"
    assert facts["Same"] == "yes"
    assert facts["Digest"] == "d" * 12
    assert facts["Seeds"] == "0, 1, 2"
    assert facts["Versions"] == "gare-cache 0.1.0, torch 2.6.0"
    assert facts["Extraction ids"] == "c" * 12


def test_published_numbers_always_come_with_a_caveat():
    result = make_study()
    study = dataclasses.replace(result.study, published=Published("a paper", "", {}, {}))
    published = caption(dataclasses.replace(result, study=study))
    assert "Published: a paper. They need not agree with these" in published
    assert "Published" not in caption(make_study(published=False))
