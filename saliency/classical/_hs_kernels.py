"""Numba kernels of the detector `hs`: region scale, region merging, pairwise contrast.

Shapes: N regions, H rows, W columns, E directed edges between touching regions (repeats allowed).
"""

import numpy as np

from backdrop.kernels import kernel


@kernel
def region_scale(labels_HW: np.ndarray, num_regions: int) -> np.ndarray:
    """Side of the largest square inside each region: int32 (N,), in pixels.

    The largest square of one label whose lower right corner is a pixel grows from those of its three neighbours.
    """
    height, width = labels_HW.shape
    scale = np.zeros(num_regions, np.int32)
    above, here = np.zeros(width, np.int32), np.zeros(width, np.int32)
    for row in range(height):
        for column in range(width):
            label = labels_HW[row, column]
            here[column] = 1
            if (
                row > 0
                and column > 0
                and labels_HW[row, column - 1] == label
                and labels_HW[row - 1, column] == label
                and labels_HW[row - 1, column - 1] == label
            ):
                here[column] += min(above[column], here[column - 1], above[column - 1])
            scale[label] = max(scale[label], here[column])
        above, here = here, above
    return scale


@kernel
def merge(
    labels_HW: np.ndarray,
    edges: np.ndarray,
    order: np.ndarray,
    scale: np.ndarray,
    size: np.ndarray,
    colour: np.ndarray,
    min_scale_px: int,
) -> np.ndarray:
    """Merge regions that hold no square of side `min_scale_px` into the touching region of the nearest mean colour.

    Args:
        labels_HW: int32, 0..N-1.
        edges: int32 (E, 2), both directions of every pair of touching regions.
        order: int64 (N,), the order of visits.
        scale: int32 (N,), overwritten.
        size: float64 (N,), pixels, overwritten.
        colour: float64 (N, 3), overwritten.
        min_scale_px: the side a region must hold to stay.

    Returns:
        root: int32 (N,), the region that each one became a part of.
    """
    num = len(order)
    root = np.arange(num).astype(np.int32)
    box = _boxes(labels_HW, num)
    first, last, following = _edge_lists(edges, num)
    for small in order:
        if root[small] != small or scale[small] >= min_scale_px:
            continue
        near = _nearest_neighbour(small, edges, first, following, root, colour)
        if near < 0:
            continue
        root[small] = near
        for c in range(3):
            both = colour[small, c] * size[small] + colour[near, c] * size[near]
            colour[near, c] = both / (size[small] + size[near])
        size[near] += size[small]
        following[last[near]] = first[small]
        last[near] = last[small]
        for side in range(2):
            box[near, side] = min(box[near, side], box[small, side])
            box[near, side + 2] = max(box[near, side + 2], box[small, side + 2])
        # a union holds at least the squares of its parts, so only a union of two small regions is measured anew
        if scale[near] < min_scale_px:
            scale[near] = _scale_of_union(labels_HW, root, near, box[near], min_scale_px)
    for region in range(num):
        root[region] = _find(root, region)
    return root


@kernel
def _find(root: np.ndarray, region: int) -> int:
    while root[region] != region:
        root[region] = root[root[region]]
        region = root[region]
    return region


@kernel
def _boxes(labels_HW: np.ndarray, num_regions: int) -> np.ndarray:
    """Top, left, bottom, right (half-open) of each region: int32 (N, 4)."""
    height, width = labels_HW.shape
    box = np.zeros((num_regions, 4), np.int32)
    box[:, 0], box[:, 1] = height, width
    for row in range(height):
        for column in range(width):
            label = labels_HW[row, column]
            box[label, 0] = min(box[label, 0], row)
            box[label, 1] = min(box[label, 1], column)
            box[label, 2] = max(box[label, 2], row + 1)
            box[label, 3] = max(box[label, 3], column + 1)
    return box


@kernel
def _edge_lists(edges: np.ndarray, num_regions: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Edges as a linked list per region (first edge, last edge, following edge; -1 ends it): joined in one step."""
    first = np.full(num_regions, -1, np.int32)
    last = np.full(num_regions, -1, np.int32)
    following = np.full(len(edges), -1, np.int32)
    for edge in range(len(edges)):
        region = edges[edge, 0]
        if first[region] < 0:
            last[region] = edge
        following[edge] = first[region]
        first[region] = edge
    return first, last, following


@kernel
def _nearest_neighbour(
    region: int,
    edges: np.ndarray,
    first: np.ndarray,
    following: np.ndarray,
    root: np.ndarray,
    colour: np.ndarray,
) -> int:
    """Touching region of the nearest colour, the lowest number among equals; -1 where nothing is left to touch."""
    nearest, least = -1, np.inf
    edge = first[region]
    while edge >= 0:
        other = _find(root, edges[edge, 1])
        edge = following[edge]
        if other == region:
            continue
        distance = 0.0
        for c in range(3):
            distance += (colour[region, c] - colour[other, c]) ** 2
        if distance < least or (distance == least and other < nearest):
            nearest, least = other, distance
    return nearest


@kernel
def _scale_of_union(labels_HW: np.ndarray, root: np.ndarray, region: int, box: np.ndarray, enough_px: int) -> int:
    """Side of the largest square inside a merged region; stops at `enough_px`."""
    top, left, bottom, right = box
    above, here = np.zeros(right - left + 1, np.int32), np.zeros(right - left + 1, np.int32)
    best = 0
    for row in range(top, bottom):
        for column in range(right - left):
            here[column + 1] = 0
            if _find(root, labels_HW[row, left + column]) == region:
                here[column + 1] = 1 + min(above[column + 1], here[column], above[column])
                best = max(best, here[column + 1])
        if best >= enough_px:
            break
        above, here = here, above
    return best


@kernel
def contrast(colour: np.ndarray, position: np.ndarray, size: np.ndarray, sigma_squared: float) -> np.ndarray:
    """Sum over the other regions of size * exp(-squared distance / sigma^2) * colour difference: float64 (N,).

    Args:
        colour: float64 (N, 3).
        position: float64 (N, 2).
        size: float64 (N,).
        sigma_squared: in the unit of squared positions.
    """
    num = len(size)
    total = np.zeros(num)
    for i in range(num):
        for j in range(i):
            distance = (position[i, 0] - position[j, 0]) ** 2 + (position[i, 1] - position[j, 1]) ** 2
            difference = 0.0
            for c in range(3):
                difference += (colour[i, c] - colour[j, c]) ** 2
            weight = np.exp(-distance / sigma_squared) * np.sqrt(difference)
            total[i] += size[j] * weight
            total[j] += size[i] * weight
    return total
