"""Contract of `trainer/backbones/`: every file's networks, timm's own features, and a plug-in that trains."""

import copy
import os
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from backdrop.errors import UserError
from backdrop.open_sets import PLUGINS_VARIABLE
from backdrop.trainer import backbone_names as backbone_names_of_the_shell
from backdrop.trainer.backbones import BACKBONES, backbone_names, build_backbone, find
from backdrop.trainer.evaluation.harness.subject import untrained_like
from backdrop.trainer.evaluation.harness.weights import load_network
from backdrop.trainer.parts import momentum_encoder
from backdrop.trainer.parts.backbones import Backbone
from backdrop.trainer.parts.split_batch_norm import SplitBatchNorm2d, split_batch_norms
from backdrop.trainer.parts.sync_batch_norm import synchronise_batch_norms
from backdrop.trainer.run import checkpoint
from backdrop.trainer.run.published_network import published_network

VIT = "timm:vit_tiny_patch16_224"
# Each family's smallest network, and one of timm's for each form of its features.
TIMM = (VIT, "timm:test_resnet", "timm:test_convnext", "timm:test_efficientnet", "timm:test_vit2")
NAMES = ("resnet18", "alexnet", "alexnet_bn", "drn_d_22", "vit_ti16", *TIMM)
SIDE_PX = 64


def built(name: str, seed: int = 0) -> Backbone:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build_backbone(name)


def images(side_px: int = SIDE_PX) -> torch.Tensor:
    return torch.randn(2, 3, side_px, side_px, generator=torch.Generator().manual_seed(0))


def test_every_family_is_tested_and_says_what_it_serves() -> None:
    assert {id(find(name)) for name in NAMES} == {id(BACKBONES.load(member)) for member in BACKBONES.built_in()}
    assert {"resnet50", "drn_d_105", "drn_d_small", "timm:NAME"} <= set(backbone_names())
    assert "drn_d_small_skips" not in backbone_names()  # its backbone is drn_d_small


def test_the_shell_is_offered_every_name_without_asking_the_families() -> None:
    assert {*backbone_names()} - {"timm:NAME"} == {*backbone_names_of_the_shell.BUILT_IN}
    assert set(timm.list_models()) == set(backbone_names_of_the_shell.timm_names())
    assert backbone_names_of_the_shell.completed(None, None, "resnet1") == ["resnet18", "resnet101", "resnet152"]
    assert "timm:" in backbone_names_of_the_shell.completed(None, None, "")
    assert VIT in backbone_names_of_the_shell.completed(None, None, "timm:vit_tiny")


