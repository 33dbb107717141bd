"""The dense CRF in loops and float64, with two filters: the permutohedral lattice, and the exact Gaussian.

The form of the paper (Kraehenbuehl and Koltun 2011, Algorithm 1): a probability per label and pixel, softmax, Potts
compatibility, kernels normalised symmetrically. Only where on the lattice a pixel lies is found in single precision, as
in the authors' C++: whole deviations put pixels exactly between two simplices, and single precision says in which.
"""

import math
from collections.abc import Callable

import numpy as np

from backdrop.saliency.crf.dense_crf import CrfSettings

Point = tuple[int, ...]
Filter = Callable[[list[float]], list[float]]


def features(image_HWC: np.ndarray, sigma_px: float, sigma_rgb: float | None) -> list[list[float]]:
    """Column, row and, unless `sigma_rgb` is None, the colours of every pixel, each over its deviation."""
    result = []
    for y in range(image_HWC.shape[0]):
        for x in range(image_HWC.shape[1]):
            colours = [] if sigma_rgb is None else [int(level) / sigma_rgb for level in image_HWC[y, x]]
            result.append([x / sigma_px, y / sigma_px, *colours])
    return result


def elevate(feature: list[float]) -> list[np.float32]:
    """A feature as a point of the hyperplane of one more coordinate (p. 5 of Adams et al. 2010)."""
    d = len(feature)
    # The C++ holds the deviation in single precision before it divides by the roots.
    deviation = float(np.float32(math.sqrt(2 / 3) * (d + 1)))
    scales = [np.float32(deviation / math.sqrt((i + 1) * (i + 2))) for i in range(d)]
    scaled = [np.float32(f) * scale for f, scale in zip(feature, scales, strict=True)]
    sums = [np.float32(0)]
    for value in reversed(scaled):
        sums.insert(0, sums[0] + value)
    return [sums[0], *(sums[axis] - np.float32(axis) * scaled[axis - 1] for axis in range(1, d + 1))]


def simplex(elevated: list[np.float32]) -> list[Point]:
    """Vertices, by remainder, of the simplex that a point of the hyperplane lies in."""
    period = len(elevated)
    # Halves to even, as in the C++.
    base = [round(float(value * (np.float32(1) / np.float32(period)))) * period for value in elevated]
    # Largest residual first; of equal ones the first coordinate, as in the C++.
    order = sorted(range(period), key=lambda axis: -(elevated[axis] - np.float32(base[axis])))
    excess = sum(base) // period
    for axis in order[-excess:] if excess > 0 else order[:-excess]:
        base[axis] -= period if excess > 0 else -period
    order = order[-excess:] + order[:-excess]
    # Of the vertex of remainder r, the r coordinates of least residual are a whole period lower than the others.
    return [
        tuple(base[axis] + r - (period if axis in order[period - r :] else 0) for axis in range(period))
        for r in range(period)
    ]


def barycentric(elevated: list[np.float32], vertices: list[Point]) -> np.ndarray:
    """The weights that sum to 1 and give the point as the mean of the vertices."""
    equations = np.array([*np.array(vertices, float).T, np.ones(len(vertices))])
    return np.linalg.lstsq(equations, np.array([*elevated, 1.0]))[0]


def lattice_filter(all_features: list[list[float]]) -> Filter:
    """Splat, blur, slice on the lattice of the features; the points of their simplices are all there are."""
    elevated = [elevate(feature) for feature in all_features]
    simplices = [simplex(point) for point in elevated]
    weights = [barycentric(point, vertices) for point, vertices in zip(elevated, simplices, strict=True)]
    period = len(elevated[0])

    def apply(values: list[float]) -> list[float]:
        table: dict[Point, float] = {vertex: 0.0 for vertices in simplices for vertex in vertices}
        for value, vertices, of_vertex in zip(values, simplices, weights, strict=True):
            for vertex, weight in zip(vertices, of_vertex, strict=True):
                table[vertex] += weight * value
        for direction in range(period):
            step = [1 - period * (axis == direction) for axis in range(period)]
            table = {
                point: value
                + 0.5 * table.get(tuple(p - s for p, s in zip(point, step, strict=True)), 0.0)
                + 0.5 * table.get(tuple(p + s for p, s in zip(point, step, strict=True)), 0.0)
                for point, value in table.items()
            }
        factor = 1 / (1 + 2.0 ** (1 - period))
        return [
            factor * sum(weight * table[vertex] for vertex, weight in zip(vertices, of_vertex, strict=True))
            for vertices, of_vertex in zip(simplices, weights, strict=True)
        ]

    return apply


def gaussian_filter(all_features: list[list[float]]) -> Filter:
    """The kernel itself: exp(-|f_i - f_j|^2 / 2) of every pair of pixels."""

    def apply(values: list[float]) -> list[float]:
        return [
            sum(
                value * math.exp(-(math.dist(mine, other) ** 2) / 2)
                for other, value in zip(all_features, values, strict=True)
            )
            for mine in all_features
        ]

    return apply


def normalised(kernel: Filter, num_pixels: int) -> Filter:
    """n K (n q) with n = 1 / sqrt(K 1 + 1e-20)."""
    norm = [1 / math.sqrt(total + 1e-20) for total in kernel([1.0] * num_pixels)]

    def apply(values: list[float]) -> list[float]:
        filtered = kernel([n * value for n, value in zip(norm, values, strict=True)])
        return [n * value for n, value in zip(norm, filtered, strict=True)]

    return apply


def softmax(background: float, foreground: float) -> tuple[float, float]:
    """Two scores as probabilities."""
    most = max(background, foreground)
    exponentials = math.exp(background - most), math.exp(foreground - most)
    return exponentials[0] / sum(exponentials), exponentials[1] / sum(exponentials)


def refine(
    image_HWC: np.ndarray,
    foreground_HW: np.ndarray,
    settings: CrfSettings,
    make_filter: Callable[[list[list[float]]], Filter] = lattice_filter,
) -> np.ndarray:
    """Marginal of the foreground after mean field: float64 (H, W)."""
    num_pixels = foreground_HW.size
    spatial = make_filter(features(image_HWC, settings.spatial_sigma_px, None))
    bilateral = make_filter(features(image_HWC, settings.bilateral_sigma_px, settings.bilateral_sigma_rgb))
    kernels = [
        (settings.spatial_weight, normalised(spatial, num_pixels)),
        (settings.bilateral_weight, normalised(bilateral, num_pixels)),
    ]
    clipped = [min(max(float(p), 1e-6), 1 - 1e-6) for p in foreground_HW.ravel()]
    log_probability = [[math.log(1 - p) for p in clipped], [math.log(p) for p in clipped]]
    marginals = [[1 - p for p in clipped], clipped]
    for _ in range(settings.iterations):
        scores = [list(of_label) for of_label in log_probability]
        for label in (0, 1):
            for weight, kernel in kernels:
                for pixel, message in enumerate(kernel(marginals[label])):
                    scores[label][pixel] += weight * message
        pairs = [softmax(scores[0][pixel], scores[1][pixel]) for pixel in range(num_pixels)]
        marginals = [[pair[0] for pair in pairs], [pair[1] for pair in pairs]]
    return np.array(marginals[1]).reshape(foreground_HW.shape)
