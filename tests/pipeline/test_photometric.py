"""Batched photometrics against torchvision's functional, one sample at a time."""

import numpy as np
import pytest
import torch
from torchvision.transforms import functional

from backdrop.pipeline.views import photometric
from backdrop.pipeline.views.view_plan import VIEW_DTYPE, View

TOLERANCE = 1e-5


@pytest.fixture
def image_BCHW() -> torch.Tensor:
    """Noise, a grey area, two equal channels, saturated values and a few levels only: every branch of the hue."""
    image = torch.rand(24, 3, 18, 21, generator=torch.Generator().manual_seed(0))
    image[0, :, :9] = image[0, :1, :9]
    image[1, 0] = image[1, 1]
    image[2] = (image[2] * 3).round() / 3
    image[3, :, 4:8] = 0.0
    image[4, :, 4:8] = 1.0
    return image


def uniform(low: float, high: float, seed: int, size: int = 24) -> np.ndarray:
    return np.random.default_rng(seed).uniform(low, high, size).astype(np.float32)


def neutral_record(num_rows: int) -> np.ndarray:
    record_B = np.zeros(num_rows, VIEW_DTYPE)
    for name in ("brightness", "contrast", "saturation"):
        record_B[name] = 1.0
    return record_B


def test_hue_equals_torchvision(image_BCHW: torch.Tensor) -> None:
    turns_B = np.concatenate([np.float32([-0.5, 0.5, 0.0]), uniform(-0.5, 0.5, 1, 21)])
    expected = torch.stack(
        [functional.adjust_hue(image, float(t)) for image, t in zip(image_BCHW, turns_B, strict=True)]
    )
    actual = photometric.adjust_hue(image_BCHW, torch.from_numpy(turns_B))
    torch.testing.assert_close(actual, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_blend_equals_torchvision(name: str, image_BCHW: torch.Tensor) -> None:
    factor_B = uniform(0.0, 2.0, 2)
    adjust = getattr(functional, f"adjust_{name}")
    expected = torch.stack([adjust(image, float(f)) for image, f in zip(image_BCHW, factor_B, strict=True)])
    is_contrast_B, is_saturation_B = (torch.full((24,), float(name == wanted)) for wanted in ("contrast", "saturation"))
    actual = photometric.blend(image_BCHW, torch.from_numpy(factor_B), is_contrast_B, is_saturation_B)
    torch.testing.assert_close(actual, expected, atol=TOLERANCE, rtol=0)


def test_jitter_follows_each_samples_own_order(image_BCHW: torch.Tensor) -> None:
    factors_B4 = np.stack([uniform(0.2, 1.8, seed) for seed in (3, 4, 5)] + [uniform(-0.2, 0.2, 6)], axis=1)
    names = ("brightness", "contrast", "saturation", "hue")
    expected = image_BCHW.clone()
    for row in range(24):  # one row per order
        for operation in photometric.JITTER_ORDERS[row]:
            adjust = getattr(functional, f"adjust_{names[operation]}")
            expected[row] = adjust(expected[row], float(factors_B4[row, operation]))
    actual = photometric.colour_jitter(image_BCHW, factors_B4, np.arange(24, dtype=np.uint8))
    torch.testing.assert_close(actual, expected, atol=TOLERANCE, rtol=0)


def test_jitter_ranks_are_lexicographic() -> None:
    assert photometric.JITTER_ORDERS[0].tolist() == [0, 1, 2, 3]
    assert photometric.JITTER_ORDERS[1].tolist() == [0, 1, 3, 2]
    assert photometric.JITTER_ORDERS[6].tolist() == [1, 0, 2, 3]
    assert photometric.JITTER_ORDERS[23].tolist() == [3, 2, 1, 0]


@pytest.mark.parametrize("kernel_size_px", [3, 13, 23])
def test_blur_equals_torchvision(kernel_size_px: int, image_BCHW: torch.Tensor) -> None:
    sigma_B = uniform(0.1, 2.0, 7)
    pairs = zip(image_BCHW, sigma_B.tolist(), strict=True)
    taps = [kernel_size_px] * 2
    expected = torch.stack([functional.gaussian_blur(image, taps, [sigma_px] * 2) for image, sigma_px in pairs])
    actual = photometric.gaussian_blur(image_BCHW, torch.from_numpy(sigma_B), kernel_size_px)
    torch.testing.assert_close(actual, expected, atol=TOLERANCE, rtol=0)


def test_blur_kernel_reaches_far_enough() -> None:
    """Thirteen taps for sigma 2 stay within half a grey level of the paper's 23 on the sharpest edge there is."""
    assert photometric.blur_kernel_size_px(2.0, 224) == 13
    assert photometric.blur_kernel_size_px(2.0, 4) == 7
    edge = torch.zeros(1, 3, 64, 64)
    edge[..., 32:] = 1.0
    narrow, wide = (photometric.gaussian_blur(edge, torch.tensor([2.0]), taps) for taps in (13, 23))
    assert (narrow - wide).abs().max() < 0.5 / 255


def test_greyscale_and_solarise_equal_torchvision(image_BCHW: torch.Tensor) -> None:
    image_BCHW[5, :, 0, 0] = 0.5
    torch.testing.assert_close(
        photometric.greyscale(image_BCHW), functional.rgb_to_grayscale(image_BCHW, 3), atol=TOLERANCE, rtol=0
    )
    torch.testing.assert_close(photometric.solarise(image_BCHW), functional.solarize(image_BCHW, 0.5), atol=0, rtol=0)


def test_augment_keeps_rows_where_nothing_was_drawn(image_BCHW: torch.Tensor) -> None:
    record_B = neutral_record(24)
    record_B["is_jittered"][::6] = 1
    record_B["brightness"] = 0.5  # drawn, but to be ignored where is_jittered is 0
    record_B["is_grey"][1::6] = 1
    record_B["blur_sigma_px"][2::6] = 1.0
    record_B["is_solarised"][3::6] = 1
    actual = photometric.augment(image_BCHW.clone(), record_B, View())
    is_altered_B = (actual != image_BCHW).flatten(1).any(1)
    assert is_altered_B.tolist() == [row % 6 < 4 for row in range(24)]


def test_augment_order_is_jitter_grey_blur_solarise(image_BCHW: torch.Tensor) -> None:
    record_B = neutral_record(1)
    record_B["is_jittered"] = record_B["is_grey"] = record_B["is_solarised"] = 1
    record_B["brightness"], record_B["hue"], record_B["blur_sigma_px"] = 0.7, 0.1, 1.5
    expected = functional.adjust_hue(functional.adjust_brightness(image_BCHW[5], 0.7), 0.1)
    expected = functional.gaussian_blur(functional.rgb_to_grayscale(expected, 3), [13, 13], [1.5, 1.5])
    expected = functional.solarize(expected, 0.5)
    actual = photometric.augment(image_BCHW[5:6].clone(), record_B, View())[0]
    # Solarising jumps at one half, so pixels that land there within rounding are left out.
    is_sure = (actual - 0.5).abs() > 1e-4
    torch.testing.assert_close(actual[is_sure], expected[is_sure], atol=TOLERANCE, rtol=0)


def test_a_view_may_turn_grey_before_its_jitter(image_BCHW: torch.Tensor) -> None:
    record_B = neutral_record(1)
    record_B["is_jittered"], record_B["is_grey"] = 1, 1
    record_B["saturation"], record_B["hue"], record_B["brightness"] = 1.4, 0.3, 0.8
    first = photometric.augment(image_BCHW[5:6].clone(), record_B, View(greyscale_order="before"))
    # A grey image has no colour to shift: brightness alone is left.
    assert torch.allclose(first, 0.8 * photometric.greyscale(image_BCHW[5:6]), atol=1e-3)
    last = photometric.augment(image_BCHW[5:6].clone(), record_B, View())
    assert not torch.allclose(first, last, atol=1e-2)


def test_a_row_does_not_depend_on_its_neighbours(image_BCHW: torch.Tensor) -> None:
    record_B = neutral_record(24)
    record_B["is_jittered"] = np.arange(24) % 2
    record_B["jitter_order"] = np.arange(24)
    record_B["contrast"], record_B["hue"] = uniform(0.6, 1.4, 8), uniform(-0.1, 0.1, 9)
    record_B["blur_sigma_px"] = np.where(np.arange(24) % 3 == 0, uniform(0.1, 2.0, 10), 0)
    together = photometric.augment(image_BCHW.clone(), record_B, View())
    alone = torch.cat(
        [photometric.augment(image_BCHW[r : r + 1].clone(), record_B[r : r + 1], View()) for r in range(24)]
    )
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=0)


def test_an_operation_on_all_rows_may_be_followed_by_one_on_some(image_BCHW: torch.Tensor) -> None:
    record_B = neutral_record(24)
    record_B["is_grey"] = 1
    record_B["is_solarised"][1] = 1
    actual = photometric.augment(image_BCHW.clone(), record_B, View())
    grey = photometric.greyscale(image_BCHW)
    assert torch.equal(actual[0], grey[0])
    assert torch.equal(actual[1], photometric.solarise(grey)[1])


def test_operations_can_be_compiled(image_BCHW: torch.Tensor) -> None:
    def all_operations(image: torch.Tensor, factor_B: torch.Tensor) -> torch.Tensor:
        image = photometric.adjust_hue(photometric.blend(image, factor_B, factor_B, factor_B), factor_B)
        return photometric.solarise(photometric.gaussian_blur(photometric.greyscale(image), factor_B, 5))

    factor_B = torch.full((24,), 0.4)
    compiled = torch.compile(all_operations, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(image_BCHW, factor_B), all_operations(image_BCHW, factor_B), atol=1e-6, rtol=0)
