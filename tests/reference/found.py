"""FOUND's background discovery in float64 loops. Simeoni et al. 2023, section 3.2."""

import math

import numpy as np


def background(
    qkv_TC: np.ndarray, num_heads: int, *, is_weighted: bool = True, threshold: float = 0.3
) -> tuple[int, np.ndarray]:
    """The seed and the background (bool, N) of the output of a last layer's qkv, CLS first."""
    width = qkv_TC.shape[1] // 3 // num_heads
    num = len(qkv_TC) - 1
    attention = np.zeros((num_heads, num))
    for head in range(num_heads):
        query = qkv_TC[0, head * width : (head + 1) * width]
        keys = qkv_TC[:, (num_heads + head) * width : (num_heads + head + 1) * width]
        weights = [math.exp(sum(query[i] * key[i] for i in range(width)) / math.sqrt(width)) for key in keys]
        attention[head] = [weight / sum(weights) for weight in weights[1:]]
    shares = [sum(value > attention.mean() for value in attention[head]) / num + 1e-10 for head in range(num_heads)]
    betas = [math.log(sum(shares) / share) if is_weighted else 1.0 for share in shares]
    sums = [sum(betas[head] * attention[head, patch] for head in range(num_heads)) for patch in range(num)]
    seed = sums.index(min(sums))
    features = []
    for patch in range(num):
        parts = [
            betas[head] * qkv_TC[1 + patch, (num_heads + head) * width : (num_heads + head + 1) * width]
            for head in range(num_heads)
        ]
        feature = np.concatenate(parts)
        features.append(feature / math.sqrt(feature @ feature))
    return seed, np.array([features[seed] @ feature > threshold for feature in features])
