"""What is written for detectron2: weights that come back unchanged, and the papers' settings."""

import io
import json
import pickle
import pickletools
import re
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from backdrop.errors import UserError
from backdrop.trainer import detectron2_export
from backdrop.trainer.backbones import build_backbone
from backdrop.trainer.detectron2_export import (
    PROTOCOLS,
    detectron2_config,
    detectron2_name,
    detectron2_weights,
    export_detectron2,
)
from backdrop.trainer.run import checkpoint
from backdrop.trainer.run.run_folder import write_json
from backdrop.trainer.settings import to_json
from tests.material.tiny_runs import tiny


def torchvision_name(name: str) -> str:
    """Rename one tensor of a ResNet from detectron2's names to torchvision's."""
    name = name.removeprefix("stem.").replace("shortcut.norm", "downsample.1").replace("shortcut", "downsample.0")
    name = re.sub(r"conv(\d)\.norm", r"bn\1", name)
    return re.sub(r"^res(\d)", lambda match: f"layer{int(match[1]) - 1}", name)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("conv1.weight", "stem.conv1.weight"),
        ("bn1.running_var", "stem.conv1.norm.running_var"),
        ("layer1.0.conv2.weight", "res2.0.conv2.weight"),
        ("layer1.0.bn3.bias", "res2.0.conv3.norm.bias"),
        ("layer3.0.downsample.0.weight", "res4.0.shortcut.weight"),
        ("layer4.0.downsample.1.num_batches_tracked", "res5.0.shortcut.norm.num_batches_tracked"),
    ],
)
def test_names(ours: str, theirs: str) -> None:
    assert detectron2_name(ours) == theirs


def test_names_of_a_resnet50_come_back() -> None:
    with torch.device("meta"):
        names = build_backbone("resnet50").state_dict().keys()
    assert [torchvision_name(detectron2_name(name)) for name in names] == list(names)
    # The region head of a C4 detector finds its weights by the end of their names.
    assert all(detectron2_name(name).startswith("res5.") for name in names if name.startswith("layer4."))


class Restricted(pickle.Unpickler):
    """Reads what detectron2 would, and nothing that could run anything else."""

    ALLOWED: ClassVar = {("numpy", "ndarray"): np.ndarray, ("builtins", "bytearray"): bytearray}

    def find_class(self, module: str, name: str) -> Any:
        return self.ALLOWED[module, name]


def read_back(file: bytes) -> dict[str, torch.Tensor]:
    """Return the weights under torchvision's names."""
    content = Restricted(io.BytesIO(file)).load()
    assert content["matching_heuristics"] is True
    assert isinstance(content["__author__"], str)
    assert all(type(array) is np.ndarray and array.flags.writeable for array in content["model"].values())
    return {torchvision_name(name): torch.from_numpy(array) for name, array in content["model"].items()}


def test_weights_come_back_unchanged() -> None:
    tensors = {
        "conv1.weight": torch.randn(4, 3, 7, 7, generator=torch.Generator().manual_seed(0)),
        "bn1.num_batches_tracked": torch.tensor(5),
        "layer2.0.downsample.1.bias": torch.arange(3.0, requires_grad=True),
        "layer4.1.conv1.weight": torch.arange(24.0).view(1, 2, 3, 4).contiguous(memory_format=torch.channels_last),
    }
    file = detectron2_weights(tensors)
    back = read_back(file)
    assert list(back) == list(tensors)
    assert all(torch.equal(back[name], value) for name, value in tensors.items())
    assert list(Restricted(io.BytesIO(file)).load()["model"]) == [
        "stem.conv1.weight",
        "stem.conv1.norm.num_batches_tracked",
        "res3.0.shortcut.norm.bias",
        "res5.1.conv1.weight",
    ]


def test_the_file_calls_nothing_but_arrays_and_their_bytes() -> None:
    file = detectron2_weights({"conv1.weight": torch.zeros(1, 3, 7, 7)})
    strings = [argument for code, argument, _ in pickletools.genops(file) if "UNICODE" in code.name]
    called = [code.name for code, _, _ in pickletools.genops(file) if code.name in ("GLOBAL", "STACK_GLOBAL")]
    assert len(called) == 2
    assert {"numpy", "ndarray", "builtins", "bytearray"} <= set(strings)


