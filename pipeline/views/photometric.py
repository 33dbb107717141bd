"""Photometric augmentations of a whole batch at once, each sample with its own drawn parameters.

Every operation equals torchvision's functional of the same name on float images, sample by sample. Which rows need an
operation is known on the host (the numpy record), so rows that do not are skipped and a GPU is never waited for.

Legend: B batch, C channels, H W rows and columns, P position in the order of the jitter, T taps of the blur.
"""

from collections.abc import Callable
from itertools import permutations
from math import ceil

import numpy as np
import torch
from torch import Tensor

from backdrop.pipeline.views.view_plan import View

# Row r is the order whose rank is r: permutations of (brightness, contrast, saturation, hue) in lexicographic order.
JITTER_ORDERS = np.array(list(permutations(range(4))), dtype=np.int64)
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
FACTOR_NAMES = ("brightness", "contrast", "saturation", "hue")

# Luma weights of ITU-R BT.601 as torchvision rounds them.
_LUMA = (0.2989, 0.587, 0.114)
_SOLARISE_THRESHOLD = 0.5
# The blur kernel reaches this many of the plan's largest sigmas: 0.1 % of the weight lies beyond.
_BLUR_REACH_SIGMAS = 3.0


def luma(image_BCHW: Tensor) -> Tensor:
    """Return the grey value of every pixel.

    Args: image_BCHW: float (B, 3, H, W) in [0, 1]. Returns: float (B, 1, H, W) in [0, 1].
    """
    red, green, blue = image_BCHW.unbind(dim=1)
    return (_LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue).unsqueeze(1)


def greyscale(image_BCHW: Tensor) -> Tensor:
    """Return images without colour, the grey value in all three channels; float (B, 3, H, W) in [0, 1]."""
    return luma(image_BCHW).repeat(1, 3, 1, 1)


def adjust_hue(image_BCHW: Tensor, turns_B: Tensor) -> Tensor:
    """Turn the hue of every pixel, saturation and value kept.

    The way through HSV is shortened: with h the hue in turns, a channel is
    `max - chroma * clamp(2 - 6 |d|, 0, 1)`, d = h + n / 6 wrapped to [-1/2, 1/2], n = 3, 1, -1 for red, green, blue.

    Args:
        image_BCHW: float (B, 3, H, W) in [0, 1].
        turns_B: float (B,) in [-0.5, 0.5], the shift in turns.
    Returns: float (B, 3, H, W) in [0, 1].
    """
    red, green, blue = image_BCHW.unbind(dim=1)
    largest = torch.maximum(torch.maximum(red, green), blue)
    chroma = largest - torch.minimum(torch.minimum(red, green), blue)
    # Grey pixels have no hue; any divisor but zero gives them chroma 0 again.
    per_chroma = (1.0 / 6.0) / torch.where(chroma > 0, chroma, 1.0)
    hue = torch.where(
        largest == red,
        (green - blue) * per_chroma,
        torch.where(largest == green, (blue - red) * per_chroma + 1 / 3, (red - green) * per_chroma + 2 / 3),
    )
    hue = hue + turns_B[:, None, None]
    channels = []
    for sixths in (3.0, 1.0, -1.0):
        angle = hue + sixths / 6.0
        distance = angle.sub_(angle.round()).abs_()
        channels.append(largest - chroma * (2.0 - 6.0 * distance).clamp_(0.0, 1.0))
    return torch.stack(channels, dim=1)


def blend(image_BCHW: Tensor, factor_B: Tensor, is_contrast_B: Tensor, is_saturation_B: Tensor) -> Tensor:
    """Move images away from or towards black, their mean grey, or their own grey, and clamp.

    Brightness, contrast and saturation are one formula, `factor * image + (1 - factor) * base`, with another base each.

    Args:
        image_BCHW: float (B, 3, H, W) in [0, 1].
        factor_B: float (B,), 1 = unchanged.
        is_contrast_B, is_saturation_B: float (B,) 0 or 1, which base a sample takes; both 0 = black (brightness).
    Returns: float (B, 3, H, W) in [0, 1].
    """
    grey_B1HW = luma(image_BCHW)
    mean_B111 = grey_B1HW.mean(dim=(1, 2, 3), keepdim=True)
    rest_B = 1.0 - factor_B
    base_B1HW = _per_sample(rest_B * is_saturation_B) * grey_B1HW + _per_sample(rest_B * is_contrast_B) * mean_B111
    return torch.addcmul(base_B1HW, image_BCHW, _per_sample(factor_B)).clamp_(0.0, 1.0)


def colour_jitter(image_BCHW: Tensor, factors_B4: np.ndarray, order_B: np.ndarray) -> Tensor:
    """Apply brightness, contrast, saturation and hue to each sample in that sample's own order.

    Args:
        image_BCHW: float (B, 3, H, W) in [0, 1].
        factors_B4: float32 (B, 4): brightness, contrast, saturation (1 = unchanged), hue (shift in turns).
        order_B: integer (B,) in 0 .. 23, rank of the permutation.
    Returns: float (B, 3, H, W) in [0, 1].
    """
    operation_BP = JITTER_ORDERS[order_B]
    factor_BP = np.take_along_axis(factors_B4, operation_BP, axis=1)
    # A row whose turn is hue passes through the blend unchanged: factor 1.
    blend_factor_BP = np.where(operation_BP == HUE, np.float32(1.0), factor_BP)
    parameters_3BP = np.stack([blend_factor_BP, operation_BP == CONTRAST, operation_BP == SATURATION])
    parameters = torch.from_numpy(parameters_3BP.astype(np.float32)).to(image_BCHW.device, non_blocking=True)
    for position in range(4):
        image_BCHW = blend(image_BCHW, *parameters[:, :, position])
        is_hue_B = operation_BP[:, position] == HUE
        image_BCHW = on_rows(image_BCHW, is_hue_B, adjust_hue, factors_B4[:, HUE])
    return image_BCHW