@pytest.mark.parametrize("name", NAMES)
def test_map_and_vector_have_their_shapes_and_gradients_reach_every_parameter(name: str) -> None:
    backbone = built(name)
    map_BDhw = backbone.forward_map(images())
    assert map_BDhw.dtype == torch.float32
    assert map_BDhw.shape[:2] == (2, backbone.num_features)
    # A sum would not do: a last LayerNorm makes it a constant of all before it.
    (map_BDhw * torch.randn(map_BDhw.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
    assert [key for key, value in backbone.named_parameters() if value.grad is None] == []
    backbone.eval()
    with torch.no_grad():
        torch.testing.assert_close(backbone(images()), backbone.forward_map(images()).mean(dim=(2, 3)))


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_gives_the_same_weights_and_no_trained_value_outlives_a_reset(name: str) -> None:
    one, same, other = built(name), built(name), built(name, seed=1)
    assert all(torch.equal(value, same.state_dict()[key]) for key, value in one.state_dict().items())
    assert any(not torch.equal(value, other.state_dict()[key]) for key, value in one.state_dict().items())
    trained = copy.deepcopy(one)
    with torch.no_grad():
        for value in trained.state_dict().values():
            value.add_(1)
    untrained, again = untrained_like(trained), untrained_like(trained)
    for key, value in untrained.state_dict().items():
        assert not torch.equal(value, trained.state_dict()[key]), key
        assert torch.equal(value, again.state_dict()[key]), key


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_read_back_from_the_file_of_a_run(name: str, tmp_path: Path) -> None:
    backbone = built(name).eval()
    path = checkpoint.save_backbone(tmp_path, backbone, name=name, cifar_stem=False)
    read, head = load_network(path)
    assert head is None
    with torch.no_grad():
        assert torch.equal(read(images()), backbone(images()))


@pytest.mark.parametrize("name", TIMM)
def test_maps_and_names_are_timms_own(name: str) -> None:
    timm = pytest.importorskip("timm")
    backbone = built(name).eval()
    options = {"dynamic_img_size": True} if "vit" in name else {}
    theirs = timm.create_model(name.removeprefix("timm:"), pretrained=False, num_classes=0, **options).eval()
    missing, unexpected = theirs.load_state_dict(backbone.state_dict(), strict=False)
    assert unexpected == []
    assert all(key.split(".")[0] in ("head", "fc_norm", "head_norm") for key in missing)
    with torch.no_grad():
        features, found = theirs.forward_features(images()), backbone.forward_map(images())
    if features.ndim == 4:
        assert torch.equal(found, features)
        return
    # Row by row, token by token: 4 x 4 patches of 16 px.
    first = theirs.num_prefix_tokens
    assert found.shape[2:] == (4, 4)
    for row in range(4):
        for column in range(4):
            assert torch.equal(found[:, :, row, column], features[:, first + 4 * row + column])


def test_batch_norms_with_an_activation_inside_are_split_too() -> None:
    network = split_batch_norms(built("timm:test_efficientnet"), 2).train()
    image_BCHW = torch.randn(4, 3, SIDE_PX, SIDE_PX, generator=torch.Generator().manual_seed(0))
    kinds = {type(layer) for layer in network.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)}
    assert kinds == {SplitBatchNorm2d}
    apart = torch.cat([network(part) for part in image_BCHW.split(2)])
    torch.testing.assert_close(network(image_BCHW), apart, rtol=1e-5, atol=1e-5)


def test_batch_norms_that_cannot_be_split_are_refused() -> None:
    class Other(nn.BatchNorm2d):
        pass

    with pytest.raises(UserError, match=r"network's 1 is a Other.*algorithm.shuffle_bn_group=0"):
        split_batch_norms(nn.Sequential(nn.Conv2d(3, 4, 3), Other(4)), 2)
    with pytest.raises(UserError, match="network's 0 is a Other"):
        synchronise_batch_norms(nn.Sequential(Other(4)), None, device=torch.device("cpu"))


def test_a_network_of_one_size_refuses_another() -> None:
    backbone = built(VIT)
    backbone.network.dynamic_img_size = backbone.network.patch_embed.dynamic_img_size = False
    with pytest.raises(UserError, match=r"images of 224 x 224 px alone, not 64 x 64; set views\.size_px=224"):
        backbone(images())


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match="Did you mean resnet50"):
        build_backbone("resnet5O")
    with pytest.raises(UserError, match="Did you mean timm:vit_tiny_patch16_224"):
        build_backbone("timm:vit_tiny_patch16_22")


def test_without_timm_a_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(UserError, match="pip install timm"):
        build_backbone(VIT)


def test_a_layout_with_layers_that_a_resnet_lacks_is_not_taken_for_one() -> None:
    tensors = built("resnet18").state_dict() | {"layer1.0.se.fc1.weight": torch.zeros(4)}
    with pytest.raises(UserError, match=r"no resnet18: it has no layer1\.0\.se"):
        published_network(tensors, "a file")
    with pytest.raises(UserError, match="nor of another backbone"):
        published_network(built("timm:test_convnext").state_dict(), "a file")


def test_a_backbone_of_a_plug_in_file_trains_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = tmp_path / "smallvit.py"
    plugin.write_text(
        'BACKDROP_SET = "backbones"\n'
        "from backdrop.trainer.backbones import timm\n"
        'NAMES, PREFIX, HAS_CIFAR_STEM, CELL_PX = ("smallvit",), "", False, 16\n'
        "def build(name, *, cifar_stem):\n"
        '    return timm.build("timm:test_vit2", cifar_stem=False)\n'
        "def published(tensors, what):\n"
        "    return None\n"
    )
    monkeypatch.setenv(PLUGINS_VARIABLE, os.fspath(plugin))
    backbone = built("smallvit")
    method = momentum_encoder.frozen_copy(backbone)
    before = copy.deepcopy(backbone.state_dict())
    optimiser = torch.optim.SGD(backbone.parameters(), lr=0.1)
    (backbone(images()) * torch.linspace(-1, 1, backbone.num_features)).sum().backward()
    optimiser.step()
    momentum_encoder.update_momentum(method, backbone, 0.5)
    moved = [key for key, value in method.state_dict().items() if not torch.equal(value, before[key])]
    assert moved
    plugin.write_text(plugin.read_text().replace('("smallvit",)', '("resnet50",)'))
    monkeypatch.setenv(PLUGINS_VARIABLE, os.fspath(plugin.rename(tmp_path / "another.py")))
    with pytest.raises(UserError, match="served by another and resnet"):
        build_backbone("resnet50")
