"""Compiled loops of DSR: lasso path, k-means, propagation of errors, integration of scales; `dsr.py` wraps them."""

from typing import NamedTuple

import numpy as np

from backdrop.kernels import kernel

MAX_SEGMENTS = 200  # of a lasso path; paths over 8-vectors have some ten to thirty
DEPENDENT_PIVOT = 1e-10  # squared length of what an atom adds to the active ones


@kernel
def solve_active(
    gram: np.ndarray, active: np.ndarray, num: int, right: np.ndarray, factor: np.ndarray, solution: np.ndarray
) -> bool:
    """Solve gram[active, active] @ solution = right for two right sides by Cholesky; False where it is singular.

    gram: float64 (M, M). active: int64, the first `num` count. right, solution: float64 (>= num, 2).
    factor: float64 (>= num, >= num), work space.
    """
    for i in range(num):
        for j in range(i + 1):
            rest = gram[active[i], active[j]]
            for k in range(j):
                rest -= factor[i, k] * factor[j, k]
            if i == j:
                if rest < DEPENDENT_PIVOT:
                    return False
                factor[i, i] = np.sqrt(rest)
            else:
                factor[i, j] = rest / factor[j, j]
    for side in range(2):
        for i in range(num):
            rest = right[i, side]
            for k in range(i):
                rest -= factor[i, k] * solution[k, side]
            solution[i, side] = rest / factor[i, i]
        for i in range(num - 1, -1, -1):
            rest = solution[i, side]
            for k in range(i + 1, num):
                rest -= factor[k, i] * solution[k, side]
            solution[i, side] = rest / factor[i, i]
    return True


class _Path(NamedTuple):
    """A lasso's solution on the way down from the penalty where it is 0; M atoms, those that are active first."""

    gram: np.ndarray  # float64 (M, M), D'D
    product: np.ndarray  # float64 (M,), D'x
    active: np.ndarray  # int64, the active atoms
    right: np.ndarray  # float64 (., 2), of each active atom its product and its sign
    solution: np.ndarray  # float64 (., 2): on a segment a = solution[:, 0] - penalty * solution[:, 1]
    state: np.ndarray  # int8 (M,): 0 free, 1 active, 2 barred


@kernel
def next_event(path: _Path, num: int, level: float, newest: int) -> tuple[float, int]:
    """The next lower penalty at which an atom joins or leaves the active ones, and that atom; (0, -1) if none.

    num: active atoms. level: the penalty at which the segment begins. newest: the one that joined or left there; it
    does not turn back.
    """
    gram, product, active, solution, state = path.gram, path.product, path.active, path.solution, path.state
    best, atom = 0.0, -1
    for k in range(num):
        # crosses 0 at the ratio of both parts
        if active[k] != newest and solution[k, 1] != 0:
            at = solution[k, 0] / solution[k, 1]
            if best < at < level:
                best, atom = at, active[k]
    for j in range(len(product)):
        if state[j] != 0:
            continue
        rest, slope = product[j], 0.0
        for k in range(num):
            rest -= gram[j, active[k]] * solution[k, 0]
            slope += gram[j, active[k]] * solution[k, 1]
        # correlation rest + penalty * slope meets + or - penalty; one already there by rounding meets it now
        for sign in (1.0, -1.0):
            just_left = j == newest and sign * (rest + level * slope) > 0
            if not just_left and 1 - sign * slope > 0:
                at = min(sign * rest / (1 - sign * slope), level)
                if at > best:
                    best, atom = at, j
    return best, atom


@kernel
def lasso(gram: np.ndarray, product: np.ndarray, penalty: float, coefficient: np.ndarray, num_dims: int) -> None:
    """Minimise |x - D a|^2 / 2 + penalty |a|_1 by following the solution down from the penalty where it is 0.

    Between events, where an atom (column of D) joins or leaves the active ones, the solution is linear in the
    penalty (Osborne, Presnell, Turlach 2000; Efron et al. 2004).

    gram: float64 (M, M), D'D. product: float64 (M,), D'x. coefficient: float64 (M,), written. num_dims: rows of D.
    """
    coefficient[:] = 0
    atom = int(np.argmax(np.abs(product)))
    level = abs(product[atom])
    state = np.zeros(len(product), np.int8)
    active = np.empty(num_dims + 1, np.int64)
    right, solution = np.empty((num_dims + 1, 2)), np.zeros((num_dims + 1, 2))
    factor = np.empty((num_dims + 1, num_dims + 1))
    path = _Path(gram, product, active, right, solution, state)
    num = 0
    for _ in range(MAX_SEGMENTS):
        if level <= penalty or atom < 0:
            break
        num = change_active(path, num, atom, level)
        if not solve_active(gram, active, num, right, factor, solution):
            # depends on the active ones and so can stay out as long as they are the same
            state[atom] = 2
            num -= 1
            solve_active(gram, active, num, right, factor, solution)
        level, atom = next_event(path, num, level, atom)
    for k in range(num):
        coefficient[active[k]] = solution[k, 0] - max(penalty, level) * solution[k, 1]


@kernel
def change_active(path: _Path, num: int, atom: int, level: float) -> int:
    """Let an active atom leave, or another join with the sign of its correlation at `level`. Returns: new `num`."""
    gram, product, active, right = path.gram, path.product, path.active, path.right
    solution, state = path.solution, path.state
    if state[atom] != 1:
        correlation = product[atom]
        for k in range(num):
            correlation -= gram[atom, active[k]] * (solution[k, 0] - level * solution[k, 1])
        active[num], right[num, 0], right[num, 1] = atom, product[atom], np.sign(correlation)
        state[atom] = 1
        return num + 1
    at = 0
    while active[at] != atom:
        at += 1
    for k in range(at, num - 1):
        active[k], right[k] = active[k + 1], right[k + 1]
    for j in range(len(state)):
        if j == atom or state[j] == 2:
            state[j] = 0
    return num - 1