def blur_kernel_size_px(largest_sigma_px: float, size_px: int) -> int:
    """Return the width of the blur kernel of a view: odd, three of the largest sigmas to either side.

    Paper (BYOL): a tenth of the image, 23 at 224, for sigmas up to 2. Ours is 13 there, as what lies past three sigmas
    changes no pixel by a grey level; and it does not cut the same sigmas short on small views.

    Args: largest_sigma_px: upper end of the view's range of sigma. size_px: side of the view.
    Returns: odd number of taps; reflection needs fewer than `size_px` to either side.
    """
    reach_px = min(ceil(_BLUR_REACH_SIGMAS * largest_sigma_px), size_px - 1)
    return 2 * reach_px + 1


def gaussian_blur(image_BCHW: Tensor, sigma_B: Tensor, kernel_size_px: int) -> Tensor:
    """Blur each sample with its own Gaussian, edges reflected; torchvision's `gaussian_blur` of that kernel size.

    Args:
        image_BCHW: float (B, 3, H, W) in [0, 1].
        sigma_B: float (B,), standard deviation in pixels, above 0.
        kernel_size_px: odd number of taps T.
    Returns: float (B, 3, H, W) in [0, 1].
    """
    num_B, num_C, height, width = image_BCHW.shape
    reach = kernel_size_px // 2
    offset_T = torch.arange(-reach, reach + 1, device=image_BCHW.device, dtype=image_BCHW.dtype)
    kernel_BT = torch.exp(-0.5 * (offset_T / sigma_B[:, None]).square())
    kernel_BT = kernel_BT / kernel_BT.sum(dim=1, keepdim=True)
    kernel_GT = kernel_BT.repeat_interleave(num_C, dim=0)
    padded = torch.nn.functional.pad(image_BCHW, (reach, reach, reach, reach), mode="reflect")
    planes = padded.reshape(1, num_B * num_C, height + 2 * reach, width + 2 * reach)
    planes = torch.nn.functional.conv2d(planes, kernel_GT[:, None, None, :], groups=num_B * num_C)
    planes = torch.nn.functional.conv2d(planes, kernel_GT[:, None, :, None], groups=num_B * num_C)
    return planes.reshape(num_B, num_C, height, width)


def solarise(image_BCHW: Tensor) -> Tensor:
    """Invert every value of at least one half; float (B, 3, H, W) in [0, 1]."""
    return torch.where(image_BCHW >= _SOLARISE_THRESHOLD, 1.0 - image_BCHW, image_BCHW)


def augment(image_BCHW: Tensor, record_B: np.ndarray, view: View) -> Tensor:
    """Apply what was drawn for one view: jitter and greyscale in the view's order, then blur, then solarise.

    Args:
        image_BCHW: float32 (B, 3, H, W) in [0, 1]; may be written to.
        record_B: (B,) of `VIEW_DTYPE`, on the host.
        view: the settings of the view, for the size of the blur kernel and when it turns grey.
    Returns: float32 (B, 3, H, W) in [0, 1].
    """
    factors_B4 = np.stack([record_B[name] for name in FACTOR_NAMES], axis=1)
    sigma_B = record_B["blur_sigma_px"]
    kernel_size_px = blur_kernel_size_px(view.blur_sigma_px[1], image_BCHW.shape[-1])

    def blur(rows_BCHW: Tensor, rows_sigma_B: Tensor) -> Tensor:
        return gaussian_blur(rows_BCHW, rows_sigma_B, kernel_size_px)

    is_jittered_B = record_B["is_jittered"] != 0
    jittered = np.flatnonzero(is_jittered_B)

    def jitter(rows_BCHW: Tensor) -> Tensor:
        return colour_jitter(rows_BCHW, factors_B4[jittered], record_B["jitter_order"][jittered])

    steps = [(is_jittered_B, jitter), (record_B["is_grey"] != 0, greyscale)]
    for is_wanted_B, operation in steps if view.greyscale_order == "after" else reversed(steps):
        image_BCHW = on_rows(image_BCHW, is_wanted_B, operation)
    image_BCHW = on_rows(image_BCHW, sigma_B > 0, blur, sigma_B)
    return on_rows(image_BCHW, record_B["is_solarised"] != 0, solarise)


def on_rows(
    image_BCHW: Tensor, is_wanted_B: np.ndarray, operation: Callable[..., Tensor], *parameters_B: np.ndarray
) -> Tensor:
    """Apply an operation to some rows of a batch; the others cost nothing.

    Args:
        image_BCHW: (B, C, H, W); may be written to.
        is_wanted_B: bool (B,), on the host.
        operation: takes the wanted rows (and their parameters, moved to their device), returns them altered.
        parameters_B: host arrays (B,), one value per row.
    Returns: (B, C, H, W), the unwanted rows as they were.
    """
    rows = np.flatnonzero(is_wanted_B)
    if len(rows) == 0:
        return image_BCHW
    device = image_BCHW.device
    chosen = [torch.from_numpy(values_B[rows]).to(device, non_blocking=True) for values_B in parameters_B]
    if len(rows) == len(image_BCHW):
        return operation(image_BCHW, *chosen)
    index = torch.from_numpy(rows).to(device, non_blocking=True)
    return image_BCHW.index_copy_(0, index, operation(image_BCHW.index_select(0, index), *chosen))


def _per_sample(value_B: Tensor) -> Tensor:
    return value_B[:, None, None, None]
