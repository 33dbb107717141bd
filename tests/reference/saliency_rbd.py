"""The equations of RBD (Zhu et al. 2014) in loop form, float64."""

import math

import numpy as np


def geodesic_distance(colour: np.ndarray, touches: np.ndarray, is_border: np.ndarray, clip: float) -> np.ndarray:
    """Floyd-Warshall over neighbours and border pairs, cost max(0, colour difference - clip)."""
    num = len(colour)
    distance = np.full((num, num), math.inf)
    for i in range(num):
        for j in range(num):
            if i == j:
                distance[i, j] = 0
            elif touches[i, j] or (is_border[i] and is_border[j]):
                distance[i, j] = max(0.0, colour[i, j] - clip)
    for k in range(num):
        for i in range(num):
            for j in range(num):
                distance[i, j] = min(distance[i, j], distance[i, k] + distance[k, j])
    return distance


def boundary_connectivity(geodesic: np.ndarray, is_border: np.ndarray, sigma: float) -> np.ndarray:
    """Border length over the root of the area."""
    result = []
    for row in geodesic:
        area = length = 0.0
        for distance, on_border in zip(row, is_border, strict=True):
            weight = math.exp(-(distance**2) / (2 * sigma**2)) if distance <= 3 * sigma else 0.0
            area += weight
            length += weight if on_border else 0.0
        result.append(length / math.sqrt(area))
    return np.array(result)


def raw_contrast(colour: np.ndarray, position: np.ndarray, connectivity: np.ndarray) -> np.ndarray:
    """Background-weighted contrast before stretching and threshold."""
    num = len(colour)
    result = np.zeros(num)
    for i in range(num):
        for j in range(num):
            if position[i, j] <= 3 * 0.4:
                near = math.exp(-(position[i, j] ** 2) / (2 * 0.4**2))
                result[i] += colour[i, j] * near * (1 - math.exp(-(connectivity[j] ** 2) / 2))
    return result


def cost(
    s: np.ndarray,
    foreground: np.ndarray,
    background: np.ndarray,
    smoothness: np.ndarray,
    background_factor: float = 5.0,
) -> float:
    """Eq. 9: what the optimised map minimises (each pair of neighbours once)."""
    total = 0.0
    for i in range(len(s)):
        total += background_factor * background[i] * s[i] ** 2 + foreground[i] * (s[i] - 1) ** 2
        for j in range(i):
            total += smoothness[i, j] * (s[i] - s[j]) ** 2
    return total
