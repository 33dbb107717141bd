"""Weights under every naming that release files have: the encoder that is evaluated, and no other, comes out."""

import copy
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from backdrop.errors import UserError
from backdrop.saliency.networks.vit import VITS
from backdrop.trainer.backbones import build_backbone, vit
from backdrop.trainer.evaluation.harness import subject as _subject
from backdrop.trainer.evaluation.harness.subject import number_format, open_subject, untrained_like
from backdrop.trainer.evaluation.harness.weights import load_network
from backdrop.trainer.parts.backbones import Backbone
from tests.material.published_resnets import RESNET_FILES, WITH_CLASSIFIER, after, classifier
from tests.material.published_vits import dino_tensors


@pytest.fixture(scope="module")
def networks() -> tuple[Backbone, Backbone]:
    """The encoder that is to be found, and one that is not."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return build_backbone("resnet18").eval(), build_backbone("resnet18").eval()


@pytest.mark.parametrize("naming", RESNET_FILES)
def test_release_files_give_their_encoder(naming: str, networks: tuple[Backbone, Backbone], tmp_path: Path) -> None:
    own, other = (network.state_dict() for network in networks)
    torch.save(RESNET_FILES[naming](own, other), tmp_path / "release.pth.tar")
    backbone, head = load_network(tmp_path / "release.pth.tar")
    assert backbone.state_dict().keys() == own.keys()
    assert all(torch.equal(value, own[name]) for name, value in backbone.state_dict().items())
    assert not backbone.training
    assert (head is not None) == (naming in WITH_CLASSIFIER)
    if head is not None:
        assert torch.equal(head.weight, classifier(own)["fc.weight"])
        assert torch.equal(head.bias, classifier(own)["fc.bias"])


def test_outputs_of_a_file_are_torchvisions_own(
    networks: tuple[Backbone, Backbone], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own, other = (network.state_dict() for network in networks)
    theirs = torchvision.models.resnet18(weights=None).eval()
    theirs.load_state_dict(own | classifier(own))
    torch.save(RESNET_FILES["moco's linear classifier"](own, other), tmp_path / "release.pth.tar")
    backbone, head = load_network(tmp_path / "release.pth.tar")
    assert head is not None
    assert capsys.readouterr().err == "release.pth.tar: resnet18\n"
    image_BCHW = torch.randn(2, 3, 48, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(head(backbone(image_BCHW)), theirs(image_BCHW))
    torch.save(RESNET_FILES["moco-v2 and cast"](own, other), tmp_path / "moco.pth.tar")
    load_network(tmp_path / "moco.pth.tar")
    assert "resnet18; 128 other tensors left, such as module.encoder_k.bn1.bias" in capsys.readouterr().err


def test_a_published_vit_is_scored_with_timms_own_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timm = pytest.importorskip("timm")
    monkeypatch.setitem(VITS, "vit_tiny", replace(VITS["vit_s16"], width=64, num_heads=1, num_blocks=2))
    monkeypatch.setattr(vit, "NAMES", tuple(VITS))
    own = dino_tensors(width=64, num_blocks=2)
    torch.save({"teacher": after("backbone.", own)}, tmp_path / "dino.pth")
    backbone, head = load_network(tmp_path / "dino.pth")
    theirs = timm.models.VisionTransformer(embed_dim=64, depth=2, num_heads=1, num_classes=0).eval()
    theirs.load_state_dict(own)
    image_BCHW = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        tokens_BTD = theirs.forward_features(image_BCHW)
        torch.testing.assert_close(backbone(image_BCHW), tokens_BTD[:, 1:].mean(dim=1), rtol=1e-4, atol=1e-5)
    assert head is None
    assert backbone.state_dict().keys() == own.keys()
    with pytest.raises(UserError, match=r"whole patches of 16 px, not 224 x 90; set views\.size_px=224"):
        backbone(image_BCHW[..., :90])
    torch.save(dino_tensors(width=128, num_blocks=1), tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"holds DINO: width 128, 2 heads.*which is none of vit_ti16, vit_s16"):
        load_network(tmp_path / "other.pth")


def test_the_same_weights_are_the_same_subject_in_any_file(networks: tuple[Backbone, Backbone], tmp_path: Path) -> None:
    state = networks[0].state_dict()
    save_file(state, tmp_path / "ours.safetensors")
    torch.save(RESNET_FILES["moco-v2 and cast"](state, networks[1].state_dict()), tmp_path / "theirs.pth.tar")
    cpu = torch.device("cpu")
    one, other = (open_subject(tmp_path / name, cpu) for name in ("ours.safetensors", "theirs.pth.tar"))
    assert one.weights_sha256 == other.weights_sha256


def test_nothing_of_a_trained_network_is_left_in_its_untrained_one() -> None:
    """Biases of convolutions among it, which AlexNet has."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = Backbone({"conv": nn.Conv2d(3, 64, 5), "bn": nn.BatchNorm2d(64)}, 64)
        plain = Backbone({"conv": nn.Conv2d(3, 64, 5, bias=False)}, 64)
    trained = [copy.deepcopy(each) for each in (drawn, plain)]
    for each in trained:
        for value in each.state_dict().values():
            value += 1
    untrained, untrained_plain = (untrained_like(each) for each in trained)
    for name, value in drawn.state_dict().items():
        assert torch.equal(untrained.state_dict()[name], value), name
    weight = untrained_plain.conv.weight.detach()
    assert abs(float(weight.mean())) < 0.01
    assert float(weight.std()) == pytest.approx((2 / (64 * 25)) ** 0.5, rel=0.05)  # He et al. 2015, fan-out


def test_files_of_another_kind_are_refused(networks: tuple[Backbone, Backbone], tmp_path: Path) -> None:
    class Code:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "ran",))

    (tmp_path / "code.pth").write_bytes(pickle.dumps({"state_dict": Code()}, protocol=2))
    with pytest.raises(UserError, match="cannot be read as weights: it holds other things than tensors") as refused:
        load_network(tmp_path / "code.pth")
    assert "weights_only" not in str(refused.value), "torch would have the user let code run"
    assert not (tmp_path / "ran").exists()
    torch.save({"transformer.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"no weights of a ResNet.*transformer\.weight"):
        load_network(tmp_path / "other.pth")
    state = networks[0].state_dict()
    save_file({name: value for name, value in state.items() if "layer4.1" not in name}, tmp_path / "cut.safetensors")
    with pytest.raises(UserError, match=r"stages of \[2, 2, 2, 1\] blocks"):
        load_network(tmp_path / "cut.safetensors")
    with pytest.raises(UserError, match="there is nothing at"):
        load_network(tmp_path / "nowhere")


def test_convolutions_are_short_on_a_gpu_and_answers_stay_float32(
    networks: tuple[Backbone, Backbone], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert number_format(torch.device("cuda")) is torch.bfloat16
    assert number_format(torch.device("cpu")) is None
    torch.save(networks[0].state_dict() | classifier(networks[0].state_dict()), tmp_path / "weights.pth")
    exact = open_subject(tmp_path / "weights.pth", torch.device("cpu"))
    monkeypatch.setattr(_subject, "number_format", lambda device: torch.bfloat16)
    short = open_subject(tmp_path / "weights.pth", torch.device("cpu"))
    assert (exact.precision, short.precision) == ("float32", "bfloat16")
    image_BCHW = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        feature_BD, rounded_BD = exact.backbone(image_BCHW), short.backbone(image_BCHW)
    assert rounded_BD.dtype == torch.float32
    assert 0 < (feature_BD - rounded_BD).abs().max() < 0.05 * feature_BD.abs().max()
