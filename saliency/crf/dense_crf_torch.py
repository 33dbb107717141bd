"""The dense CRF of `dense_crf.py` for a batch, on the device of its tensors: lattices, filters and updates.

The same arithmetic in the same order, so that ties fall alike: on a CPU it equals the compiled one within 1e-4. On CUDA
the sums of `index_add_` run in no fixed order, so two runs differ in the last bits, unless
`torch.use_deterministic_algorithms(True)` is set.

Legend: B images, H rows, W columns, C colours, D dimensions of a feature, N pixels of a lattice, P lattice points, M
maps filtered on one lattice. See `_permutohedral.py` for the lattice itself.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from backdrop.saliency.crf.dense_crf import (
    DEFAULTS,
    MIN_PROBABILITY,
    RANGE_TOLERANCE,
    CrfSettings,
    FeatureScales,
    feature_scales,
)

# Images refined at once: 0.1 GB each at 432 x 432 while the lattice is built.
MAX_IMAGES = 20


class _Lattice(NamedTuple):
    """The simplex of every pixel, and the neighbours of every lattice point."""

    vertex: Tensor  # int64 (D + 1, N), which lattice points
    weight: Tensor  # float32 (D + 1, N), barycentric, times the pixel's normalisation
    neighbour: Tensor  # int64 (D + 1, 2, P), lattice points one step back and one on; P = none there


@torch.no_grad()
def refine_batch(
    images_BHWC: Tensor, foreground_BHW: Tensor, settings: CrfSettings = DEFAULTS, *, max_images: int = MAX_IMAGES
) -> Tensor:
    """Refine one map per image: float32 (B, H, W) in [0, 1], the marginals of the foreground, on the same device.

    Args:
        images_BHWC: uint8 RGB.
        foreground_BHW: float, probability of the foreground in [0, 1], on the device of the images.
        settings: of the kernels and the updates.
        max_images: refined at once; a larger batch is split.

    Raises:
        ValueError: not images; maps of another size, not finite, outside [0, 1]; no image at once.
    """
    _check(images_BHWC, foreground_BHW, max_images)
    refined = [
        _refine(images, foreground, settings)
        for images, foreground in zip(images_BHWC.split(max_images), foreground_BHW.split(max_images), strict=True)
    ]
    return torch.cat(refined)


def _check(images_BHWC: Tensor, foreground_BHW: Tensor, max_images: int) -> None:
    if images_BHWC.dtype != torch.uint8 or images_BHWC.ndim != 4 or images_BHWC.shape[3] != 3:
        raise ValueError(f"images are uint8 (B, H, W, 3), not {images_BHWC.dtype} {tuple(images_BHWC.shape)}")
    if images_BHWC.numel() == 0 or foreground_BHW.shape != images_BHWC.shape[:3]:
        raise ValueError(f"maps of {tuple(foreground_BHW.shape)} for images of {tuple(images_BHWC.shape)}")
    if max_images < 1:
        raise ValueError(f"max_images is {max_images}; give 1 or more")
    least, most = (float(extreme) for extreme in foreground_BHW.aminmax())
    # Not a number compares false, so this refuses it too.
    if not (least >= -RANGE_TOLERANCE and most <= 1 + RANGE_TOLERANCE):
        raise ValueError(f"soft maps are finite in [0, 1], not {least} to {most}")


def _refine(images_BHWC: Tensor, foreground_BHW: Tensor, settings: CrfSettings) -> Tensor:
    num_images = len(images_BHWC)
    # Position is the same in all images: one lattice for B maps. Colours differ: one lattice of the whole batch's
    # pixels, in which the images' points do not meet, for one map.
    kernels = (
        (num_images, _build(images_BHWC[:1, ..., :0], settings.spatial_sigma_px, 1), settings.spatial_weight),
        (1, _build(images_BHWC, settings.bilateral_sigma_px, settings.bilateral_sigma_rgb), settings.bilateral_weight),
    )
    probability_BHW = foreground_BHW.double().clamp(MIN_PROBABILITY, 1 - MIN_PROBABILITY)
    unary_BHW = (probability_BHW.log() - (-probability_BHW).log1p()).float()
    difference_BHW = (unary_BHW / 2).tanh()
    for _ in range(int(settings.iterations)):
        logit_BHW = unary_BHW.clone()
        for num_maps, lattice, weight in kernels:
            filtered_MN = _filter(lattice, difference_BHW.reshape(num_maps, -1))
            logit_BHW += weight * filtered_MN.reshape(logit_BHW.shape)
        difference_BHW = (logit_BHW / 2).tanh()
    return 0.5 + 0.5 * difference_BHW


def _build(images_BHWC: Tensor, sigma_px: float, sigma_levels: float) -> _Lattice:
    """The lattice of all pixels of all images, normalised; no channels gives the lattice of position alone."""
    num_images, height, width, num_channels = images_BHWC.shape
    device = images_BHWC.device
    scales = feature_scales(height, width, num_channels, sigma_px, sigma_levels, num_images)
    units = torch.from_numpy(scales.units).to(device)
    elevated = _elevate(_scaled_features(images_BHWC, scales))
    nearest, rank = _round_and_rank(elevated)
    axis_of_rank = torch.empty_like(rank)
    axes = torch.arange(len(units), device=device)[:, None].expand_as(rank)
    axis_of_rank.scatter_(0, rank, axes)
    first_key_N = (nearest.long() * units[:, None]).sum(0)
    first_key_N += torch.arange(num_images, device=device).repeat_interleave(height * width) * scales.image_unit
    steps = units.sum() - len(units) * units
    keys = torch.cat([first_key_N[None], steps[axis_of_rank.flip(0)[:-1]]]).cumsum(0)
    points, vertex = keys.unique(return_inverse=True)
    weight = _barycentric((elevated - nearest).gather(0, axis_of_rank))
    return _normalised(_Lattice(vertex, weight, _neighbours(points, steps)))


def _scaled_features(images_BHWC: Tensor, scales: FeatureScales) -> list[Tensor]:
    """The D features in lattice coordinates, each float32 (N)."""
    num_images, height, width, num_channels = images_BHWC.shape
    device = images_BHWC.device
    columns = torch.from_numpy(scales.columns_W).to(device).expand(num_images, height, width)
    rows = torch.from_numpy(scales.rows_H).to(device)[:, None].expand(num_images, height, width)
    levels = torch.from_numpy(scales.levels).to(device)
    colours = [levels[channel][images_BHWC[..., channel].long()] for channel in range(num_channels)]
    return [feature.reshape(-1) for feature in (columns, rows, *colours)]


def _elevate(scaled: list[Tensor]) -> Tensor:
    """Features onto the hyperplane: float32 (D + 1, N)."""
    total = torch.zeros_like(scaled[0])
    elevated = []
    for axis in range(len(scaled), 0, -1):
        elevated.append(total - axis * scaled[axis - 1])
        total = total + scaled[axis - 1]
    return torch.stack([total, *reversed(elevated)])


def _round_and_rank(elevated: Tensor) -> tuple[Tensor, Tensor]:
    """The point of remainder 0 of every simplex, float32, and the rank of every residual, int64, both (D + 1, N)."""
    num_axes = len(elevated)
    multiple = (elevated * _reciprocal(num_axes)).round()
    nearest = multiple * num_axes
    residual = elevated - nearest
    rank = multiple.sum(0).long().expand(num_axes, -1).clone()
    for i in range(num_axes - 1):
        is_less = residual[i] < residual[i + 1 :]
        rank[i] += is_less.sum(0)
        rank[i + 1 :] += ~is_less
    wrap = (rank < 0).long() - (rank >= num_axes).long()
    return nearest + wrap * num_axes, rank + wrap * num_axes


def _reciprocal(num_axes: int) -> float:
    """1 / (D + 1) in single precision."""
    return float(1 / torch.tensor(num_axes, dtype=torch.float32))


def _barycentric(residual: Tensor) -> Tensor:
    """Weights of the vertices by remainder, from the residuals in order of rank: float32 (D + 1, N)."""
    ascending = (residual * _reciprocal(len(residual))).flip(0)
    first = ascending[:1] + (1 - ascending[-1:])
    return torch.cat([first, ascending[1:] - ascending[:-1]])


def _neighbours(points: Tensor, steps: Tensor) -> Tensor:
    """Both neighbours of every lattice point in every blur direction: int64 (D + 1, 2, P)."""
    wanted = points + torch.stack([-steps, steps], 1)[..., None]
    place = torch.searchsorted(points, wanted).clamp_(max=len(points) - 1)
    return torch.where(points[place] == wanted, place, len(points))


def _normalised(lattice: _Lattice) -> _Lattice:
    """Fold the symmetric normalisation 1 / sqrt(K 1) into the weights."""
    kernel_sum_N = _filter(lattice, torch.ones_like(lattice.weight[:1]))[0]
    return lattice._replace(weight=lattice.weight / kernel_sum_N.sqrt())


def _filter(lattice: _Lattice, values_MN: Tensor) -> Tensor:
    """Splat, blur by (1/2, 1, 1/2) along every direction in turn, slice: float32 (M, N)."""
    num_points = lattice.neighbour.shape[2]
    table = values_MN.new_zeros(len(values_MN), num_points + 1)  # the last stays 0 and stands for none
    for vertex, weight in zip(lattice.vertex, lattice.weight, strict=True):
        table.index_add_(1, vertex, values_MN * weight)
    for back, on in lattice.neighbour:
        table[:, :num_points] += 0.5 * (table[:, back] + table[:, on])
    filtered_MN = torch.zeros_like(values_MN)
    for vertex, weight in zip(lattice.vertex, lattice.weight, strict=True):
        filtered_MN += weight * table[:, vertex]
    return filtered_MN
