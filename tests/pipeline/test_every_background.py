"""What every file of pipeline/views/backgrounds must do."""

from importlib import import_module
from types import ModuleType

import pytest
import torch

from backdrop.pipeline.views import backgrounds
from tests.material import background_contract as contract


@pytest.fixture(params=backgrounds.NAMES)
def background(request: pytest.FixtureRequest) -> ModuleType:
    return import_module(f"backdrop.pipeline.views.backgrounds.{request.param}")


def test_declares_what_it_needs(background: ModuleType) -> None:
    contract.declares_what_it_needs(background)


def test_keeps_shape_dtype_foreground_and_rows_not_drawn(background: ModuleType) -> None:
    contract.keeps_shape_dtype_foreground_and_rows_not_drawn(background)


def test_replaces_every_background_pixel_or_none(background: ModuleType) -> None:
    contract.replaces_every_background_pixel_or_none(background)


def test_is_deterministic(background: ModuleType) -> None:
    assert torch.equal(contract.composited(background)[2], contract.composited(background)[2])


def test_rm_is_one_grey_level_per_image() -> None:
    rm = import_module("backdrop.pipeline.views.backgrounds.rm")
    _, mask_B1HW, result_BCHW = contract.composited(rm)
    for row, level in ((0, 2.1), (2, 2.2), (3, 2.3)):
        assert torch.equal(result_BCHW[row][:, ~mask_B1HW[row, 0]].unique(), torch.tensor([level]))