@pytest.mark.slow
def test_a_resnet50_is_written_with_its_settings(tmp_path: Path) -> None:
    backbone = build_backbone("resnet50")
    weights = checkpoint.save_backbone(tmp_path, backbone, name="resnet50", cifar_stem=False)
    files = export_detectron2(weights, tmp_path / "out", protocol="voc-ryali", method="byol")
    back = read_back(files[0].read_bytes())
    assert back.keys() == backbone.state_dict().keys()
    assert all(torch.equal(back[name], value) for name, value in backbone.state_dict().items())
    lines = files[1].read_text().splitlines()
    body = json.loads("\n".join(line for line in lines if not line.startswith("#")))
    assert body == detectron2_config("voc-ryali", "byol")
    assert "--config-file config.yaml --num-gpus 8 MODEL.WEIGHTS weights.pkl" in files[2].read_text()


@pytest.mark.parametrize(("method", "lr"), [("moco", 0.02), ("byol", 0.08), ("swav", 0.1)])
def test_rates_are_those_of_the_runs_own_method(
    method: str, lr: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_json(tmp_path / "settings.json", to_json(tiny(method)))
    # A backbone of the right shape, and small: what is looked at are the rates.
    monkeypatch.setattr(detectron2_export, "load_network", lambda _: (torch.nn.Identity(), None))
    monkeypatch.setattr(detectron2_export, "_depth", lambda _: 50)
    files = export_detectron2(tmp_path, tmp_path / "out", protocol="voc-ryali")
    text = files[1].read_text()
    assert f"settings of {method}." in text
    assert f'"BASE_LR": {lr}' in text
    chosen = export_detectron2(tmp_path, tmp_path / "other", protocol="voc-ryali", method="swav")[1].read_text()
    assert '"BASE_LR": 0.1' in chosen


def test_settings_of_the_papers() -> None:
    voc = detectron2_config("voc-ryali", "swav")
    assert voc["SOLVER"] == {
        "IMS_PER_BATCH": 16,
        "BASE_LR": 0.1,
        "STEPS": [18000, 22000],
        "MAX_ITER": 24000,
        "WARMUP_ITERS": 1000,
        "WARMUP_FACTOR": 1 / 3,
    }
    assert voc["MODEL"]["PIXEL_MEAN"] == [123.675, 116.28, 103.53]
    assert voc["MODEL"]["PIXEL_STD"] == [58.395, 57.12, 57.375]
    assert voc["MODEL"]["RESNETS"] == {"DEPTH": 50, "NORM": "naiveSyncBN", "STRIDE_IN_1X1": False}
    coco = detectron2_config("coco-cast", "moco")
    assert coco["MODEL"]["FPN"]["NORM"] == coco["MODEL"]["RESNETS"]["NORM"] == "SyncBN"
    assert coco["SOLVER"]["STEPS"] == [120000, 160000]
    assert coco["MODEL"]["ROI_HEADS"]["NUM_CLASSES"] == 80
    assert {detectron2_config("coco-ryali", method)["SOLVER"]["BASE_LR"] for method in ("moco", "byol", "swav")} == {
        0.02
    }


def test_what_detectron2_has_no_place_for_is_refused(tmp_path: Path) -> None:
    weights = checkpoint.save_backbone(tmp_path, build_backbone("resnet18"), name="resnet18", cifar_stem=False)
    with pytest.raises(UserError, match="ResNet-50"):
        export_detectron2(weights, tmp_path / "out", protocol="voc-ryali")
    with pytest.raises(UserError, match=", ".join(PROTOCOLS)):
        export_detectron2(weights, tmp_path / "out", protocol="voc")
    with pytest.raises(UserError, match="unknown method 'simclr'"):
        export_detectron2(weights, tmp_path / "out", protocol="coco-cast", method="simclr")
    with pytest.raises(UserError, match="method='rotnet': no method of that name states a rate of detection on VOC"):
        detectron2_config("voc-ryali", "rotnet")
    assert not (tmp_path / "out").exists()
