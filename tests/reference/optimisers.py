"""Slow float64 restatements of LARS (You et al. 2017), one weight tensor at a time: as in BYOL, in timm and in apex."""

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


def timm_lars_step(weight, gradient, velocity, *, lr, momentum, weight_decay, trust, always_adapts, eps=1e-8):
    """Return the new weight and velocity of one step of timm's Lars: no decay, no adaptation, unless asked."""
    ratio = 1.0
    if weight_decay != 0 or always_adapts:
        weight_norm = math.sqrt(sum(float(value) ** 2 for value in weight.flat))
        gradient_norm = math.sqrt(sum(float(value) ** 2 for value in gradient.flat))
        if weight_norm > 0 and gradient_norm > 0:
            ratio = trust * weight_norm / (gradient_norm + weight_norm * weight_decay + eps)
    velocity = momentum * velocity + ratio * (gradient + weight_decay * weight)
    return np.asarray(weight - lr * velocity), velocity


def apex_larc_step(weight, gradient, velocity, *, lr, momentum, weight_decay, trust, eps=1e-8):
    """Return the new weight and velocity of one step of apex's LARC (clip off) around torch's SGD."""
    weight_norm = math.sqrt(sum(float(value) ** 2 for value in weight.flat))
    gradient_norm = math.sqrt(sum(float(value) ** 2 for value in gradient.flat))
    if weight_norm != 0 and gradient_norm != 0:
        ratio = trust * weight_norm / (gradient_norm + weight_norm * weight_decay + eps)
        gradient = (gradient + weight_decay * weight) * ratio
    velocity = momentum * velocity + gradient
    return np.asarray(weight - lr * velocity), velocity
