"""One step of SLIC (Achanta et al. 2012) and the connectedness of its regions, in loop form, float64."""

import numpy as np


def nearest_centres(
    lab_HWC: np.ndarray, centre: np.ndarray, step_px: float, compactness: float, window_px: float
) -> np.ndarray:
    """Index of the nearest centre (row, column, L, a, b) whose window holds the pixel; -1 where none does."""
    height, width = lab_HWC.shape[:2]
    labels_HW = np.full((height, width), -1)
    for y in range(height):
        for x in range(width):
            best = np.inf
            for k, (row, column, *lab) in enumerate(centre.astype(np.float64)):
                inside = int(row - window_px) <= y < int(row + window_px) + 1
                inside = inside and int(column - window_px) <= x < int(column + window_px) + 1
                colour = np.sqrt(((lab_HWC[y, x].astype(np.float64) - lab) ** 2).sum())
                distance = np.hypot(y - row, x - column) ** 2 / step_px**2 + colour**2 / compactness**2
                if inside and distance < best:
                    best, labels_HW[y, x] = distance, k
    return labels_HW


def num_pieces(labels_HW: np.ndarray) -> int:
    """How many 4-connected pieces of one label there are."""
    height, width = labels_HW.shape
    seen, num = set(), 0
    for start in np.ndindex(height, width):
        if start in seen:
            continue
        num += 1
        waiting = [start]
        while waiting:
            y, x = waiting.pop()
            inside = 0 <= y < height and 0 <= x < width
            if (y, x) in seen or not inside or labels_HW[y, x] != labels_HW[start]:
                continue
            seen.add((y, x))
            waiting += [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
    return num