@kernel
def sparse_errors(
    sample: np.ndarray, template: np.ndarray, gram: np.ndarray, product: np.ndarray, penalty: float, error: np.ndarray
) -> None:
    """Squared distance of each sample from its sparse reconstruction by the templates.

    sample: float64 (N, D). template: float64 (M, D). gram: float64 (M, M). product: float64 (N, M), of sample and
    template. error: float64 (N,), written.
    """
    num_dims = sample.shape[1]
    coefficient = np.empty(len(template))
    for i in range(len(sample)):
        lasso(gram, product[i], penalty, coefficient, num_dims)
        error[i] = 0
        for d in range(num_dims):
            rest = sample[i, d]
            for j in range(len(template)):
                rest -= coefficient[j] * template[j, d]
            error[i] += rest * rest


@kernel
def k_means(sample: np.ndarray, num_clusters: int, max_iterations: int, cluster: np.ndarray) -> None:
    """Lloyd's algorithm from far-apart samples, without chance: the one nearest the mean, then always the farthest.

    sample: float64 (N, D), N >= num_clusters. cluster: int64 (N,), written: 0..num_clusters-1; a cluster that loses
    all its samples keeps its centre.
    """
    num, num_dims = sample.shape
    mean = np.zeros(num_dims)
    for i in range(num):
        mean += sample[i] / num
    distance = np.empty(num)
    for i in range(num):
        distance[i] = ((sample[i] - mean) ** 2).sum()
    centre = np.empty((num_clusters, num_dims))
    centre[0] = sample[np.argmin(distance)]
    distance[:] = np.inf
    for c in range(1, num_clusters):
        for i in range(num):
            distance[i] = min(distance[i], ((sample[i] - centre[c - 1]) ** 2).sum())
        centre[c] = sample[np.argmax(distance)]
    cluster[:] = -1
    for _ in range(max_iterations):
        if not assign_clusters(sample, centre, cluster):
            break
        move_clusters(sample, cluster, centre)


@kernel
def assign_clusters(sample: np.ndarray, centre: np.ndarray, cluster: np.ndarray) -> bool:
    """Give each sample (N, D) its nearest centre (K, D) in `cluster`, in place. Returns: whether any changed."""
    changed = False
    for i in range(len(sample)):
        best, nearest = np.inf, -1
        for c in range(len(centre)):
            distance = 0.0
            for d in range(sample.shape[1]):
                distance += (sample[i, d] - centre[c, d]) ** 2
            if distance < best:
                best, nearest = distance, c
        changed = changed or cluster[i] != nearest
        cluster[i] = nearest
    return changed


@kernel
def move_clusters(sample: np.ndarray, cluster: np.ndarray, centre: np.ndarray) -> None:
    """Move each centre (K, D) to the mean of its samples (N, D), in place; one without samples stays."""
    total, size = np.zeros_like(centre), np.zeros(len(centre))
    for i in range(len(sample)):
        total[cluster[i]] += sample[i]
        size[cluster[i]] += 1
    for c in range(len(centre)):
        if size[c] > 0:
            centre[c] = total[c] / size[c]


@kernel
def propagate(
    sample: np.ndarray, cluster: np.ndarray, order: np.ndarray, variance: float, own_share: float, error: np.ndarray
) -> None:
    """Mix each error with those of its cluster, weighted by likeness, one after the other in place.

    sample: float64 (N, D). cluster: int64 (N,). order: int64 (N,), in which samples are visited. variance: of the
    likeness exp(-|difference|^2 / 2 variance). error: float64 (N,).
    """
    for i in order:
        total, weight_sum = 0.0, 0.0
        for j in range(len(sample)):
            if j == i or cluster[j] != cluster[i]:
                continue
            distance = 0.0
            for d in range(sample.shape[1]):
                distance += (sample[i, d] - sample[j, d]) ** 2
            weight = np.exp(-distance / (2 * variance))
            total += weight * error[j]
            weight_sum += weight
        # alone in its cluster: nothing to mix with
        if weight_sum > 0:
            error[i] = own_share * error[i] + (1 - own_share) * total / weight_sum


@kernel
def add_scale(
    feature_HWD: np.ndarray,
    labels_HW: np.ndarray,
    mean_feature: np.ndarray,
    error: np.ndarray,
    total_EHW: np.ndarray,
    weight_HW: np.ndarray,
) -> None:
    """Add one scale to the integrated errors: a pixel trusts a superpixel by how like it it is (Eq. 11).

    feature_HWD: float32. labels_HW: int32. mean_feature: float32 (N, D). error: float64 (N, 2). total_EHW: float64
    (2, H, W) and weight_HW: float64, both added to.
    """
    height, width, num_dims = feature_HWD.shape
    for y in range(height):
        for x in range(width):
            k = labels_HW[y, x]
            distance = np.float32(0)
            for d in range(num_dims):
                difference = feature_HWD[y, x, d] - mean_feature[k, d]
                distance += difference * difference
            weight = 1 / (np.sqrt(distance) + np.float32(1e-6))
            weight_HW[y, x] += weight
            total_EHW[0, y, x] += weight * error[k, 0]
            total_EHW[1, y, x] += weight * error[k, 1]
