"""The one form of a setting: what its annotation allows is what is taken, and the message names all of it."""

import ast
import importlib
import math
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backdrop.errors import UserError
from backdrop.settings import Choices, Range, above, at_least, check_settings, one_of, rising_above, within
from tests.room_graph import PACKAGE, SOURCES, module_name, parse


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
    assert above(lowest).holds(value) == (lowest < value < math.inf)


@given(low=st.floats(0.01, 1), high=st.floats(0.01, 1))
def test_a_pair_must_rise(low: float, high: float) -> None:
    assert rising_above(0, 1).holds((low, high)) == (low <= high)


def records() -> Iterator[type]:
    """Every record of settings of the product: by its name, or inside one."""
    todo = [
        getattr(importlib.import_module(f"{PACKAGE}.{module_name(path).removesuffix('.__init__')}"), node.name)
        for path in SOURCES
        for node in parse(path).body
        if isinstance(node, ast.ClassDef) and node.name.endswith(("Settings", "Options", "Schedule"))
    ]
    seen: set[type] = set()
    while todo:
        kind = todo.pop()
        if kind not in seen:
            seen.add(kind)
            yield kind
            hints = get_type_hints(kind).values()
            todo += [part for hint in hints for part in (hint, *get_args(hint)) if is_dataclass(part)]


def hints_of(kind: type) -> dict[str, Any]:
    return {field.name: get_type_hints(kind, include_extras=True)[field.name] for field in fields(kind)}


RECORDS = sorted(records(), key=lambda kind: f"{kind.__module__}.{kind.__name__}")


def test_the_records_are_found() -> None:
    names = {f"{kind.__module__}.{kind.__name__}".removeprefix(f"{PACKAGE}.") for kind in RECORDS}
    assert {
        "trainer.settings.RunSettings", "pipeline.views.view_plan.MaskPerturbation", "trainer.methods.moco.Settings",
        "trainer.evaluation.knn.Options", "saliency.deepusps2.settings.DeepUspsSettings",
        "pipeline.build.masks_and_backgrounds.BuildSettings", "trainer.evaluation.detection.images.Sizes",
    } <= names  # fmt: skip


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_every_setting_says_what_it_means_and_every_number_what_is_allowed(kind: type) -> None:
    for name, hint in hints_of(kind).items():
        said = getattr(hint, "__metadata__", ())
        assert any(isinstance(item, str) and item for item in said), f"{name} does not say what it means"
        if {int, float} & set(_leaf_types(hint)):
            assert any(isinstance(item, Range | Choices) for item in said), f"{name} does not say what is allowed"


def _leaf_types(hint: Any) -> Iterator[Any]:
    parts = get_args(hint)[:1] if get_origin(hint) is Annotated else get_args(hint)
    if not parts:
        yield hint
    for part in parts:
        yield from _leaf_types(part)


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_every_default_is_allowed(kind: type) -> None:
    if all(field.default is not MISSING or field.default_factory is not MISSING for field in fields(kind)):
        check_settings(kind())
