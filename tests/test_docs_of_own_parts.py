"""The pages for users show the code of examples/, which the tests run."""

import re
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).parents[1]
PAGE = (REPOSITORY / "docs/extending.md").read_text()


def code_of(text: str) -> str:
    """Leave out docstrings and blank lines, as the page does."""
    text = re.sub(r'^ *"""(.|\n)*?"""\n', "", text, flags=re.MULTILINE)
    return "\n".join(line for line in text.splitlines() if line.strip())


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL))
def test_the_code_is_that_of_the_examples(block: str) -> None:
    examples = "\n".join(
        code_of((REPOSITORY / "examples" / name).read_text())
        for name in ("my_head.py", "my_parts.py")
    )
    assert code_of(block) in examples


def test_every_setting_on_the_page_is_yaml() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
    assert [list(yaml.safe_load(block)) for block in blocks] == [
        ["head", "train"],
        ["head"],
        ["train"],
        ["evaluate"],
    ]
