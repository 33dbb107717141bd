"""Published weights: files with exactly the published names and shapes give timm's own outputs, or are refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from backdrop.errors import UserError
from backdrop.saliency.networks.published_weights import load_vit
from backdrop.saliency.networks.vit import resized_positions
from backdrop.saliency.networks.weight_names import prefix_of
from tests.material.published_vits import dino_tensors, dinov2_tensors, random_tensors

pytestmark = pytest.mark.usefixtures("one_thread")


def dinov2_in_timms_names(own: dict[str, Tensor]) -> dict[str, Tensor]:
    theirs = {name: value for name, value in own.items() if name not in ("mask_token", "register_tokens")}
    if "register_tokens" in own:
        theirs["reg_token"] = own["register_tokens"]
        theirs["cls_token"] = own["cls_token"] + own["pos_embed"][:, :1]
        theirs["pos_embed"] = own["pos_embed"][:, 1:]
    return theirs


def mae_file(own: dict[str, Tensor]) -> dict:
    """mae_visualize_vit_base.pth: a decoder and what replaces masked patches beside the encoder, in `model`."""
    decoder = random_tensors({"mask_token": (1, 1, 512), "decoder_embed.weight": (512, own["norm.bias"].numel())}, 3)
    own["pos_embed"][:, 0] = 0  # sines and cosines, of which CLS has none
    return {"model": {**own, **decoder}}


def moco_v3_file(own: dict[str, Tensor]) -> dict:
    """vit-s-300ep.pth.tar: encoder with a projector for its head, momentum encoder, predictor."""
    projector = random_tensors({"head.0.weight": (4096, own["norm.bias"].numel()), "head.1.bias": (4096,)}, 3)
    own["pos_embed"][:, 0] = 0
    base = {f"module.base_encoder.{name}": value for name, value in {**own, **projector}.items()}
    momentum = {f"module.momentum_encoder.{name}": value + 1 for name, value in own.items()}
    predictor = random_tensors({"module.predictor.0.weight": (4096, 256)}, 4)
    return {"epoch": 300, "arch": "vit_small", "state_dict": {**base, **momentum, **predictor}, "optimizer": {}}


# own tensors -> (content of the file, timm's names, timm's model and its options), and what is said of it
FILES: dict[str, tuple[Callable[[], dict[str, Tensor]], Callable, str, dict, str]] = {
    "dino_deitsmall16": (dino_tensors, dict, "vit_small_patch16_224", {}, "DINO: width 384, 6 heads"),
    "dino_deitsmall8_300ep": (
        lambda: dino_tensors(patch_px=8, side=28), dict, "vit_small_patch8_224", {}, "12 blocks, patch 8",
    ),
    "dino_vitbase16": (
        lambda: dino_tensors(width=768, num_blocks=3), dict, "vit_base_patch16_224", {"depth": 3}, "12 heads, 3 blocks",
    ),
    "dinov2_vits14": (
        lambda: dinov2_tensors(num_blocks=3), dict, "vit_small_patch14_dinov2", {"depth": 3}, "DINOv2: width 384",
    ),
    "dinov2_vits14_reg4": (
        lambda: dinov2_tensors(num_registers=4, num_blocks=3), dict, "vit_small_patch14_reg4_dinov2", {"depth": 3},
        "DINOv2 with registers",
    ),
    "mae_visualize_vit_base": (
        lambda: dino_tensors(width=768, num_blocks=3), mae_file, "vit_base_patch16_224", {"depth": 3}, "MAE: width 768",
    ),
    "moco_v3_vit_s": (
        dino_tensors, moco_v3_file, "vit_small_patch16_224", {"num_heads": 12}, "MoCo-v3: width 384, 12 heads",
    ),
}  # fmt: skip


# The three whole files of DINO's and MoCo-v3's kind differ in size alone: one of them by default.
LARGE = ("dino_deitsmall16", "dino_deitsmall8_300ep")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in LARGE)) for n in FILES])
def test_tokens_and_keys_are_timms(name: str, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    tensors, content_of, model_name, options, said = FILES[name]
    own = tensors()
    torch.save(content_of(own), tmp_path / f"{name}.pth")
    found = load_vit(tmp_path / f"{name}.pth")
    assert said in found.recognised
    theirs = timm.create_model(model_name, pretrained=False, num_classes=0, **options).eval()
    theirs.load_state_dict(dinov2_in_timms_names(own), strict=True)
    side_px = found.network.shape.patch_px * found.network.shape.position_side
    images = torch.randn(2, 3, side_px, side_px, generator=torch.Generator().manual_seed(9))
    seen = []
    theirs.blocks[-1].attn.qkv.register_forward_hook(lambda layer, inputs, output: seen.append(output))
    with torch.no_grad():
        torch.testing.assert_close(found.network(images), theirs.forward_features(images), rtol=1e-4, atol=1e-4)
        queries, keys = found.network.last_queries_keys(images)
    width = found.network.shape.width
    for number, part in enumerate((queries, keys)):
        side_by_side = part.transpose(1, 2).flatten(2)
        expected = seen[0][..., number * width : (number + 1) * width]
        torch.testing.assert_close(side_by_side, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["dino_deitsmall16", "dinov2_vits14_reg4", "moco_v3_vit_s"])
def test_what_was_left_out_is_named(name: str, tmp_path: Path) -> None:
    tensors, content_of, *_ = FILES[name]
    torch.save(content_of(tensors()), tmp_path / "weights.pth")
    left = load_vit(tmp_path / "weights.pth").left_out
    if name == "dino_deitsmall16":
        assert left == ()
    elif name == "dinov2_vits14_reg4":
        assert left == ("mask_token",)
    else:
        assert {"module.base_encoder.head.0.weight", "module.predictor.0.weight"} < set(left)
        assert not any(one.startswith("module.base_encoder.blocks") for one in left)


def test_registers_of_timm_and_other_sizes_are_timms(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    theirs = timm.create_model(
        "vit_small_patch14_reg4_dinov2", pretrained=False, num_classes=0, dynamic_img_size=True, depth=2
    ).eval()
    own = dinov2_in_timms_names(dinov2_tensors(num_registers=4, num_blocks=2))
    theirs.load_state_dict(own, strict=True)
    save_file(own, tmp_path / "weights.safetensors")
    found = load_vit(tmp_path / "weights.safetensors")
    images = torch.randn(1, 3, 14 * 9, 14 * 12, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        torch.testing.assert_close(found.network(images), theirs.forward_features(images), rtol=1e-4, atol=1e-4)


CONTAINERS: dict[str, Callable[[dict], dict]] = {
    "solo-learn": lambda own: {"state_dict": {f"backbone.{name}": value for name, value in own.items()}},
    "lightly": lambda own: {"state_dict": {f"backbone.vit.{name}": value for name, value in own.items()}},
    "DINO's teacher": lambda own: {
        "student": {f"module.backbone.{name}": value + 1 for name, value in own.items()},
        "teacher": {f"backbone.{name}": value for name, value in own.items()},
    },
    "without an entry": lambda own: own,
}


@pytest.mark.parametrize("kind", CONTAINERS)
def test_the_same_network_is_read_from_every_container(kind: str, tmp_path: Path) -> None:
    own = dino_tensors(width=64, patch_px=8, side=4, num_blocks=2)
    torch.save(CONTAINERS[kind](own), tmp_path / "weights.pt")
    found = load_vit(tmp_path / "weights.pt")
    state = found.network.state_dict()
    assert state.keys() == own.keys()
    assert all(torch.equal(state[name], value) for name, value in own.items())
    save_file(own, tmp_path / "same.safetensors")
    assert load_vit(tmp_path / "same.safetensors").weights_sha256 == found.weights_sha256


def test_positions_without_a_learnt_one_for_cls_are_fixed_ones(tmp_path: Path) -> None:
    """MoCo-v3's ViT-S has 12 heads; a file that says no more than its tensors is known by its positions."""
    own = dino_tensors(num_blocks=1)
    own["pos_embed"][:, 0] = 0
    torch.save(own, tmp_path / "vit-s.pth")
    network = load_vit(tmp_path / "vit-s.pth").network
    assert (network.shape.num_heads, network.shape.position_rule) == (12, "size")


