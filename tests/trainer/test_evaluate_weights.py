"""Weights under every naming that release files have: the encoder that is evaluated, and no other, comes out."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from backdrop.errors import UserError
from backdrop.trainer.backbones import build_backbone
from backdrop.trainer.evaluation.harness import subject as _subject
from backdrop.trainer.evaluation.harness.subject import number_format, open_subject, untrained_like
from backdrop.trainer.evaluation.harness.weights import load_network
from backdrop.trainer.parts.backbones import Backbone

NUM_FEATURES = 512


def after(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in tensors.items()}


def _moco(own: dict[str, Tensor], other: dict[str, Tensor]) -> dict[str, Any]:
    """MoCo v2 and CAST: `main_moco.py` of both; the projection is called fc."""
    projection = {"fc.0.weight": torch.zeros(NUM_FEATURES, NUM_FEATURES), "fc.2.weight": torch.zeros(128, NUM_FEATURES)}
    state = after("module.encoder_q.", own | projection) | after("module.encoder_k.", other | projection)
    state |= {"module.queue": torch.zeros(128, 16), "module.queue_ptr": torch.zeros(1)}
    return {"epoch": 200, "arch": "resnet18", "state_dict": state, "optimizer": {"state": {}}}


def _swav(own: dict[str, Tensor], other: dict[str, Tensor]) -> dict[str, Any]:
    head = {"projection_head.0.weight": torch.zeros(64, NUM_FEATURES), "prototypes.weight": torch.zeros(30, 64)}
    return after("module.", own | head)


def _byol(own: dict[str, Tensor], other: dict[str, Tensor]) -> dict[str, Any]:
    state = after("module.online_network.encoder.", own) | after("module.target_network.encoder.", other)
    return {"epoch": 300, "model": state | {"module.predictor.net.0.weight": torch.zeros(8, 8)}}


def _classifier() -> dict[str, Tensor]:
    weight = torch.arange(1000 * NUM_FEATURES, dtype=torch.float32).reshape(1000, NUM_FEATURES) / 1e6
    return {"fc.weight": weight, "fc.bias": torch.arange(1000, dtype=torch.float32)}


# Name to (what the file holds, given the encoder and another one; whether a classifier is in it).
NAMINGS: dict[str, tuple[Callable[..., dict[str, Any]], bool]] = {
    "torchvision": (lambda own, other: own | _classifier(), True),
    "torchvision without a classifier": (lambda own, other: own, False),
    "moco and cast": (_moco, False),
    "moco's linear classifier": (lambda own, other: {"state_dict": after("module.", own | _classifier())}, True),
    "swav": (_swav, False),
    "byol": (_byol, False),
    "a backbone within a model": (lambda own, other: {"model_state_dict": after("module.backbone.", own)}, False),
    "an encoder by itself": (lambda own, other: after("encoder.", own), False),
}


@pytest.fixture(scope="module")
def networks() -> tuple[Backbone, Backbone]:
    """The encoder that is to be found, and one that is not."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return build_backbone("resnet18").eval(), build_backbone("resnet18").eval()


@pytest.mark.parametrize("naming", NAMINGS)
def test_release_files_give_their_encoder(naming: str, networks: tuple[Backbone, Backbone], tmp_path: Path) -> None:
    content_of, has_classifier = NAMINGS[naming]
    torch.save(content_of(*(network.state_dict() for network in networks)), tmp_path / "release.pth.tar")
    backbone, head = load_network(tmp_path / "release.pth.tar")
    expected = networks[0].state_dict()
    assert backbone.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in backbone.state_dict().items())
    assert not backbone.training
    assert (head is not None) == has_classifier
    if head is not None:
        assert torch.equal(head.weight, _classifier()["fc.weight"])
        assert torch.equal(head.bias, _classifier()["fc.bias"])


def test_the_same_weights_are_the_same_subject_in_any_file(networks: tuple[Backbone, Backbone], tmp_path: Path) -> None:
    state = networks[0].state_dict()
    save_file(state, tmp_path / "ours.safetensors")
    torch.save(_moco(state, networks[1].state_dict()), tmp_path / "theirs.pth.tar")
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
    torch.save(networks[0].state_dict() | _classifier(), tmp_path / "weights.pth")
    exact = open_subject(tmp_path / "weights.pth", torch.device("cpu"))
    monkeypatch.setattr(_subject, "number_format", lambda device: torch.bfloat16)
    short = open_subject(tmp_path / "weights.pth", torch.device("cpu"))
    assert (exact.precision, short.precision) == ("float32", "bfloat16")
    image_BCHW = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        feature_BD, rounded_BD = exact.backbone(image_BCHW), short.backbone(image_BCHW)
    assert rounded_BD.dtype == torch.float32
    assert 0 < (feature_BD - rounded_BD).abs().max() < 0.05 * feature_BD.abs().max()
