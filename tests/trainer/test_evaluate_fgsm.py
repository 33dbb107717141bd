"""The gradient-sign attack: a linear network with a known answer, and foolbox's own images."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from backdrop.errors import UserError
from backdrop.trainer.evaluation import fgsm
from backdrop.trainer.evaluation.harness.subject import Subject, weights_digest
from backdrop.trainer.parts.backbones import Backbone
from tests.golden import make_fgsm
from tests.material.evaluation_fixtures import WNIDS, oracle, save_image

THRESHOLD = 128
WEIGHT = 50.0  # of the normalised red: beyond 1 - 2^-24 of certainty the gradient would be 0
# Red of each image by its class. Class 0 stands above the threshold, class 1 below; the step of 8 is against that.
RED = {0: (132, 140, 120, 255), 1: (124, 116, 3)}


def threshold_subject(folder: Path) -> Subject:
    """A network that answers 0 where red is above the threshold, else 1; it takes normalised pixels, as all do."""
    backbone = Backbone({"pool": nn.AdaptiveAvgPool2d(1)}, 3).eval()
    head = nn.Linear(3, len(WNIDS))
    head.weight.data.zero_()
    head.bias.data.fill_(-100.0)
    head.weight.data[0, 0] = WEIGHT
    head.bias.data[:2] = torch.tensor([-WEIGHT * (THRESHOLD / 255 - 0.485) / 0.229, 0.0])
    digest = weights_digest(backbone, head)
    return replace(oracle(folder), backbone=backbone, head=head.eval(), weights_sha256=digest)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for label, reds in RED.items():
        for red in reds:
            image_HWC = np.zeros((32, 32, 3), dtype=np.uint8)
            image_HWC[..., 0] = red
            save_image(tmp_path / "val" / WNIDS[label] / f"{red}.png", image_HWC)
    return tmp_path


def test_a_linear_network_is_fooled_where_it_must_be(root: Path) -> None:
    result = fgsm.run(threshold_subject(root), root, fgsm.Options())
    # Wrong before: 120. Fooled: 132 (becomes 124) and 124 (132). Left: 140 (132), 255, 116 (124), 3. A step taken on
    # normalised values would be 1.8 of 255, and would fool none.
    assert result.metrics["clean_top1"] == pytest.approx(100 * 6 / 7)
    assert result.metrics["robust_top1"] == pytest.approx(100 * 4 / 7)
    assert result.metrics["clean_top5"] == result.metrics["robust_top5"] == 100.0
    assert result.facts["images"] == {"seen": 7, "expected": 50_000}


@pytest.mark.parametrize(("epsilon", "num_right"), [(0.0, 6), (3.9 / 255, 6), (4.1 / 255, 4), (13 / 255, 2)])
def test_epsilon_is_of_pixels_in_0_to_1(root: Path, epsilon: float, num_right: int) -> None:
    result = fgsm.run(threshold_subject(root), root, fgsm.Options(epsilon=epsilon))
    assert result.metrics["robust_top1"] == pytest.approx(100 * num_right / 7)
    assert result.metrics["clean_top1"] == pytest.approx(100 * 6 / 7)


def test_short_formats_are_left_for_the_attack_and_come_back(root: Path) -> None:
    subject = threshold_subject(root)
    subject.backbone.autocast_dtype = torch.bfloat16
    dtypes = []
    subject.backbone.register_forward_hook(lambda *_: dtypes.append(subject.backbone.autocast_dtype))
    fgsm.run(subject, root, fgsm.Options())
    assert dtypes == [None, None, None]  # clean, with gradient, attacked
    assert subject.backbone.autocast_dtype == torch.bfloat16


def test_a_wrong_epsilon_is_refused(root: Path) -> None:
    with pytest.raises(UserError, match="epsilon=8"):
        fgsm.run(threshold_subject(root), root, fgsm.Options(epsilon=8.0))


def test_the_step_is_foolboxs() -> None:
    golden = json.loads(make_fgsm.FILE.read_text())
    network, pixel_BCHW = make_fgsm.inputs()
    label_B = torch.tensor(golden["label"])
    attacked_BCHW = fgsm.fgsm_step(network, pixel_BCHW, label_B, make_fgsm.EPSILON)
    np.testing.assert_allclose(attacked_BCHW.flatten(1).numpy(), golden["attacked"], atol=1e-6)
    with torch.inference_mode():
        assert (network(attacked_BCHW).argmax(dim=1) != label_B).tolist() == golden["success"]
    assert attacked_BCHW.min() == 0.0
    assert attacked_BCHW.max() == 1.0
