"""Projection and prediction heads: small multilayer perceptrons on the pooled features."""

from torch import nn


def linear_head(num_features: int, num_outputs: int) -> nn.Linear:
    """Build MoCo-v1's and CAST's head: one linear layer with bias."""
    return nn.Linear(num_features, num_outputs)


def mlp_head(num_features: int, num_hidden: int, num_outputs: int) -> nn.Sequential:
    """Build MoCo-v2's head: linear, ReLU, linear, no normalisation (Chen et al. 2020, released code)."""
    return nn.Sequential(nn.Linear(num_features, num_hidden), nn.ReLU(), nn.Linear(num_hidden, num_outputs))


def batch_norm_head(num_features: int, num_hidden: int, num_outputs: int, *, output_bias: bool) -> nn.Sequential:
    """Build BYOL's (no output bias) and SwAV's (with one) head: linear with bias, BatchNorm, ReLU, linear."""
    return nn.Sequential(
        nn.Linear(num_features, num_hidden),
        nn.BatchNorm1d(num_hidden),
        nn.ReLU(),
        nn.Linear(num_hidden, num_outputs, bias=output_bias),
    )
