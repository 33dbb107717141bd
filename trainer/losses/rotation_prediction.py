"""RotNet's rotation prediction (Gidaris et al. 2018, Eq. 2 and 3).

| paper | here |
|---|---|
| K | NUM_ROTATIONS |
| g(X, y) | rotated |
| F^y | log softmax of logit_NR |
| y | turns_N |
Shapes: B batch, R rotations, N = R * B, the rotations one after the other.
"""

import torch
from torch.nn import functional

NUM_ROTATIONS = 4


def rotated(image_BCHW: torch.Tensor) -> torch.Tensor:
    """Return every image turned by 0, 90, 180 and 270 degrees counterclockwise.

    Args: image_BCHW: float (B, C, H, W), square. Returns: (R * B, C, H, W), all images by 0, then all by 90, ...
    """
    return torch.cat([torch.rot90(image_BCHW, turns, dims=(2, 3)) for turns in range(NUM_ROTATIONS)])


def rotation_prediction(logit_NR: torch.Tensor) -> torch.Tensor:
    """Return the mean over images and rotations of -log softmax at the rotation that was made.

    Args: logit_NR: float32 (R * B, R) of a batch in the order of `rotated`. Returns: scalar.
    """
    turns_N = torch.arange(NUM_ROTATIONS, device=logit_NR.device).repeat_interleave(len(logit_NR) // NUM_ROTATIONS)
    return functional.cross_entropy(logit_NR, turns_N)
