"""Where a classifier looks: the map against the gradient in float64, and painted images whose map is known."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from backdrop.errors import UserError
from backdrop.trainer.evaluation import class_grounding
from backdrop.trainer.evaluation.class_grounding import Options, class_cam
from tests.material.evaluation_fixtures import FACTS, WNIDS, imagenet_split, oracle, save_image
from tests.reference import losses

# The image's class is painted on the middle of the crop's rows, the other class above and below (`paint`).
PAINTED = {3: [(3, 40)], 40: [(40, 3)]}
# Eight of the map's rows, 16 px each, against 150 px: the next ones see the edge, where resizing makes other colours.
OVERLAP = 128 / 150


def test_the_map_of_a_class_is_its_gradient_by_the_whole_map() -> None:
    """The gradient of the logit, pooled over places, weighs the map."""
    torch.manual_seed(0)
    map_BDhw = torch.randn(4, 5, 3, 2, dtype=torch.float64, requires_grad=True)
    head, class_B = nn.Linear(5, 7).double(), torch.tensor([6, 0, 3, 3])
    logit_B = head(map_BDhw.mean(dim=(2, 3)))[torch.arange(4), class_B]
    alpha_BD = torch.autograd.grad(logit_B.sum(), map_BDhw)[0].sum(dim=(2, 3))
    expected = losses.grad_cam(alpha_BD.numpy(), map_BDhw.detach().numpy())
    found = class_cam(head, map_BDhw.detach(), class_B).detach()
    torch.testing.assert_close(found, torch.from_numpy(expected), atol=1e-12, rtol=0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ImageNet's val/ with two images, and masks of what is painted in their middle."""
    data = tmp_path_factory.mktemp("data")
    imagenet_split(data, "val", PAINTED)
    for image in (data / "val").rglob("*.JPEG"):
        mask_HWC = np.zeros((48, 64, 3), np.uint8)
        mask_HWC[24 - 14 : 24 + 14] = 255
        save_image(data / "masks" / image.parent.name / f"{image.stem}.png", mask_HWC, mode="L")
    return data


def test_known_maps_have_their_known_overlap(data: Path, tmp_path: Path) -> None:
    """Of a network that sees colours: the map is where the class is painted."""
    subject = oracle(tmp_path)
    found = class_grounding.run(subject, data, Options(masks=str(data / "masks")))
    assert found.facts.keys() >= FACTS
    assert found.facts["images_scored"] == 2
    assert found.facts["iou_of_foreground_everywhere"] == pytest.approx(28 / 42, abs=0.02)
    assert found.metrics["mean_iou"] == pytest.approx(OVERLAP, abs=0.03)
    page = (subject.probe_folder / class_grounding.PAGE_FILE).read_text()
    assert page.count("<img") == 2 * 3
    assert f"{WNIDS[3]}/" in page
    assert "this run, class 3<" in page


@pytest.mark.parametrize(("of", "overlap"), [("label", 0.0), ("predicted", OVERLAP)])
def test_whose_class_may_be_chosen(of: str, overlap: float, data: Path, tmp_path: Path) -> None:
    """A network that takes both classes for each other predicts by the foreground; its label's map is around it."""
    subject = oracle(tmp_path, {3: {40: 10}, 40: {3: 10}})
    found = class_grounding.run(subject, data, Options(masks=str(data / "masks"), of=of, pictures=1))
    assert found.metrics["mean_iou"] == pytest.approx(overlap, abs=0.03)


def test_a_network_without_classifier_and_absent_masks_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no classifier.*evaluate linear"):
        class_grounding.run(oracle(tmp_path, has_head=False), data, Options(masks=str(data / "masks")))
    with pytest.raises(UserError, match="no masks at"):
        class_grounding.run(oracle(tmp_path), data, Options(masks=str(tmp_path / "none")))
