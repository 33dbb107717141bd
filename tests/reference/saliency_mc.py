"""The equations of MC (Jiang et al. 2013) in loop form, float64."""

import math

import numpy as np


def affinity(colour_distance: np.ndarray, linked: np.ndarray) -> np.ndarray:
    """Edge weights with the distances stretched over all edges of the graph."""
    num = len(linked)
    edges = [colour_distance[i, j] for i in range(num) for j in range(num) if linked[i, j]]
    low, high = min(edges), max(edges)
    result = np.zeros((num, num))
    for i in range(num):
        for j in range(num):
            if linked[i, j]:
                result[i, j] = math.exp(-10 * (colour_distance[i, j] - low) / (high - low)) + 1e-5
        result[i, i] = 1
    return result


def absorbed_time(affinity: np.ndarray, absorbs: np.ndarray, weight: np.ndarray, num_steps: int) -> np.ndarray:
    """Expected weight gathered in `num_steps` steps of the walk, node by node: the sum of Q^t c."""
    num = len(weight)
    reached = np.array(weight, np.float64)
    result = reached.copy()
    for _ in range(num_steps):
        following = np.zeros(num)
        for i in range(num):
            total = sum(affinity[i, j] * (2 if absorbs[j] else 1) for j in range(num))
            following[i] = sum(affinity[i, j] * reached[j] for j in range(num)) / total
        reached = following
        result += reached
    return result
