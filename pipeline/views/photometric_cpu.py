"""Photometrics where the views stay on the CPU: the arithmetic of `photometric.py`, sample by sample, in threads.

About seven times as fast there as torch's operations on whole batches (`make bench`, loader.*_cpu_only_vs_torchvision).
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from backdrop.pipeline.views._photometric_kernels import ViewCode, augment_rows, make_buffers
from backdrop.pipeline.views.photometric import JITTER_ORDERS, blur_kernel_size_px
from backdrop.pipeline.views.view_plan import View


def augment(
    image_BHWC: Tensor, record_B: np.ndarray, view: View, mean_3: np.ndarray, std_3: np.ndarray, num_threads: int
) -> Tensor:
    """Apply what was drawn for one view, then normalise.

    Args:
        image_BHWC: uint8 RGB on the CPU.
        record_B: (B,) of `VIEW_DTYPE`.
        view: the settings of the view, for the size of the blur kernel and when it turns grey.
        mean_3, std_3: float32, per channel, of [0, 1] values.
        num_threads: of this call; they change no byte.
    Returns: float32 (B, 3, H, W).
    """
    num_B, height, width, _ = image_BHWC.shape
    image_BN = image_BHWC.contiguous().view(num_B, -1).numpy()
    out_BCHW = torch.empty(num_B, 3, height, width)
    out_BCN = out_BCHW.view(num_B, 3, -1).numpy()
    is_grey_first = view.greyscale_order == "before"
    code = ViewCode(blur_kernel_size_px(view.blur_sigma_px[1], width), is_grey_first, JITTER_ORDERS, mean_3, std_3)

    def work(first: int, last: int) -> None:
        rows, buffers = slice(first, last), make_buffers(height, width, code.taps)
        augment_rows(image_BN[rows], width, record_B[rows], code, buffers, out_BCN[rows])

    if num_threads == 1:
        work(0, num_B)
        return out_BCHW
    bounds = np.linspace(0, num_B, num_threads + 1).astype(int)
    with ThreadPoolExecutor(num_threads) as pool:
        list(pool.map(work, bounds[:-1], bounds[1:]))
    return out_BCHW
