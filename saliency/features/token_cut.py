"""TokenCut: the patches of one image as a graph, cut in two by its second eigenvector.

Wang et al. 2022, "Self-Supervised Transformers for Unsupervised Object Discovery using Normalized Cut"; the corner rule
is that of Wang et al. 2023 ("CutLER", MaskCut). Shapes: h w rows and columns of patches, N = h * w, D width.
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh
from scipy.ndimage import label
from scipy.sparse.linalg import ArpackNoConvergence, eigsh

from backdrop.saliency.features.regions import has_corners_of_background

TAU = 0.2
# Weight of an edge between patches that are not alike: keeps the graph in one piece.
EPSILON = 1e-5
# Patches with the same neighbours have the same value up to rounding: of equals the first is taken.
TIE = 1e-9


@dataclass(frozen=True, kw_only=True)
class TokenCut:
    """One graph and its cut."""

    degree_N: np.ndarray
    # row sums of the graph's weights
    num_edges: int
    # between patches that are alike
    eigenvalue: float
    # the second smallest of (D - W) v = lambda D v
    vector_N: np.ndarray
    # its eigenvector, v'Dv = 1, positive at the seed
    seed: int
    # patch, by row, that stands out most
    partition_hw: np.ndarray
    # bool, the seed's side
    component_hw: np.ndarray
    # bool, the object: what of that side hangs together with the seed, by sides of patches
    is_flipped: bool
    # whether the corner rule took the other side


def token_cut(
    keys_ND: np.ndarray, size: tuple[int, int], *, tau: float = TAU, has_corner_rule: bool = True
) -> TokenCut | None:
    """Cut the patches of an image.

    Args:
        keys_ND: float, not normalised.
        size: rows and columns of patches.
        tau: cosine above which two patches are alike.
        has_corner_rule: whether a side with three or more of the four corners is the background, which the paper does
            not say: it then finds the background where an object is larger.

    Returns: None where nothing can be told apart: a single patch, all alike, or none like another.
    """
    unit_ND = keys_ND / np.maximum(np.linalg.norm(keys_ND, axis=1, keepdims=True), np.finfo(keys_ND.dtype).tiny)
    is_alike_NN = unit_ND @ unit_ND.T > tau
    # A patch is like itself, one without a key (MaskCut takes keys away) not even that.
    np.fill_diagonal(is_alike_NN, val=False)
    num = len(keys_ND)
    num_edges = int(is_alike_NN.sum()) // 2
    np.fill_diagonal(is_alike_NN, val=keys_ND.any(axis=1))
    if num_edges in (0, num * (num - 1) // 2):
        return None
    weights_NN = np.where(is_alike_NN, 1.0, EPSILON)
    degree_N = weights_NN.sum(axis=1)
    eigenvalue, vector_N = _second_eigenvector(weights_NN, degree_N)
    seed = _first_largest(np.abs(vector_N))
    vector_N = vector_N * np.sign(vector_N[seed])
    is_flipped = has_corner_rule and has_corners_of_background((vector_N > vector_N.mean()).reshape(size))
    if is_flipped:
        vector_N = -vector_N
        seed = _first_largest(vector_N)
    partition_hw = (vector_N > vector_N.mean()).reshape(size)
    labels_hw, _ = label(partition_hw)
    return TokenCut(
        degree_N=degree_N,
        num_edges=num_edges,
        eigenvalue=eigenvalue,
        vector_N=vector_N,
        seed=seed,
        partition_hw=partition_hw,
        component_hw=labels_hw == labels_hw.flat[seed],
        is_flipped=is_flipped,
    )


def _second_eigenvector(weights_NN: np.ndarray, degree_N: np.ndarray) -> tuple[float, np.ndarray]:
    """By Lanczos on D^-1/2 W D^-1/2, whose largest eigenvector, D^1/2 1, is known and moved out of the way."""
    root_N = np.sqrt(degree_N)
    weights_NN /= root_N[:, None]
    weights_NN /= root_N[None, :]
    first_N = root_N / np.linalg.norm(root_N)
    weights_NN -= 2 * np.outer(first_N, first_N)
    # Any start that is not orthogonal to the answer; always the same, so that equal images have equal maps.
    start_N = np.cos(np.arange(1, len(root_N) + 1))
    try:
        # Joined by weights of EPSILON alone, clusters leave eigenvalues 1e-5 apart: to machine precision.
        values, vectors = eigsh(weights_NN, k=1, which="LA", v0=start_N, tol=0)
    except ArpackNoConvergence:
        last = len(root_N) - 1
        values, vectors = eigh(weights_NN, subset_by_index=[last, last])
    return float(1 - values[0]), vectors[:, 0] / root_N


def _first_largest(values_N: np.ndarray) -> int:
    largest = values_N.max()
    return int(np.argmax(values_N >= largest - TIE * abs(largest)))
