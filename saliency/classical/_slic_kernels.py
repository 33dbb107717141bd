"""SLIC clustering and the connectedness of its clusters, compiled; `_superpixels.fast_slic_labels` wraps both."""

import numpy as np

from backdrop.kernels import kernel

SEARCH_STEPS = 2.0  # scikit-image's; with the paper's 1.0 long thin regions break


@kernel
def assign_pixels(
    lab_CHW: np.ndarray, centre: np.ndarray, step_px: float, colour_weight: float, labels_HW: np.ndarray
) -> None:
    """Give each pixel the nearest centre among those whose window of +- 2 `step_px` holds it, in place.

    A pixel that no window holds keeps its label. Distance: |position difference|^2 / step^2 + colour_weight *
    |Lab difference|^2 (Achanta et al. 2012, Eq. 3, squared).

    lab_CHW: float32. centre: float32 (N, 5): row, column, L, a, b. labels_HW: int32.
    """
    height, width = labels_HW.shape
    window_px = SEARCH_STEPS * step_px
    nearest_HW = np.full((height, width), np.float32(np.inf))
    position_weight = np.float32(1 / (step_px * step_px))
    colour = np.float32(colour_weight)
    for k in range(len(centre)):
        row, column, light, green_red, blue_yellow = centre[k]
        left, right = max(0, int(column - window_px)), min(width, int(column + window_px) + 1)
        for y in range(max(0, int(row - window_px)), min(height, int(row + window_px) + 1)):
            off_row = np.float32(y) - row
            nearest, labels = nearest_HW[y, left:right], labels_HW[y, left:right]
            lab0, lab1, lab2 = lab_CHW[0, y, left:right], lab_CHW[1, y, left:right], lab_CHW[2, y, left:right]
            for x in range(right - left):
                off_column = np.float32(np.int32(left + x)) - column
                d0, d1, d2 = lab0[x] - light, lab1[x] - green_red, lab2[x] - blue_yellow
                distance = (off_row * off_row + off_column * off_column) * position_weight
                distance += (d0 * d0 + d1 * d1 + d2 * d2) * colour
                # selects, not branches: the loop then runs in vector registers
                is_nearer = distance < nearest[x]
                nearest[x] = distance if is_nearer else nearest[x]
                labels[x] = np.int32(k) if is_nearer else labels[x]


@kernel
def move_centres(lab_CHW: np.ndarray, labels_HW: np.ndarray, centre: np.ndarray) -> None:
    """Move each centre to the mean of its pixels, in place; one without pixels stays.

    lab_CHW: float32. labels_HW: int32. centre: float32 (N, 5): row, column, L, a, b.
    """
    height, width = labels_HW.shape
    total = np.zeros((len(centre), 6))
    for y in range(height):
        for x in range(width):
            k = labels_HW[y, x]
            total[k, 0] += y
            total[k, 1] += x
            total[k, 2] += lab_CHW[0, y, x]
            total[k, 3] += lab_CHW[1, y, x]
            total[k, 4] += lab_CHW[2, y, x]
            total[k, 5] += 1
    for k in range(len(centre)):
        if total[k, 5] > 0:
            for d in range(5):
                centre[k, d] = np.float32(total[k, d] / total[k, 5])


@kernel
def connect(labels_HW: np.ndarray, min_size_px: int, connected_HW: np.ndarray) -> int:
    """Make every 4-connected piece of a label a region of its own, pieces below `min_size_px` joining a neighbour.

    labels_HW: int32. connected_HW: int32, written: 0..N-1 in the order of first pixels. Returns: N.
    """
    height, width = labels_HW.shape
    connected_HW[:] = -1
    piece = np.empty((height * width, 2), np.int32)
    num = 0
    for top in range(height):
        for left in range(width):
            if connected_HW[top, left] >= 0:
                continue
            size = flood(labels_HW, top, left, num, connected_HW, piece)
            if size >= min_size_px or num == 0:
                num += 1
                continue
            # what comes before in raster order has its region already: the pixel above or left of the first one
            into = connected_HW[top - 1, left] if top > 0 else connected_HW[top, left - 1]
            for i in range(size):
                connected_HW[piece[i, 0], piece[i, 1]] = into
    return num


@kernel
def flood(labels_HW: np.ndarray, top: int, left: int, region: int, connected_HW: np.ndarray, piece: np.ndarray) -> int:
    """Write `region` over the 4-connected piece around (top, left); its pixels go to `piece`. Returns: how many.

    labels_HW, connected_HW: int32, connected < 0 where not yet visited. piece: int32 (H * W, 2).
    """
    height, width = labels_HW.shape
    label = labels_HW[top, left]
    connected_HW[top, left] = region
    piece[0, 0], piece[0, 1] = top, left
    size, at = 1, 0
    while at < size:
        row, column = piece[at]
        at += 1
        for dy, dx in ((-1, 0), (0, -1), (0, 1), (1, 0)):
            y, x = row + dy, column + dx
            if 0 <= y < height and 0 <= x < width and connected_HW[y, x] < 0 and labels_HW[y, x] == label:
                connected_HW[y, x] = region
                piece[size, 0], piece[size, 1] = y, x
                size += 1
    return size
