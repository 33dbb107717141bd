"""DeepUSPS2 on a ResNet-50 of stride 8: timm's own maps, every published naming, a training from a file."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor

from backdrop.errors import UserError
from backdrop.saliency.deepusps2.deepusps import initial_weights, train
from backdrop.saliency.deepusps2.settings import choose_settings, fine_tunes
from backdrop.saliency.detectors import open_detector
from backdrop.saliency.networks.drn import DrnSegmenter
from backdrop.saliency.networks.published_weights import SWAV_STD, load_resnet50
from backdrop.saliency.networks.resnet import DilatedResNet50
from backdrop.saliency.trained_detector.drn_detector import DetectorDescription, load_detector, save_detector
from backdrop.stores.datasets import open_index
from tests.material.published_resnets import RESNET_FILES, after, without_counts
from tests.material.published_vits import tiny_dino
from tests.material.small_images import make_images

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def encoder() -> dict[str, Tensor]:
    """A ResNet-50 under torchvision's names without its classifier, of values that tell layers apart."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = torchvision.models.resnet50(weights=None)
    own = {name: value for name, value in network.state_dict().items() if not name.startswith("fc.")}
    assert len(own) == 318
    return {name: value + 0.01 if value.dtype == torch.float32 else value + 7 for name, value in own.items()}


# The others differ from one of these in what stands before the names alone, which the trainer's tests go through.
FILES = ("moco-v3", "swav", "barlow twins' and vicreg's checkpoint", "lightly", "without counts of batches")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n not in FILES)) for n in RESNET_FILES])
def test_every_published_naming_is_read(name: str, encoder: dict[str, Tensor], tmp_path: Path) -> None:
    content = RESNET_FILES[name](encoder, {key: value + 1 for key, value in encoder.items()})
    torch.save(content, tmp_path / "weights.pth.tar")
    published = load_resnet50(tmp_path / "weights.pth.tar")
    found, left_out = published.network.state_dict(), published.left_out
    assert (published.std_RGB == SWAV_STD) == (name == "swav")
    assert found.keys() == encoder.keys()
    is_counted = name != "without counts of batches"
    for key, value in found.items():
        has_it = is_counted or not key.endswith("num_batches_tracked")
        assert torch.equal(value, encoder[key] if has_it else torch.tensor(0)), key
    entries = ("state_dict", "model", "model_state_dict", "teacher")
    inner = next((content[entry] for entry in entries if entry in content), content)
    assert len(left_out) == len(inner) - len(encoder if is_counted else without_counts(encoder))


@pytest.mark.parametrize(
    ("spoilt", "message"),
    [
        (lambda own: {"blocks.0.attn": own["bn1.bias"]}, "no weights of a ResNet.*blocks.0.attn"),
        (lambda own: {n: v for n, v in own.items() if not n.startswith("layer3.5")}, "lacks layer3.5"),
        (lambda own: own | {"layer3.6.bn1.bias": own["bn1.bias"].clone()}, r"layer3.6.bn1.bias is no part of one"),
        (lambda own: own | {"bn1.bias": own["bn1.bias"][:3].clone()}, r"bn1.bias is \(3,\), not \(64,\)"),
    ],
)
def test_what_is_no_resnet50_is_refused(
    spoilt: Callable, message: str, encoder: dict[str, Tensor], tmp_path: Path
) -> None:
    save_file(spoilt(encoder), tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match=message):
        load_resnet50(tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match="no file"):
        load_resnet50(tmp_path / "absent.pth")


def test_maps_are_timms_at_an_eighth(encoder: dict[str, Tensor]) -> None:
    timm = pytest.importorskip("timm")
    own = DilatedResNet50().eval()
    own.load_state_dict(encoder)
    theirs = timm.create_model("resnet50", pretrained=False, num_classes=0, output_stride=8).eval()
    theirs.load_state_dict(encoder)
    images = torch.randn(1, 3, 64, 88, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found, expected = own(images), theirs.forward_features(images)
    assert found.shape == (1, 2048, 8, 11)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_training_starts_from_a_file_with_a_head_of_its_own_size(encoder: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({"state_dict": after("module.encoder_q.", encoder)}, tmp_path / "moco.pth.tar")
    settings = choose_settings("paper", ["architecture=resnet50_s8"])
    assert settings.head_init_std == 0.01
    assert fine_tunes(settings)
    assert choose_settings("paper", ["architecture=resnet50_s8", "head_init_std=0.5"]).head_init_std == 0.5
    assert not fine_tunes(choose_settings("small", ["architecture=resnet50_s8"]))
    assert choose_settings("paper").head_init_std == 1
    tensors = initial_weights(tmp_path / "moco.pth.tar", settings.architecture)
    torch.manual_seed(0)
    model = DrnSegmenter(settings.architecture, settings.head_init_std)
    model.backbone.load_state_dict(tensors)
    images = torch.randn(2, 3, 41, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert model(images).shape == (2, 2, 41, 64)
        assert model.head.weight.std() == pytest.approx(0.01, rel=0.1)
    save_detector(
        tmp_path,
        model,
        DetectorDescription(
            architecture=settings.architecture,
            working_size_px=64,
            mean_RGB=(0, 0, 0),
            std_RGB=(1, 1, 1),
            crf_size_px=64,
        ),
    )
    assert load_detector(tmp_path, device="cpu").identity["architecture"] == "resnet50_s8"


@pytest.mark.slow
def test_it_trains_with_tokencut_as_one_more_source(encoder: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({"state_dict": after("module.encoder_q.", encoder)}, tmp_path / "moco.pth.tar")
    source = f"tokencut:{tiny_dino(tmp_path / 'dino.pth')}"
    small = ["stage1_epochs=1", "stage2_epochs=1", "working_size_px=32", "stage1_batch_size=4", "stage2_batch_size=4"]
    settings = choose_settings("tiny", ["architecture=resnet50_s8", *small], [source])
    index, run = open_index("folder", root=make_images(tmp_path / "images")), tmp_path / "run"
    summary = train(index, run, settings, backbone_weights=tmp_path / "moco.pth.tar", num_workers=1)
    assert summary is not None
    first_labels = json.loads((run / "settings.json").read_text())["first_labels"]
    assert [label["name"] for label in first_labels] == ["rbd", "tokencut"]
    assert open_detector(str(run), device="cpu").identity["architecture"] == "resnet50_s8"
