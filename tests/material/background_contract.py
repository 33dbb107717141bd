"""What a background must do, whoever wrote it."""

from types import ModuleType

import numpy as np
import torch

from backdrop.pipeline.views import compositing

DRAWN = np.array([True, False, True, True])


def composited(background: ModuleType) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return images (values below 1), masks and the images with new backgrounds (donors and greys above 1)."""
    generator = torch.Generator().manual_seed(1)
    image_BCHW = torch.rand(4, 3, 7, 9, generator=generator)
    mask_B1HW = torch.rand(4, 1, 7, 9, generator=generator) > 0.4
    donor_DCHW = torch.rand(3, 3, 7, 9, generator=generator) + 2 if background.NEEDS_DONOR else None
    level_DCHW = torch.tensor([2.1, 2.2, 2.3])[:, None, None, None].expand(3, 3, 1, 1)
    replacement = background.replacement(donor_DCHW, level_DCHW)
    if replacement is None:
        return image_BCHW, mask_B1HW, image_BCHW
    return image_BCHW, mask_B1HW, compositing.composite(image_BCHW.clone(), mask_B1HW, replacement, DRAWN)


def declares_what_it_needs(background: ModuleType) -> None:
    """Its two flags and its probability are there."""
    assert isinstance(background.NEEDS_DONOR, bool)
    assert isinstance(background.HAS_NEGATIVE, bool)
    assert isinstance(background.MOVES_FOREGROUND, bool)
    assert background.NEEDS_DONOR or not background.MOVES_FOREGROUND
    assert 0 <= background.PROBABILITY <= 1
    assert (background.PROBABILITY == 0) == background.__name__.endswith(".none")


def keeps_shape_dtype_foreground_and_rows_not_drawn(background: ModuleType) -> None:
    """Only the background changes, and only in rows that were drawn."""
    image_BCHW, mask_B1HW, result_BCHW = composited(background)
    assert result_BCHW.shape == image_BCHW.shape
    assert result_BCHW.dtype == image_BCHW.dtype
    is_foreground = mask_B1HW.expand_as(image_BCHW)
    assert torch.equal(result_BCHW[is_foreground], image_BCHW[is_foreground])
    assert torch.equal(result_BCHW[~DRAWN], image_BCHW[~DRAWN])


def replaces_every_background_pixel_or_none(background: ModuleType) -> None:
    """No pixel is left over; `none` is the one that replaces nothing."""
    image_BCHW, mask_B1HW, result_BCHW = composited(background)
    is_background = ~mask_B1HW[DRAWN].expand_as(image_BCHW[DRAWN])
    is_replaced = result_BCHW[DRAWN][is_background] > 1
    assert is_replaced.all() or background.__name__.endswith(".none")
    assert not is_replaced.any() or not background.__name__.endswith(".none")
