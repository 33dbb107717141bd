"""FOUND's coarse masks: the background is what is like the patch that CLS attends to least. No training.

Simeoni et al. 2023, "Unsupervised Object Localization: Observing the Background to Discover Objects", section 3.2.
Shapes: A heads, N patches, d width of a head.
"""

from dataclasses import dataclass

import numpy as np

from backdrop.saliency.features.token_features import side_by_side

# Cosine to the seed above which a patch is background.
THRESHOLD = 0.3
# Keeps the weight of a head that attends to no patch finite (at 23: it then decides alone).
EPSILON = 1e-10


@dataclass(frozen=True, kw_only=True)
class Background:
    """Of one image.

    share_A: of the patches that a head attends to more than the mean. weight_A: of the heads; heads that light up
    little count more. attention_N: weighted sum over the heads. cosine_N: of each patch to the seed.
    """

    share_A: np.ndarray
    weight_A: np.ndarray
    attention_N: np.ndarray
    seed: int
    cosine_N: np.ndarray
    background_N: np.ndarray
    # bool

    @property
    def foreground_N(self) -> np.ndarray:
        """The other patches, bool."""
        return ~self.background_N


def discover_background(
    keys_AND: np.ndarray, attention_AN: np.ndarray, *, threshold: float = THRESHOLD, is_weighted: bool = True
) -> Background:
    """Find the background of an image.

    Args:
        keys_AND: float, of the last layer.
        attention_AN: float, of CLS to each patch.
        threshold: cosine above which a patch is background as the seed is.
        is_weighted: whether heads count by how little they light up, or all alike.
    """
    share_A = (attention_AN > attention_AN.mean()).mean(axis=1)
    weight_A = np.log((share_A + EPSILON).sum() / (share_A + EPSILON)) if is_weighted else np.ones(len(share_A))
    weight_A = weight_A.astype(attention_AN.dtype)
    attention_N = (weight_A[:, None] * attention_AN).sum(axis=0)
    weighted_ND = side_by_side(keys_AND * weight_A[:, None, None])
    norm_N = np.maximum(np.linalg.norm(weighted_ND, axis=1, keepdims=True), np.finfo(weighted_ND.dtype).tiny)
    unit_ND = weighted_ND / norm_N
    seed = int(np.argmin(attention_N))
    cosine_N = unit_ND @ unit_ND[seed]
    return Background(
        share_A=share_A,
        weight_A=weight_A,
        attention_N=attention_N,
        seed=seed,
        cosine_N=cosine_N,
        background_N=cosine_N > threshold,
    )
