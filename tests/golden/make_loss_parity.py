"""Inputs of the losses' and LARS's golden values, and how these were made: by lightly 1.6.0 and timm 1.0.31.

In an environment that holds the project's packages and, without their own dependencies, lightly, lightly_utils, timm:

    python -m tests.golden.make_loss_parity

Only what means the same in both is compared. lightly has no extra negative of BG_Swaps and no CAST. timm's LARS divides
by |g| + wd |w| and ours by |g + wd w|, as BYOL does: the same at the weight decay of 0 taken here.
"""

import json
from pathlib import Path

import numpy as np
import torch

FILE = Path(__file__).with_name("loss_parity.json")
NUM_ROWS, NUM_DIMENSIONS, NUM_KEYS, NUM_PROTOTYPES, NUM_QUEUED = 6, 16, 24, 10, 12
TEMPERATURES = {"moco_v1": 0.07, "moco_v2": 0.2}
SWAV = {"temperature": 0.1, "epsilon": 0.05, "num_iterations": 3}
NUM_GLOBAL, NUM_LOCAL = 2, 3
LARS = {"lr": 0.7, "momentum": 0.9, "trust": 1e-3}
LARS_STEPS = 3


def numbers(seed: int, *shape: int) -> torch.Tensor:
    """Draw float32 numbers of [-1, 1]; integers from the generator, which stay what they are in every version."""
    return torch.tensor(np.random.default_rng(seed).integers(-1000, 1001, shape) / 1000.0, dtype=torch.float32)


def units(seed: int, *shape: int) -> torch.Tensor:
    """Draw float32 vectors of unit length."""
    return torch.nn.functional.normalize(numbers(seed, *shape), dim=-1)


def lars_inputs() -> tuple[list[torch.Tensor], list[list[torch.Tensor]]]:
    """Return weights, and their gradients of each step."""
    shapes = ((4, 3), (5,))
    weights = [numbers(40 + index, *shape) for index, shape in enumerate(shapes)]
    gradients = [[numbers(50 + 10 * step + i, *shape) for i, shape in enumerate(shapes)] for step in range(LARS_STEPS)]
    return weights, gradients


def _found(loss: torch.Tensor, with_respect_to: torch.Tensor) -> dict:
    (gradient,) = torch.autograd.grad(loss.sum(), with_respect_to)
    return {"loss": loss.item(), "gradient": gradient.tolist()}


def _lightly() -> dict:
    from lightly.loss import NegativeCosineSimilarity, NTXentLoss, SwaVLoss

    found = {}
    for name, temperature in TEMPERATURES.items():
        loss = NTXentLoss(temperature=temperature, memory_bank_size=(NUM_KEYS, NUM_DIMENSIONS))
        loss.memory_bank.bank = units(3, NUM_KEYS, NUM_DIMENSIONS)
        query = units(1, NUM_ROWS, NUM_DIMENSIONS).requires_grad_()
        found[name] = _found(loss(query, units(2, NUM_ROWS, NUM_DIMENSIONS)), query)
    prediction = numbers(4, NUM_ROWS, NUM_DIMENSIONS).requires_grad_()
    found["byol"] = _found(NegativeCosineSimilarity()(prediction, numbers(5, NUM_ROWS, NUM_DIMENSIONS)), prediction)
    for name, queue in (("swav", None), ("swav_queue", list(numbers(7, NUM_GLOBAL, NUM_QUEUED, NUM_PROTOTYPES)))):
        scores = numbers(6, NUM_GLOBAL + NUM_LOCAL, NUM_ROWS, NUM_PROTOTYPES).requires_grad_()
        loss = SwaVLoss(SWAV["temperature"], SWAV["num_iterations"], SWAV["epsilon"])
        found[name] = _found(loss(list(scores[:NUM_GLOBAL]), list(scores[NUM_GLOBAL:]), queue), scores)
    return found


def _timm() -> dict:
    from timm.optim.lars import Lars

    weights, gradients = lars_inputs()
    optimiser = Lars(weights, lr=LARS["lr"], momentum=LARS["momentum"], trust_coeff=LARS["trust"], always_adapt=True)
    for step in gradients:
        for weight, gradient in zip(weights, step, strict=True):
            weight.grad = gradient.clone()
        optimiser.step()
    return {"lars": [weight.tolist() for weight in weights]}


def main() -> None:
    """Write the file."""
    import lightly
    import timm

    versions = {"lightly": lightly.__version__, "timm": timm.__version__, "torch": torch.__version__}
    FILE.write_text(json.dumps({"versions": versions} | _lightly() | _timm()) + "\n")


if __name__ == "__main__":
    main()
