"""Every draw of a detector's training is a function of the seed and of what it is drawn for."""

import numpy as np

SUBSET, WEIGHTS, ORDER, FLIPS, SCALES = range(5)


def stream(seed: int, purpose: int, *place: int) -> np.random.Generator:
    """A fresh generator.

    Args:
        seed: of the training.
        purpose: one of the constants above.
        place: phase and epoch, where the draw has them.
    """
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, purpose, *place))))
