"""The steps of DSR (Li et al. 2013) in loop form, float64."""

import math

import numpy as np


def lasso(template: np.ndarray, sample: np.ndarray, penalty: float, num_sweeps: int) -> np.ndarray:
    """Coordinate descent on |x - D a|^2 / 2 + penalty |a|_1; templates (M, D) are the columns of the dictionary."""
    num = len(template)
    a = np.zeros(num)
    for _ in range(num_sweeps):
        for j in range(num):
            rest = sample - sum(a[k] * template[k] for k in range(num) if k != j)
            push = float(template[j] @ rest)
            a[j] = math.copysign(max(abs(push) - penalty, 0), push) / float(template[j] @ template[j])
    return a


def optimality_gap(template: np.ndarray, sample: np.ndarray, penalty: float, a: np.ndarray) -> float:
    """How far `a` is from the conditions of a lasso solution (Karush, Kuhn, Tucker); 0 at the solution."""
    gap = 0.0
    rest = sample - sum((a[j] * template[j] for j in range(len(a))), np.zeros(len(sample)))
    for j in range(len(a)):
        push = float(template[j] @ rest)
        if a[j] != 0:
            gap = max(gap, abs(push - math.copysign(penalty, a[j])))
        else:
            gap = max(gap, abs(push) - penalty)
    return gap


def propagate(feature: np.ndarray, cluster: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Descending errors, each mixed in place with its cluster's."""
    num, num_dims = feature.shape
    variance = sum(feature[:, d].var(ddof=1) for d in range(num_dims)) / num_dims
    result = error.tolist()
    for i in sorted(range(num), key=lambda i: -error[i]):
        weights = {
            j: math.exp(-(math.dist(feature[i], feature[j]) ** 2) / (2 * variance))
            for j in range(num)
            if j != i and cluster[j] == cluster[i]
        }
        if weights:
            mixed = sum(weight * result[j] for j, weight in weights.items()) / sum(weights.values())
            result[i] = 0.5 * result[i] + 0.5 * mixed
    return np.array(result)


def dense_error(feature: np.ndarray, is_border: np.ndarray) -> np.ndarray:
    """Distance from the principal subspace, by singular vectors instead of a covariance."""
    template = feature[is_border] - feature[is_border].mean(axis=0)
    _, singular, components = np.linalg.svd(template)
    energy, kept = 0.0, []
    for value, component in zip(singular**2, components, strict=False):
        kept.append(component)
        if energy >= 0.95 * (singular**2).sum():
            break
        energy += value
    result = []
    for sample in feature - feature.mean(axis=0):
        rest = sample.copy()
        for component in kept:
            rest -= (sample @ component) * component
        result.append(math.sqrt(rest @ rest))
    return np.array(result)


def integrate(feature_HWD: np.ndarray, scales: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> np.ndarray:
    """Weighted mean over (labels_HW, mean feature, error) of each scale, the weight 1 / (distance + 1e-6)."""
    height, width = feature_HWD.shape[:2]
    result = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            total = weight_sum = 0.0
            for labels_HW, mean_feature, error in scales:
                k = labels_HW[y, x]
                weight = 1 / (math.dist(feature_HWD[y, x], mean_feature[k]) + 1e-6)
                total += weight * error[k]
                weight_sum += weight
            result[y, x] = total / weight_sum
    return result


def posterior(prior_HW: np.ndarray, evidence_HW: np.ndarray) -> np.ndarray:
    """Bayes' rule, pixel by pixel, before stretching; both histograms read at the bin of the pixel's own class."""
    inside = {pixel: prior_HW[pixel] > prior_HW.mean() for pixel in np.ndindex(prior_HW.shape)}
    histogram, bins = {}, {}
    for own in (True, False):
        pixels = [pixel for pixel, is_inside in inside.items() if is_inside == own]
        low, high = min(evidence_HW[p] for p in pixels), max(evidence_HW[p] for p in pixels)
        histogram[own] = [0.0] * 60
        for pixel in pixels:
            bins[pixel] = round((evidence_HW[pixel] - low) / (high - low) * 59)
            histogram[own][bins[pixel]] += 1 / len(pixels)
    result = np.zeros_like(prior_HW)
    for pixel in inside:
        foreground = prior_HW[pixel] * histogram[True][bins[pixel]]
        background = (1 - prior_HW[pixel]) * histogram[False][bins[pixel]]
        result[pixel] = foreground / (foreground + background) if foreground + background > 0 else 0
    return result
