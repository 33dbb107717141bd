"""A run's backbone.safetensors is what other libraries call a ResNet without its classifier."""

import json
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import load_file

from backdrop.trainer.backbones import build_backbone
from backdrop.trainer.run import checkpoint
from tests.golden import make_timm_names

CLASSIFIER = ["fc.weight", "fc.bias"]


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_torchvision_loads_it_strictly_but_for_the_classifier(tmp_path: Path, name: str) -> None:
    backbone = build_backbone(name)
    file = checkpoint.save_backbone(tmp_path, backbone, name=name, cifar_stem=False)
    theirs = torchvision.models.get_model(name, weights=None)
    missing, unexpected = theirs.load_state_dict(load_file(file), strict=False)
    assert (missing, unexpected) == (CLASSIFIER, [])
    theirs.fc = torch.nn.Identity()
    image_BCHW = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(theirs.eval()(image_BCHW), backbone.eval()(image_BCHW))


@pytest.mark.parametrize("name", make_timm_names.NAMES)
def test_timms_names_and_shapes_are_the_same_but_for_the_classifier(name: str) -> None:
    with torch.device("meta"):
        state = build_backbone(name).state_dict()
    ours = [f"{key} {'x'.join(map(str, value.shape))}".strip() for key, value in state.items()]
    theirs = json.loads(make_timm_names.FILE.read_text())[name]
    assert [line for line in theirs if line.split()[0] not in CLASSIFIER] == ours
