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


def alexnet_head(num_features: int, num_hidden: int, num_outputs: int) -> nn.Sequential:
    """Build RotNet's classifier on the feature map (B, D, h, w): pool to 6x6, two hidden layers with BatchNorm, linear.

    Gidaris et al. 2018, released code. Its pooling (3x3, stride 2, of a 13x13 map) is this adaptive one at 224 px.
    """
    return nn.Sequential(
        nn.AdaptiveMaxPool2d(6),
        nn.Flatten(),
        nn.Linear(num_features * 36, num_hidden, bias=False),
        nn.BatchNorm1d(num_hidden),
        nn.ReLU(),
        nn.Linear(num_hidden, num_hidden, bias=False),
        nn.BatchNorm1d(num_hidden),
        nn.ReLU(),
        nn.Linear(num_hidden, num_outputs),
    )
