"""That members of open sets fit their Protocols is read by mypy: all of them, and nothing that does not."""

from importlib import import_module
from pathlib import Path

import pytest

from tests import check_members

_RIGHT = """
from torch import Tensor
NEEDS_DONOR, HAS_NEGATIVE, MOVES_FOREGROUND, PROBABILITY = False, False, False, 0.5
def replacement(donor_BCHW: Tensor | None, level_BCHW: Tensor) -> Tensor | None:
    return level_BCHW
"""


def test_every_member_of_every_set_is_assigned_to_its_protocol() -> None:
    text = check_members.assignments()
    sets = list(check_members.open_sets())
    assert len(sets) >= 7
    for package, name, contract in sets:
        for member in getattr(import_module(package), name).built_in():
            file = member.replace("-", "_")
            assert f"from {package} import {file} as " in text
            assert f": {contract}" in text


@pytest.mark.slow  # mypy reads torch anew where it has no cache
@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("", "", ""),
        ("0.5", '"often"', 'PROBABILITY: expected "float", got "str"'),
        ("level_BCHW: Tensor)", "level_BCHW: int)", "def replacement(donor_BCHW: Tensor | None, level_BCHW: int)"),
        ("def replacement", "def replaced", "note:     replacement"),
    ],
)
def test_mypy_says_what_does_not_fit(right: str, wrong: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "grey.py").write_text(_RIGHT.replace(right, wrong))
    text = "from backdrop.pipeline.views.backgrounds import BackgroundFile\nimport grey\n_: BackgroundFile = grey\n"
    found = check_members.errors_of(text, tmp_path)
    assert message in found
    assert bool(found) == bool(message)
