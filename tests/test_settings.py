"""The one form of a setting: what its annotation allows is what is taken, and the message names all of it."""

import math
from dataclasses import dataclass, fields
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backdrop.errors import UserError
from backdrop.pipeline.views.view_plan import View
from backdrop.settings import above, at_least, check_settings, meaning, one_of, rising_above, within
from backdrop.trainer import cast, online_probe
from backdrop.trainer.methods import METHODS
from backdrop.trainer.optimisation import optimisers, schedules
from backdrop.trainer.settings import RunSettings, method_module


@dataclass(frozen=True, kw_only=True)
class Inner:
    share: Annotated[float, within(0, 1), "of all"] = 0.5


@dataclass(frozen=True, kw_only=True)
class Outer:
    count: Annotated[int, at_least(1), "of images"] = 1
    rate: Annotated[float, above(0), "of learning"] = 0.1
    span: Annotated[tuple[float, float], rising_above(0, 1), "of areas"] = (0.2, 1.0)
    limit: Annotated[int | None, at_least(1), "or none"] = None
    name: Annotated[str, one_of(("global", "local")), "of a view"] = "global"
    inner: Inner = Inner()
    several: tuple[Inner, ...] = (Inner(), Inner())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": 0}, "run.count=0 must be 1 or more"),
        ({"rate": 0.0}, "run.rate=0.0 must be above 0"),
        ({"rate": math.nan}, "run.rate=nan must be above 0"),
        ({"span": (0.5, 0.2)}, "run.span=0.5,0.2 must be rising numbers above 0, 1 at most"),
        ({"span": (0.5, 1.2)}, "run.span=0.5,1.2 must be rising numbers above 0, 1 at most"),
        ({"limit": 0}, "run.limit=0 must be 1 or more"),
        ({"name": "globl"}, "run.name='globl' is unknown; allowed: global, local. Did you mean global?"),
        ({"inner": Inner(share=2)}, "run.inner.share=2 must be in [0, 1]"),
        ({"several": (Inner(), Inner(share=-1))}, "run.several.1.share=-1 must be in [0, 1]"),
    ],
)
def test_what_an_annotation_excludes_is_refused_by_path_value_and_range(change: dict, message: str) -> None:
    with pytest.raises(UserError) as caught:
        check_settings(Outer(**change), "run")
    assert str(caught.value) == message


@given(value=st.floats(), lowest=st.integers(-5, 5), width=st.integers(0, 5))
def test_a_closed_range_holds_what_lies_between_its_ends(value: float, lowest: int, width: int) -> None:
    assert within(lowest, lowest + width).holds(value) == (lowest <= value <= lowest + width)
    assert above(lowest).holds(value) == (value > lowest)


@given(low=st.floats(0.01, 1), high=st.floats(0.01, 1))
def test_a_pair_must_rise(low: float, high: float) -> None:
    assert rising_above(0, 1).holds((low, high)) == (low <= high)


RECORDS = [
    RunSettings,
    View,
    cast.Settings,
    online_probe.Settings,
    optimisers.Settings,
    schedules.Settings,
    *{method_module(name).Settings for name in METHODS.names()},
]


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_every_setting_of_a_run_says_what_it_means(kind: type) -> None:
    silent = [field.name for field in fields(kind) if not meaning(kind, field.name)]
    assert not silent
