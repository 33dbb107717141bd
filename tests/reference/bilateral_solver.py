"""The fast bilateral solver in float64 loops over a dictionary of vertices, solved directly. Barron and Poole 2016."""

import math

import numpy as np


def solve(
    image_HWC: np.ndarray, target_HW: np.ndarray, sigmas: tuple[float, float, float] = (16, 16, 8),
    smoothness: float = 256, confidence: float = 0.999,
) -> np.ndarray:  # fmt: skip
    """Soft map of a mask; sigmas: of pixels, luma, chroma."""
    height, width = target_HW.shape
    vertices: dict[tuple[int, ...], int] = {}
    vertex_of = np.zeros((height, width), int)
    for row in range(height):
        for column in range(width):
            r, g, b = (float(value) for value in image_HWC[row, column])
            luma = 0.299 * r + 0.587 * g + 0.114 * b
            u = -0.168736 * r - 0.331264 * g + 0.5 * b + 128
            v = 0.5 * r - 0.418688 * g - 0.081312 * b + 128
            cell = (column / sigmas[0], row / sigmas[0], luma / sigmas[1], u / sigmas[2], v / sigmas[2])
            vertex_of[row, column] = vertices.setdefault(tuple(math.floor(part) for part in cell), len(vertices))
    size = len(vertices)
    blur, mass, right = 10 * np.eye(size), np.zeros(size), np.zeros(size)
    for cell, vertex in vertices.items():
        for axis in range(5):
            for step in (-1, 1):
                beside = (*cell[:axis], cell[axis] + step, *cell[axis + 1 :])
                if beside in vertices:
                    blur[vertex, vertices[beside]] += 1
    for row in range(height):
        for column in range(width):
            mass[vertex_of[row, column]] += 1
            right[vertex_of[row, column]] += confidence * target_HW[row, column]
    scale = np.ones(size)
    for _ in range(10):
        scale = np.sqrt(scale * mass / (blur @ scale))
    smooth = np.diag(scale * (blur @ scale)) - np.diag(scale) @ blur @ np.diag(scale)
    return np.linalg.solve(smoothness * smooth + np.diag(confidence * mass), right)[vertex_of]
