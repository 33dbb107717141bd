"""Slow float64 restatement of LARS (You et al. 2017, as used by BYOL), one weight tensor at a time."""

import math

import numpy as np


def lars_step(weight, gradient, velocity, *, lr, momentum, weight_decay, trust, is_adapted):
    """Return the new weight and velocity of one step."""
    gradient = gradient + weight_decay * weight
    weight_norm = math.sqrt(float((weight**2).sum()))
    gradient_norm = math.sqrt(float((gradient**2).sum()))
    ratio = 1.0
    if is_adapted and weight_norm > 0 and gradient_norm > 0:
        ratio = trust * weight_norm / gradient_norm
    velocity = momentum * velocity + ratio * gradient
    return np.asarray(weight - lr * velocity), velocity
