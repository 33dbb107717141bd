"""Names and shapes of timm's ResNets, and how they were made: by timm 1.0.31.

In an environment that holds torch, torchvision and, without its own dependencies, timm:

    python -m tests.golden.make_timm_names
"""

import json
from pathlib import Path

FILE = Path(__file__).with_name("timm_names.json")
NAMES = ("resnet18", "resnet34", "resnet50", "resnet101")


def main() -> None:
    """Write, per network, "name shape" of each of its tensors."""
    import timm
    import torch

    found: dict = {"version": timm.__version__}
    for name in NAMES:
        with torch.device("meta"):
            state = timm.create_model(name).state_dict()
        found[name] = [f"{key} {'x'.join(map(str, value.shape))}".strip() for key, value in state.items()]
    FILE.write_text(json.dumps(found, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
