"""A refactoring does not move the losses of a run: the curves of tests/golden/loss_curves.json, step by step."""

import json

import pytest

from tests.golden.make_loss_curves import CURVES, FILE, NUM_STEPS, curve

pytestmark = pytest.mark.usefixtures("one_thread")  # the number of threads decides the order of sums

# Other processors add floats in another order, which the first steps amplify little and thirty steps more.
_NUM_FIRST = 3
_FIRST_TOLERANCE = 0.01
_ALL_TOLERANCE = 0.1


def golden(name: str) -> list[float]:
    return json.loads(FILE.read_text())["curves"][name]


def test_every_curve_is_there() -> None:
    assert {name: len(golden(name)) for name in CURVES} == dict.fromkeys(CURVES, NUM_STEPS)


@pytest.mark.parametrize("name", CURVES)
def test_first_steps_stay(name: str) -> None:
    assert curve(name, _NUM_FIRST) == pytest.approx(golden(name)[:_NUM_FIRST], rel=_FIRST_TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("name", CURVES)
def test_curves_stay(name: str) -> None:
    found, expected = curve(name), golden(name)
    assert found[:_NUM_FIRST] == pytest.approx(expected[:_NUM_FIRST], rel=_FIRST_TOLERANCE)
    assert found == pytest.approx(expected, rel=_ALL_TOLERANCE)
