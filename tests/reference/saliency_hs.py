"""The steps of HS (Yan et al. 2013) in loop form, float64."""

import math

import numpy as np


def region_scale(labels_HW: np.ndarray, label: int) -> int:
    """The largest t for which some t x t window lies inside the region."""
    height, width = labels_HW.shape
    scale = 0
    for t in range(1, min(height, width) + 1):
        for top in range(height - t + 1):
            for left in range(width - t + 1):
                if (labels_HW[top : top + t, left : left + t] == label).all():
                    scale = t
    return scale


def neighbours(labels_HW: np.ndarray, label: int) -> set[int]:
    """Labels that touch a region along a side."""
    height, width = labels_HW.shape
    found = set()
    for row, column in np.argwhere(labels_HW == label):
        for other in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
            if 0 <= other[0] < height and 0 <= other[1] < width:
                found.add(int(labels_HW[other]))
    return found - {label}


def merge_small_regions(labels_HW: np.ndarray, luv_HWC: np.ndarray, min_scale_px: int) -> np.ndarray:
    """The label image after every merge was carried out on the pixels themselves; labels are not counted anew."""
    labels_HW = labels_HW.copy()
    labels = [int(label) for label in np.unique(labels_HW)]
    order = sorted(labels, key=lambda i: (region_scale(labels_HW, i), int((labels_HW == i).sum()), i))
    for label in order:
        touching = sorted(neighbours(labels_HW, label))
        if not touching or region_scale(labels_HW, label) >= min_scale_px:
            continue
        colours = {i: luv_HWC[labels_HW == i].mean(axis=0, dtype=np.float64) for i in [label, *touching]}
        nearest = min(touching, key=lambda i: (float(((colours[i] - colours[label]) ** 2).sum()), i))
        labels_HW[labels_HW == label] = nearest
    return labels_HW


def local_contrast(colour: np.ndarray, position: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Eq. 1 with sigma^2 = 0.2."""
    result = []
    for i in range(len(size)):
        total = 0.0
        for j in range(len(size)):
            squared_distance = sum((a - b) ** 2 for a, b in zip(position[i], position[j], strict=True))
            total += size[j] * math.exp(-squared_distance / 0.2) * math.dist(colour[i], colour[j])
        result.append(total)
    return np.array(result)


def location_heuristic(labels_HW: np.ndarray, label: int) -> float:
    """Eq. 2 with lambda = 9, pixel centres, sides of the image being 1."""
    height, width = labels_HW.shape
    total = []
    for row in range(height):
        for column in range(width):
            if labels_HW[row, column] == label:
                squared = ((row + 0.5) / height - 0.5) ** 2 + ((column + 0.5) / width - 0.5) ** 2
                total.append(math.exp(-9 * squared))
    return sum(total) / len(total)


def infer_tree(cues: list[np.ndarray], parents: list[np.ndarray]) -> np.ndarray:
    """The finest layer of the minimum of the energy: its gradient set to zero as one dense linear system."""
    confidence, consistency = (0.5, 4.0, 2.0), (4.0, 4.0)
    start = np.cumsum([0] + [len(cue) for cue in cues])
    matrix, right = np.zeros((start[-1], start[-1])), np.zeros(start[-1])
    for layer, cue in enumerate(cues):
        for i, value in enumerate(cue):
            own = start[layer] + i
            matrix[own, own] += confidence[layer]
            right[own] += confidence[layer] * value
            if layer < len(parents):
                above = start[layer + 1] + parents[layer][i]
                weight = consistency[layer]
                matrix[own, own] += weight
                matrix[above, above] += weight
                matrix[own, above] -= weight
                matrix[above, own] -= weight
    return np.linalg.solve(matrix, right)[: len(cues[0])]
