"""Exported backbones, loaded as their tools do, give the same features; what a tool does not have is refused."""

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torchvision

from backdrop.errors import UserError
from backdrop.trainer.backbone_export import FORMATS, export_backbone
from backdrop.trainer.backbones import build_backbone
from backdrop.trainer.commands import export_backbone_command
from backdrop.trainer.parts.backbones import Backbone
from backdrop.trainer.run import checkpoint


def saved(folder: Path, name: str, *, cifar_stem: bool = False) -> tuple[Backbone, Path]:
    """A backbone with weights drawn here, and its file."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = build_backbone(name, cifar_stem=cifar_stem).eval()
    return backbone, checkpoint.save_backbone(folder, backbone, name=name, cifar_stem=cifar_stem)


IMAGE = torch.linspace(-2, 2, 2 * 3 * 64 * 64).view(2, 3, 64, 64).sin()


@torch.no_grad()
def test_torchvision_loads_a_resnet(tmp_path: Path) -> None:
    backbone, weights = saved(tmp_path, "resnet18")
    (file,), how = export_backbone(weights, "torchvision", tmp_path / "x.pth")
    network = torchvision.models.resnet18()
    missing = network.load_state_dict(torch.load(file, weights_only=True), strict=False)
    assert (missing.missing_keys, missing.unexpected_keys) == (["fc.weight", "fc.bias"], [])
    network.fc = torch.nn.Identity()
    torch.testing.assert_close(network.eval()(IMAGE), backbone(IMAGE))
    assert "torchvision.models.resnet18()" in how


@torch.no_grad()
@pytest.mark.parametrize(("name", "theirs"), [("resnet18", "resnet18"), ("timm:resnet10t", "resnet10t")])
def test_timm_loads_what_it_has(name: str, theirs: str, tmp_path: Path) -> None:
    backbone, weights = saved(tmp_path, name)
    (file,), how = export_backbone(weights, "timm", tmp_path / "x.safetensors")
    network = timm.create_model(theirs, num_classes=0, checkpoint_path=str(file)).eval()
    torch.testing.assert_close(network(IMAGE), backbone(IMAGE))
    assert f"'{theirs}'" in how


@torch.no_grad()
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "theirs"), [("vit_ti16", "vit_tiny_patch16_224"), ("vit_s16", "vit_small_patch16_224")]
)
def test_timm_loads_a_vit(name: str, theirs: str, tmp_path: Path) -> None:
    backbone, weights = saved(tmp_path, name)
    (file,), how = export_backbone(weights, "timm", tmp_path / "x.safetensors")
    network = timm.create_model(theirs, num_classes=0, checkpoint_path=str(file)).eval()
    image = torch.nn.functional.interpolate(IMAGE, size=224)
    tokens_BND = network.forward_features(image)[:, network.num_prefix_tokens :]
    torch.testing.assert_close(tokens_BND.mean(dim=1), backbone(image), atol=1e-4, rtol=1e-4)
    assert f"'{theirs}'" in how


def test_safetensors_says_what_it_holds(tmp_path: Path) -> None:
    backbone, weights = saved(tmp_path, "resnet18", cifar_stem=True)
    (file,), _ = export_backbone(weights, "safetensors", tmp_path / "x.safetensors")
    loaded = safetensors.torch.load_file(file)
    assert all(torch.equal(loaded[name], value) for name, value in backbone.state_dict().items())
    assert checkpoint.name_of_backbone(file) == ("resnet18", True)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_onnx_gives_the_same_features(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    backbone, weights = saved(tmp_path, "resnet18")
    (file,), _ = export_backbone(weights, "onnx", tmp_path / "x.onnx", size_px=64)
    session = onnxruntime.InferenceSession(str(file))
    for images in (IMAGE, torch.cat([IMAGE, IMAGE[:1]])):
        (feature_BD,) = session.run(None, {"image": images.numpy()})
        np.testing.assert_allclose(feature_BD, backbone(images).detach().numpy(), atol=1e-3, rtol=1e-3)


def test_what_a_tool_does_not_have_is_refused(tmp_path: Path) -> None:
    _, small = saved(tmp_path, "resnet18", cifar_stem=True)
    for to, name in (("torchvision", "x.pth"), ("timm", "x.safetensors")):
        with pytest.raises(UserError, match="no resnet18 with cifar_stem"):
            export_backbone(small, to, tmp_path / name)
    for words, message in (
        ({"to": "torchvision", "out": tmp_path / "x.bin"}, r"ends in \.pth"),
        ({"to": "keras", "out": tmp_path / "x"}, "torchvision, timm, safetensors, onnx, detectron2"),
        ({"to": "detectron2", "out": tmp_path / "x"}, "--protocol: voc-ryali"),
        ({"to": "timm", "out": tmp_path / "x.safetensors", "method": "moco"}, "for --to detectron2"),
    ):
        with pytest.raises(UserError, match=message):
            export_backbone(small, **words)


def test_the_command_has_every_format() -> None:
    assert next(each.type.choices for each in export_backbone_command.params if each.name == "to") == FORMATS
