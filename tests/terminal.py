"""What a command printed, without colours: typer forces them where FORCE_COLOR is set, as in CI."""

import re


def unstyle(printed: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", printed)
