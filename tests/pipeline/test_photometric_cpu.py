"""The kernels of the photometrics on a CPU against torch's batched operations, which are held to torchvision's."""

import numpy as np
import pytest
import torch

from backdrop.pipeline.views import _photometric_kernels as kernels
from backdrop.pipeline.views import photometric, photometric_cpu
from backdrop.pipeline.views.view_plan import VIEW_DTYPE, View

TOLERANCE = 2e-6
MEAN, STD = np.float32([0.4, 0.5, 0.6]), np.float32([0.2, 0.25, 0.3])


def images(num_rows: int, side: int = 17, seed: int = 0) -> torch.Tensor:
    """Noise with a grey area, a black and a white one, and pixels with two equal channels."""
    image_BHWC = np.random.default_rng(seed).integers(0, 256, (num_rows, side, side, 3), dtype=np.uint8)
    image_BHWC[:, :3] = image_BHWC[:, :3, :, :1]
    image_BHWC[:, 4:5, : side // 2], image_BHWC[:, 4:5, side // 2 :] = 0, 255
    image_BHWC[:, 6:, :, 1] = image_BHWC[:, 6:, :, 2]
    return torch.from_numpy(image_BHWC)


def records(num_rows: int, seed: int = 1) -> np.ndarray:
    """Everything drawn in all combinations, the orders of the jitter in turn."""
    rng = np.random.default_rng(seed)
    record_B = np.zeros(num_rows, VIEW_DTYPE)
    for name in ("brightness", "contrast", "saturation"):
        record_B[name] = rng.uniform(0.2, 1.8, num_rows)
    record_B["hue"] = rng.uniform(-0.5, 0.5, num_rows)
    record_B["jitter_order"] = np.arange(num_rows) % 24
    for bit, name in enumerate(("is_jittered", "is_grey", "is_solarised")):
        record_B[name] = np.arange(num_rows) >> bit & 1
    record_B["blur_sigma_px"] = np.where(np.arange(num_rows) % 3, rng.uniform(0.1, 2.0, num_rows), 0)
    return record_B


def expected(image_BHWC: torch.Tensor, record_B: np.ndarray, view: View) -> tuple[torch.Tensor, torch.Tensor]:
    """The batched operations' result, and where it is sure: solarising jumps at one half."""
    image_BCHW = image_BHWC.permute(0, 3, 1, 2).float() / 255
    unsolarised_B = record_B.copy()
    unsolarised_B["is_solarised"] = 0
    before = photometric.augment(image_BCHW.clone(), unsolarised_B, view)
    is_sure = ((before - 0.5).abs() > 1e-5) | torch.from_numpy(record_B["is_solarised"] == 0)[:, None, None, None]
    mean, std = (torch.from_numpy(values)[:, None, None] for values in (MEAN, STD))
    return (photometric.augment(image_BCHW, record_B, view) - mean) / std, is_sure


@pytest.mark.parametrize(("side", "greyscale_order"), [(17, "after"), (17, "before"), (5, "after"), (2, "after")])
def test_equals_the_batched_operations(side: int, greyscale_order: str) -> None:
    image_BHWC, record_B, view = images(48, side), records(48), View(size_px=side, greyscale_order=greyscale_order)
    wanted, is_sure = expected(image_BHWC, record_B, view)
    actual = photometric_cpu.augment(image_BHWC, record_B, view, MEAN, STD, num_threads=1)
    assert is_sure.float().mean() > 0.9
    torch.testing.assert_close(actual[is_sure], wanted[is_sure], atol=TOLERANCE / STD.min(), rtol=0)


def test_threads_change_no_byte() -> None:
    image_BHWC, record_B = images(10), records(10)
    one, three, many = (
        photometric_cpu.augment(image_BHWC, record_B, View(size_px=17), MEAN, STD, num_threads=num)
        for num in (1, 3, 16)
    )
    assert torch.equal(one, three)
    assert torch.equal(one, many)


def test_the_crops_may_be_part_of_a_larger_tensor_and_stay_as_they_were() -> None:
    record_B, view = records(4), View(size_px=17)
    ring = images(8)
    before = ring.clone()
    part = photometric_cpu.augment(ring[2:6], record_B, view, MEAN, STD, num_threads=1)
    assert torch.equal(part, photometric_cpu.augment(before[2:6].clone(), record_B, view, MEAN, STD, num_threads=1))
    assert torch.equal(ring, before)


def test_compiled_and_plain_python_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    image_BHWC, record_B, view = images(24, 7), records(24), View(size_px=7)
    compiled = photometric_cpu.augment(image_BHWC, record_B, view, MEAN, STD, num_threads=1)
    for name, kernel in vars(kernels).items():
        if hasattr(kernel, "py_func"):
            monkeypatch.setattr(kernels, name, kernel.py_func)
    monkeypatch.setattr(photometric_cpu, "augment_rows", kernels.augment_rows)
    with np.errstate(all="raise"):
        plain = photometric_cpu.augment(image_BHWC, record_B, view, MEAN, STD, num_threads=1)
    is_sure = expected(image_BHWC, record_B, view)[1]
    torch.testing.assert_close(plain[is_sure], compiled[is_sure], atol=TOLERANCE / STD.min(), rtol=0)