REFUSED: dict[str, tuple[Callable[[dict], object], str]] = {
    "another network": (lambda own: {"conv1.weight": own["cls_token"]}, "no weights of a vision transformer.*conv1"),
    "a layer too few": (
        lambda own: {n: v for n, v in own.items() if "blocks.1.norm1" not in n},
        "lacks blocks.1.norm1",
    ),
    "a layer too many": (lambda own: own | {"blocks.0.extra": own["norm.bias"]}, "blocks.0.extra is no part"),
    "another shape": (lambda own: own | {"norm.bias": own["cls_token"]}, r"norm.bias is \(1, 1, 64\), not \(64,\)"),
    "no square of positions": (lambda own: own | {"pos_embed": own["pos_embed"][:, :-1]}, "pos_embed is"),
    "DINOv3": (lambda own: own | {"rope_embed.periods": own["norm.bias"]}, "DINOv3"),
    "a giant's layers": (lambda own: own | {"blocks.0.mlp.w12.weight": own["norm.bias"]}, "gated"),
    "a giant's layers in timm's names": (
        lambda own: own | {"blocks.0.mlp.fc1.weight": own["blocks.0.mlp.fc1.weight"][:200].clone()},
        "gated",
    ),
    "DINOv3 in timm's names": (lambda own: own | {"blocks.0.gamma_1": own["norm.bias"].clone()}, "DINOv3"),
    "code": (lambda own: {"args": Path("x"), **own}, "holds other things than tensors"),
    "a tensor": (lambda own: own["norm.bias"], "no dictionary of tensors"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_does_not_fit_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    spoilt, message = REFUSED[kind]
    torch.save(spoilt(dino_tensors(width=64, patch_px=8, side=4, num_blocks=2)), tmp_path / "weights.pth")
    with pytest.raises(UserError, match=message):
        load_vit(tmp_path / "weights.pth")


def test_an_absent_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no file"):
        load_vit(tmp_path / "weights.pth")


def test_the_longest_prefix_counts() -> None:
    assert prefix_of(["module.base_encoder.conv1.weight", "module.conv1.weight"], "conv1.weight") == (
        "module.base_encoder."
    )
    assert prefix_of(["conv1.weight"], "conv1.weight") == ""
    assert prefix_of(["other.conv1.weight"], "conv1.weight") is None


@pytest.mark.parametrize("rule", ["offset", "size", "antialias"])
@pytest.mark.parametrize("size", [(5, 7), (3, 6)])
def test_positions_are_resized_as_their_authors_do(shared_data: Path, rule: str, size: tuple[int, int]) -> None:
    goldens = np.load(shared_data / "feature-goldens.npz", allow_pickle=False)
    expected = torch.from_numpy(goldens[f"position/{rule}_{size[0]}x{size[1]}"])
    found = resized_positions(torch.from_numpy(goldens["position/embedding"]), size, rule)  # type: ignore[arg-type]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_positions_of_the_stored_size_stay() -> None:
    position_1TD = torch.randn(1, 17, 3)
    for rule in ("offset", "size", "antialias"):
        assert torch.equal(resized_positions(position_1TD, (4, 4), rule), position_1TD)  # type: ignore[arg-type]
