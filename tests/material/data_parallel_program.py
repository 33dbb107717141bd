"""What two processes do in `test_data_parallel.py`: gradients of uneven shares, then a whole training.

torchrun --nproc-per-node 2 -m tests.material.data_parallel_program IMAGES OUT
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch

from backdrop.ranks import Ranks, joined
from backdrop.saliency.deepusps2.deepusps import train
from backdrop.stores.datasets import open_index
from tests.material.tiny_detector import SETTINGS

# One round of one method, without the CRF, which may empty maps of a network this young.
SHORT = replace(
    SETTINGS,
    methods=("rbd",),
    first_thresholds=(0.25,),
    stage1_learning_rates=(2e-3,),
    stage1_epochs=1,
    stage2_epochs=1,
    crf_in_training=False,
)
BATCH = torch.arange(10.0).reshape(5, 2) / 10


def gradient(ranks: Ranks) -> tuple[list[float], list[float]]:
    """Gradient of the mean of a nonlinear loss over five images, and their outputs as the first rank gets them."""
    model = torch.nn.Linear(2, 1)
    torch.nn.init.constant_(model.weight, 0.3)
    torch.nn.init.zeros_(model.bias)
    shared, mine = ranks.wrap(model), ranks.share(len(BATCH))
    output = shared(ranks.tensor_from_first(BATCH if ranks.is_first else torch.zeros_like(BATCH))[mine])
    weight = len(BATCH[mine]) * ranks.size / len(BATCH)
    (output.exp().mean() * weight).backward()
    assert model.weight.grad is not None
    return model.weight.grad.flatten().tolist(), ranks.to_first(output.detach(), len(BATCH)).flatten().tolist()


def main() -> None:
    """Both parts; the first rank writes what it found."""
    images, out = Path(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    with joined("cpu") as ranks:
        found = gradient(ranks)
        assert ranks.sum(1.0) == ranks.size
        if ranks.is_first:
            out.with_suffix(".json").write_text(json.dumps(found))
    summary = train(open_index("folder", root=images), out, SHORT, num_workers=1)
    assert (summary is None) != ranks.is_first


if __name__ == "__main__":
    main()
