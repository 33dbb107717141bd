"""DeepUSPS2 on a ViT: timm's own tokens as a map, weights from a file, any image size; costs as the page says them."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from backdrop.errors import UserError
from backdrop.saliency.deepusps2.deepusps import initial_weights, train
from backdrop.saliency.deepusps2.settings import choose_settings, fine_tunes
from backdrop.saliency.detectors import open_detector
from backdrop.saliency.networks.drn import DrnSegmenter
from backdrop.saliency.trained_detector.drn_detector import DetectorDescription, load_detector, save_detector
from backdrop.stores.datasets import open_index
from tests.material.published_vits import dino_tensors
from tests.material.small_images import make_images

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """DINO's checkpoint of a ViT-Ti/16."""
    own = {f"backbone.{name}": value for name, value in dino_tensors(width=192).items()}
    torch.save({"teacher": own | {"head.mlp.0.weight": torch.zeros(4, 192)}}, tmp_path / "dino.pth")
    return tmp_path / "dino.pth"


def test_a_map_is_of_timms_tokens_and_has_the_images_size(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    timm = pytest.importorskip("timm")
    settings = choose_settings("paper", ["architecture=vit_ti16"])
    tensors = initial_weights(weights, settings.architecture)
    said = "dino.pth: DINO: width 192, 3 heads, 12 blocks, patch 16; 1 other tensors left, such as head.mlp.0.weight"
    assert said in capsys.readouterr().err
    theirs = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=0).eval()
    theirs.load_state_dict(tensors)
    torch.manual_seed(0)
    model = DrnSegmenter(settings.architecture, settings.head_init_std).eval()
    model.backbone.load_state_dict(tensors)
    images_BCHW = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        map_BDhw, tokens_BTD = model.backbone(images_BCHW), theirs.forward_features(images_BCHW)
        assert map_BDhw.shape == (2, 192, 14, 14)
        by_row_BND = map_BDhw.flatten(2).transpose(1, 2)
        torch.testing.assert_close(by_row_BND, tokens_BTD[:, 1:], rtol=1e-4, atol=1e-4)
        assert model(images_BCHW[:, :, :41, :60]).shape == (2, 2, 41, 60)
        soft_BHW = model.foreground(images_BCHW)
    assert soft_BHW.dtype == torch.float32
    # Enlarged bilinearly: the middle of four patches is their mean.
    logit_BChw = model.head(map_BDhw)
    middle_BC = model(images_BCHW)[:, :, 15:17, 15:17].mean(dim=(2, 3))
    torch.testing.assert_close(middle_BC, logit_BChw[:, :, :2, :2].mean(dim=(2, 3)), rtol=1e-3, atol=1e-4)


def test_its_settings_are_those_of_a_published_network(weights: Path) -> None:
    for architecture in ("vit_s8", "vit_s16"):
        settings = choose_settings("paper", [f"architecture={architecture}"])
        assert settings.head_init_std == 0.01
        assert fine_tunes(settings)
    with pytest.raises(UserError, match=r"width 192.*is no vit_s16: give --set architecture=vit_ti16"):
        initial_weights(weights, "vit_s16")
    with pytest.raises(UserError, match="no weights of a ResNet"):
        initial_weights(weights, "resnet50_s8")


def test_a_detector_is_written_and_read(tmp_path: Path) -> None:
    model = DrnSegmenter("vit_ti16", 0.01)
    description = DetectorDescription(
        architecture="vit_ti16", working_size_px=64, mean_RGB=(0.5, 0.5, 0.5), std_RGB=(1, 1, 1), crf_size_px=64
    )
    save_detector(tmp_path, model, description)
    detector = load_detector(tmp_path, device="cpu")
    map_HW = detector(np.random.default_rng(0).integers(0, 256, (41, 60, 3), np.uint8), "key")
    assert map_HW.shape == (41, 60)
    assert 0 < map_HW.min() < map_HW.max() < 1


def rows_of_the_page() -> dict[str, tuple[str, ...]]:
    page = (Path(__file__).resolve().parents[2] / "saliency" / "DETECTORS.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| ([\d.]+) \| ([\d.]+) \|$", page, flags=re.MULTILINE)
    return {name: cells for name, *cells in rows}


@pytest.mark.parametrize(
    "name",
    ["vit_s16", "vit_s8", *(pytest.param(n, marks=pytest.mark.slow) for n in ("drn_d_105", "resnet50_s8", "vit_b16"))],
)
def test_costs_are_as_the_page_has_them(name: str) -> None:
    with torch.device("meta"), FlopCounterMode(display=False) as counted:
        model = DrnSegmenter(name).eval()
        model(torch.zeros(1, 3, 432, 432))
    millions = sum(value.numel() for value in model.parameters()) / 1e6
    found = [str(model.backbone.stride_px), f"{millions:.1f}", f"{counted.get_total_flops() / 2e9:.1f}"]
    assert rows_of_the_page()[name] == found


@pytest.mark.slow
def test_it_trains_from_a_file(weights: Path, tmp_path: Path) -> None:
    small = ["stage1_epochs=1", "stage2_epochs=1", "working_size_px=48", "stage1_batch_size=4", "stage2_batch_size=4"]
    settings = choose_settings("tiny", ["architecture=vit_ti16", *small])
    index, run = open_index("folder", root=make_images(tmp_path / "images")), tmp_path / "run"
    assert train(index, run, settings, backbone_weights=weights, num_workers=1) is not None
    assert json.loads((run / "detector.json").read_text())["architecture"] == "vit_ti16"
    assert open_detector(str(run), device="cpu").identity["architecture"] == "vit_ti16"
