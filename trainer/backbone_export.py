"""A trained backbone as a file that other tools load: torchvision, timm, ONNX, plain safetensors; detectron2's folder.

Nothing is renamed but for detectron2: weights carry torchvision's and timm's names from the start.
"""

from collections.abc import Callable
from pathlib import Path

import torch

from backdrop.disk_errors import disk_errors
from backdrop.durable_files import written_aside
from backdrop.errors import UserError
from backdrop.tensor_files import write_tensors
from backdrop.trainer.backbones import timm as timm_family
from backdrop.trainer.detectron2_export import export_detectron2
from backdrop.trainer.evaluation.harness.weights import load_network
from backdrop.trainer.parts.backbones import Backbone

# Ours -> timm's, of the same weights; ResNets have one name, those of timm:NAME their own.
_TIMM_NAMES = {
    "vit_ti16": "vit_tiny_patch16_224",
    "vit_s16": "vit_small_patch16_224",
    "vit_s8": "vit_small_patch8_224",
    "vit_b16": "vit_base_patch16_224",
    "vit_b8": "vit_base_patch8_224",
}
_ONNX_VERSION = 18


def export_backbone(
    run_or_weights: Path | str,
    to: str,
    out: Path | str,
    *,
    protocol: str | None = None,
    method: str | None = None,
    size_px: int = 224,
) -> tuple[list[Path], str]:
    """Write a backbone for another tool.

    Args: run_or_weights: as `load_network` takes it. to: one of FORMATS. out: the file; of detectron2 the folder.
        protocol, method: of detectron2, see `export_detectron2`. size_px: of onnx, side of the images that the graph is
        traced with, and takes.
    Returns: the files, and how they are loaded, for people.
    Raises: UserError: no such format, a network that the tool does not have, or a package that is not installed.
    """
    path, out = Path(run_or_weights), Path(out)
    if to not in FORMATS:
        raise UserError(f"--to {to}: allowed are {', '.join(FORMATS)}")
    if to != "detectron2" and (protocol or method):
        raise UserError("--protocol and --method are for --to detectron2")
    if to == "detectron2":
        if protocol is None:
            raise UserError("--to detectron2 needs --protocol: voc-ryali, coco-ryali, voc-cast or coco-cast")
        return export_detectron2(path, out, protocol=protocol, method=method), f"sh {out}/command.sh"
    backbone, _ = load_network(path)
    with disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        return [out], _WRITERS[to](backbone, out, size_px)


def _write_torchvision(backbone: Backbone, out: Path, size_px: int) -> str:
    _check_suffix(out, ".pth")
    if not backbone.name.startswith("resnet") or backbone.cifar_stem:
        raise UserError(f"torchvision has no {_words(backbone)}; take --to timm, safetensors or onnx")
    with written_aside(out) as aside:
        torch.save({name: value.contiguous() for name, value in backbone.state_dict().items()}, aside)
    return (
        f"network = torchvision.models.{backbone.name}(); "
        f"network.load_state_dict(torch.load('{out.name}', weights_only=True), strict=False)  # but for fc"
    )


def _write_timm(backbone: Backbone, out: Path, size_px: int) -> str:
    _check_suffix(out, ".safetensors")
    name = backbone.name.removeprefix(timm_family.PREFIX)
    if not backbone.name.startswith((timm_family.PREFIX, "resnet")):
        name = _TIMM_NAMES.get(name, "")
    if not name or backbone.cifar_stem:
        raise UserError(f"timm has no {_words(backbone)} under a name of ours; take --to safetensors or onnx")
    _save(backbone, out)
    return f"timm.create_model('{name}', num_classes=0, checkpoint_path='{out.name}')"


def _write_safetensors(backbone: Backbone, out: Path, size_px: int) -> str:
    _check_suffix(out, ".safetensors")
    _save(backbone, out)
    return f"safetensors.torch.load_file('{out.name}')"


def _write_onnx(backbone: Backbone, out: Path, size_px: int) -> str:
    _check_suffix(out, ".onnx")
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"--to onnx needs {error.name}: pip install 'backdrop-ssl[onnx]'") from error
    # Two images: a batch of one would be taken for a constant.
    example = torch.zeros(2, 3, size_px, size_px)
    batch = {0: torch.export.Dim("batch")}
    with written_aside(out) as aside:
        torch.onnx.export(
            backbone.eval(), (example,), str(aside), input_names=["image"], output_names=["feature"],
            dynamic_shapes={"image_BCHW": batch}, opset_version=_ONNX_VERSION, dynamo=True, external_data=False,
            verbose=False,
        )  # fmt: skip
    return f"onnxruntime.InferenceSession('{out.name}').run(None, {{'image': float32 (B, 3, {size_px}, {size_px})}})"


_WRITERS: dict[str, Callable[[Backbone, Path, int], str]] = {
    "torchvision": _write_torchvision,
    "timm": _write_timm,
    "safetensors": _write_safetensors,
    "onnx": _write_onnx,
}
FORMATS = (*_WRITERS, "detectron2")


def _save(backbone: Backbone, out: Path) -> None:
    named = {"backbone": backbone.name, "cifar_stem": str(backbone.cifar_stem).lower()}
    write_tensors(out, {name: value.contiguous() for name, value in backbone.state_dict().items()}, named)


def _words(backbone: Backbone) -> str:
    return f"{backbone.name} with cifar_stem" if backbone.cifar_stem else backbone.name


def _check_suffix(out: Path, suffix: str) -> None:
    if out.suffix != suffix:
        raise UserError(f"--out {out}: give a file that ends in {suffix}")
