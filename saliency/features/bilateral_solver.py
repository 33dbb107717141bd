"""The fast bilateral solver: a rough mask drawn to the edges of its image.

Barron and Poole 2016, on the simplified bilateral grid of Barron et al. 2015; constants as TokenCut and FOUND run it.
Shapes: H W rows and columns, P = H * W pixels, V occupied vertices of the grid.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from scipy.sparse import csr_array, diags_array
from scipy.sparse.linalg import cg, spsolve

from backdrop.settings import above, above_within, at_least

BISTOCHASTISATIONS = 10
DIAGONAL_FLOOR = 1e-5
# Full-range BT.601, rows Y, U, V; U and V are about 128.
_YUV = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])


@dataclass(frozen=True, kw_only=True)
class SolverSettings:
    """The grid, and how far the result may leave the mask."""

    sigma_px: Annotated[float, above(0), "Side of a cell of the grid, in pixels"] = 16.0
    sigma_luma: Annotated[float, above(0), "Its height in luma, of 255"] = 16.0
    sigma_chroma: Annotated[float, above(0), "Likewise in each chroma"] = 8.0
    smoothness: Annotated[float, at_least(0), "Weight of smoothness against the mask (lambda)"] = 256.0
    confidence: Annotated[float, above_within(0, 1), "Trust in the mask, the same at every pixel"] = 0.999
    iterations: Annotated[int, at_least(1), "Steps of conjugate gradients at most"] = 25
    tolerance: Annotated[float, above(0), "Relative residual at which they stop"] = 1e-5


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Vertices of an image. vertex_P: of each pixel. mass_V: pixels of each. blur_VV: counts of a vertex and around."""

    vertex_P: np.ndarray
    mass_V: np.ndarray
    blur_VV: csr_array


class BilateralSolver:
    """The system of one image, for any number of masks.

    Args: image_HWC: uint8 RGB. settings: None = the published ones.
    """

    def __init__(self, image_HWC: np.ndarray, settings: SolverSettings | None = None) -> None:
        self._settings = settings or SolverSettings()
        self._grid = grid_of(image_HWC, self._settings)
        scale_V, mass_V = _bistochastic(self._grid)
        smoothing_VV = diags_array(mass_V) - diags_array(scale_V) @ self._grid.blur_VV @ diags_array(scale_V)
        self._confidence_V = self._settings.confidence * self._grid.mass_V
        self._system_VV = csr_array(self._settings.smoothness * smoothing_VV + diags_array(self._confidence_V))

    def solve(self, target_HW: np.ndarray, *, is_exact: bool = False) -> np.ndarray:
        """Draw a mask to the edges of the image.

        Args:
            target_HW: float, [0, 1].
            is_exact: solve directly; differs by 4e-4 from 25 steps, and takes longer.

        Returns: float64 (H, W), soft: its foreground is above 0.5 and hardly ever near 1.
        """
        weighted_P = self._settings.confidence * target_HW.ravel().astype(np.float64)
        target_V = np.bincount(self._grid.vertex_P, weighted_P, len(self._grid.mass_V))
        if is_exact:
            return self._of_pixels(spsolve(self._system_VV.tocsc(), target_V), target_HW.shape)
        preconditioner_VV = diags_array(1 / np.maximum(self._system_VV.diagonal(), DIAGONAL_FLOOR))
        start_V = target_V / self._confidence_V
        limits = {"rtol": self._settings.tolerance, "maxiter": self._settings.iterations}
        solution_V, _ = cg(self._system_VV, target_V, x0=start_V, M=preconditioner_VV, **limits)
        return self._of_pixels(solution_V, target_HW.shape)

    def _of_pixels(self, solution_V: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
        return solution_V[self._grid.vertex_P].reshape(size)


def grid_of(image_HWC: np.ndarray, settings: SolverSettings) -> Grid:
    """Find the occupied vertices of an image, and which are neighbours.

    Args: image_HWC: uint8 RGB. settings: of the cells.
    """
    height, width = image_HWC.shape[:2]
    yuv_HWC = image_HWC.astype(np.float64) @ _YUV.T + np.array([0, 128, 128])
    rows_HW, columns_HW = np.mgrid[:height, :width]
    sigmas = (settings.sigma_px, settings.sigma_px, settings.sigma_luma, settings.sigma_chroma, settings.sigma_chroma)
    planes = (columns_HW, rows_HW, *np.moveaxis(yuv_HWC, 2, 0))
    # One more on either side, so that a neighbour's number is never another cell's.
    cells_5P = np.stack(
        [np.floor(plane.ravel() / s).astype(np.int64) + 1 for plane, s in zip(planes, sigmas, strict=True)]
    )
    strides = np.cumprod([1, *(cells_5P.max(axis=1)[:-1] + 2)])
    numbers_V, vertex_P, mass_V = np.unique(strides @ cells_5P, return_inverse=True, return_counts=True)
    size = len(numbers_V)
    blur_VV = csr_array(diags_array(np.full(size, 10.0)))
    for step in (*strides, *-strides):
        place_V = np.minimum(np.searchsorted(numbers_V, numbers_V + step), size - 1)
        (there,) = np.nonzero(numbers_V[place_V] == numbers_V + step)
        blur_VV = blur_VV + csr_array((np.ones(len(there)), (there, place_V[there])), shape=(size, size))
    return Grid(vertex_P=vertex_P.ravel(), mass_V=mass_V.astype(np.float64), blur_VV=blur_VV)


def _bistochastic(grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Scale the blur so that its rows and columns sum to the vertices' masses: (scale, the masses it has then)."""
    scale_V = np.ones(len(grid.mass_V))
    for _ in range(BISTOCHASTISATIONS):
        scale_V = np.sqrt(scale_V * grid.mass_V / (grid.blur_VV @ scale_V))
    return scale_V, scale_V * (grid.blur_VV @ scale_V)
