"""Inputs of the golden attack, and how it was made: by foolbox 3.3.4's LinfFastGradientAttack.

In an environment of its own that holds torch and foolbox 3.3.4:

    python -m tests.golden.make_fgsm

fgsm.json holds the true classes, the attacked pixels to six digits, and which images foolbox counts as fooled. Pixels
at 0 and 1 are among the inputs, and two images are wrong before the step.
"""

import json
from pathlib import Path

import numpy as np
import torch
from torch import nn

FILE = Path(__file__).with_name("fgsm.json")
EPSILON = 0.02


def inputs() -> tuple[nn.Module, torch.Tensor]:
    """A network of two layers, and eight images (8, 3, 4, 4) in 0 .. 1."""
    rng = np.random.default_rng(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.Tanh(), nn.Linear(16, 5)).eval()
    for parameter, shape in zip(network.parameters(), ((16, 48), (16,), (5, 16), (5,)), strict=True):
        parameter.data = torch.from_numpy(rng.normal(size=shape)).float() * 0.5
    return network, torch.from_numpy(rng.random((8, 3, 4, 4)).round(1)).float()


def main() -> None:
    """Write the file."""
    import foolbox

    network, pixel_BCHW = inputs()
    with torch.no_grad():
        label_B = network(pixel_BCHW).argmax(dim=1)
    label_B[:2] = (label_B[:2] + 1) % 5
    model = foolbox.PyTorchModel(network, bounds=(0, 1), device="cpu")
    _, attacked_BCHW, is_fooled_B = foolbox.attacks.LinfFastGradientAttack()(
        model, pixel_BCHW, label_B.clone(), epsilons=EPSILON
    )
    attacked = [[round(value, 6) for value in image] for image in attacked_BCHW.flatten(1).tolist()]
    content = {"label": label_B.tolist(), "success": is_fooled_B.tolist(), "attacked": attacked}
    FILE.write_text(json.dumps(content) + "\n")


if __name__ == "__main__":
    main()
