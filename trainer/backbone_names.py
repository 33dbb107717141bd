"""What `--backbone` offers to the shell: names read without importing PyTorch or timm, which takes seconds."""

import re
from importlib.util import find_spec
from pathlib import Path

# As `backbones.backbone_names` has them (tested), where asking the families would import PyTorch.
BUILT_IN = (
    "alexnet", "alexnet_bn", "drn_d_22", "drn_d_38", "drn_d_54", "drn_d_105", "drn_d_small", "drn_d_tiny",
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "vit_ti16", "vit_s16", "vit_s8", "vit_b16", "vit_b8",
    "vit_s16_moco_v3", "vit_b16_mae", "vit_l16_mae", "vit_h14_mae", "vit_s14", "vit_b14", "vit_l14", "vit_s14_reg4",
    "vit_b14_reg4", "vit_l14_reg4",
)  # fmt: skip
TIMM = "timm:"


def completed(context: object, parameter: object, incomplete: str) -> list[str]:
    """Return the names that begin so, timm's once its prefix is there. Args: as Click calls it."""
    offered = [f"{TIMM}{name}" for name in timm_names()] if incomplete.startswith(TIMM) else [*BUILT_IN, TIMM]
    return [name for name in offered if name.startswith(incomplete)]


def timm_names() -> list[str]:
    """Return the names of timm's networks, sorted, read in the text of its files; [] where it is not installed."""
    spec = find_spec("timm")
    if spec is None or spec.origin is None:
        return []
    texts = [path.read_text() for path in (Path(spec.origin).parent / "models").glob("*.py")]
    return sorted(name for text in texts for name in re.findall(r"^@register_model\ndef (\w+)\(", text, re.MULTILINE))
