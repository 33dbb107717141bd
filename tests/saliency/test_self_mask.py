"""SelfMask's clusters and vote: equal to the goldens, to a dense solver and loops; a detector over several networks."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from backdrop.errors import UserError
from backdrop.saliency.detectors import open_detector
from backdrop.saliency.features import spectral_clusters as module
from backdrop.saliency.features.feature_maps import open_map_backbone
from backdrop.saliency.features.region_vote import vote
from backdrop.saliency.features.spectral_clusters import doubled, k_means, spectral_clusters
from backdrop.saliency.networks.published_weights import SWAV_STD, load_vit
from backdrop.stores.images.imagenet_statistics import IMAGENET_MEAN
from tests.material.published_resnets import RESNET_FILES
from tests.material.published_vits import tiny_dino
from tests.reference import self_mask as reference

pytestmark = pytest.mark.usefixtures("one_thread")


def three_parts(size: tuple[int, int] = (6, 7)) -> tuple[np.ndarray, np.ndarray]:
    """A map of features of three directions with noise, and which part each cell is of."""
    generator = np.random.default_rng(4)
    labels_hw = np.zeros(size, int)
    labels_hw[1:4, 1:4], labels_hw[4:, 5:] = 1, 2
    map_hwD = 0.1 * generator.standard_normal((*size, 8))
    map_hwD += 2 * np.eye(8)[labels_hw] + 1 * np.eye(8)[7]
    return map_hwD, labels_hw


def test_clusters_equal_the_goldens(shared_data: Path) -> None:
    goldens = np.load(shared_data / "feature-goldens.npz", allow_pickle=False)
    map_hwD = goldens["two/qkv"][1:, 16:32].reshape(*goldens["two/dims"], 16)
    found = spectral_clusters(doubled(map_hwD))
    for number, clusters in zip((2, 3, 4), found, strict=True):
        expected = goldens[f"two/spectral/eigenvalues_{number}"]
        np.testing.assert_allclose(clusters.eigenvalues, expected, rtol=0, atol=1e-9)
        if number < 4:
            np.testing.assert_array_equal(clusters.labels_hw, goldens[f"two/spectral/labels_{number}"])
    parts = [each.labels_hw == part for each in found for part in range(each.labels_hw.max() + 1)]
    np.testing.assert_array_equal(np.stack(parts), goldens["two/vote/candidates"])


def test_the_vote_equals_the_goldens(shared_data: Path) -> None:
    goldens = np.load(shared_data / "feature-goldens.npz", allow_pickle=False)
    found = vote(goldens["two/vote/candidates"])
    assert found is not None
    np.testing.assert_array_equal(found.kept, goldens["two/vote/kept"])
    np.testing.assert_allclose(found.score, goldens["two/vote/score"], atol=1e-7)  # theirs adds 1e-7 to every union
    assert found.winner == goldens["two/vote/winner"]


def test_maps_are_enlarged_with_their_corners_in_place() -> None:
    map_hwD = np.random.default_rng(0).standard_normal((5, 7, 3))
    theirs = functional.interpolate(
        torch.from_numpy(map_hwD).permute(2, 0, 1)[None], scale_factor=2, mode="bilinear", align_corners=True
    )
    np.testing.assert_allclose(doubled(map_hwD), theirs[0].permute(1, 2, 0).numpy(), atol=1e-12)
    assert doubled(map_hwD[:1, :1]).shape == (2, 2, 3)


def test_eigenvectors_are_those_of_a_dense_solver() -> None:
    map_hwD, labels_hw = three_parts()
    values, vectors_Nk = reference.lowest_eigenvectors(map_hwD.reshape(42, 8), 4)
    found = spectral_clusters(map_hwD)
    np.testing.assert_allclose(found[-1].eigenvalues, values, atol=1e-10)
    np.testing.assert_array_equal(found[1].labels_hw, labels_hw)
    for number, clusters in zip((2, 3, 4), found, strict=True):
        best = k_means(vectors_Nk[:, :number], number)
        own = reference.cost(vectors_Nk[:, :number], clusters.labels_hw.ravel())
        assert own == pytest.approx(reference.cost(vectors_Nk[:, :number], best), abs=1e-9)


def test_where_lanczos_does_not_converge_the_graph_is_solved_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    map_hwD, labels_hw = three_parts()
    given_up, real = [], module.eigsh

    def once(*arguments: object, **options: object) -> object:
        if not given_up:
            given_up.append(True)
            raise module.ArpackNoConvergence("too many steps", np.empty(0), np.empty((42, 0)))
        return real(*arguments, **options)

    monkeypatch.setattr(module, "eigsh", once)
    np.testing.assert_array_equal(spectral_clusters(map_hwD)[1].labels_hw, labels_hw)
    assert given_up


@pytest.mark.parametrize("axes", [0, 1, (0, 1)])
def test_a_flipped_map_has_flipped_parts(axes: int | tuple[int, int]) -> None:
    map_hwD, _ = three_parts()
    straight = {mask.tobytes() for mask in parts_of(map_hwD)}
    flipped = {np.ascontiguousarray(np.flip(mask, axes)).tobytes() for mask in parts_of(np.flip(map_hwD, axes))}
    assert flipped == straight


def parts_of(map_hwD: np.ndarray) -> list[np.ndarray]:
    labels_hw = spectral_clusters(map_hwD, (2, 3))[-1].labels_hw
    return [labels_hw == part for part in range(3)]


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (4, 5)])
def test_equal_vectors_and_too_few_have_no_parts(size: tuple[int, int]) -> None:
    assert spectral_clusters(np.ones((*size, 3))) == []
    assert spectral_clusters(np.zeros((*size, 3))) == []


def test_groups_of_equal_points_are_found_and_more_groups_than_points_are_borne() -> None:
    points_NE = np.repeat(np.array([[0.0, 0], [5, 0], [0, 5]]), [4, 3, 2], axis=0)
    labels_N = k_means(points_NE, 3)
    assert [len(set(labels_N[part])) for part in (slice(0, 4), slice(4, 7), slice(7, 9))] == [1, 1, 1]
    assert len(set(labels_N)) == 3
    assert len(set(k_means(np.zeros((5, 2)), 3))) == 1


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), num=st.integers(1, 8), share=st.sampled_from([0.05, 0.3]))
def test_the_vote_equals_loops(seed: int, num: int, share: float) -> None:
    regions_KHW = np.random.default_rng(seed).random((num, 5, 6)) < share
    found = vote(regions_KHW)
    if not regions_KHW.any():
        assert found is None
        return
    assert found is not None
    assert found.winner == reference.vote(list(regions_KHW))


def test_an_object_larger_than_the_background_wins_while_one_border_is_free() -> None:
    large_HW = np.zeros((10, 10), bool)
    large_HW[1:, 1:9] = True  # 72 of 100; it stands on the lower border
    regions = [large_HW, ~large_HW, large_HW & (np.arange(10) < 8)]
    found = vote(np.stack(regions))
    assert found is not None
    assert found.kept.tolist() == [0, 2]
    across_HW = np.zeros((10, 10), bool)
    across_HW[:, 1:9] = True
    everything = vote(np.stack([across_HW, ~across_HW]))
    assert everything is not None
    assert everything.kept.tolist() == [0, 1]


def test_several_networks_vote_and_an_image_of_any_size_has_a_map(tmp_path: Path) -> None:
    paths = [tiny_dino(tmp_path / "one.pth"), tiny_dino(tmp_path / "two.pth", patch_px=16, seed=1)]
    detector = open_detector(f"selfmask:{paths[0]},{paths[1]}", device="cpu")
    generator = np.random.default_rng(0)
    images = [generator.integers(0, 256, (*size, 3), np.uint8) for size in ((60, 90), (1, 1), (90, 60), (60, 90))]
    for map_HW, image_HWC in zip(detector.maps(images, list("abcd")), images, strict=True):
        assert isinstance(map_HW, np.ndarray)
        assert (map_HW.shape, map_HW.dtype) == (image_HWC.shape[:2], np.float32)
        assert set(np.unique(map_HW)) <= {0, 1}
        assert 0 < map_HW.mean() < 1 or image_HWC.size == 3
        assert np.mean(map_HW != detector(image_HWC, "key")) < 0.05
    names = [f"selfmask:{paths[0]}", f"selfmask:{paths[0]},{paths[1]}", f"selfmask:{paths[0]}:solver"]
    identities = [json.dumps(open_detector(name, device="cpu").identity) for name in names]
    assert len(set(identities)) == 3
    assert not any(str(tmp_path) in identity for identity in identities)
    assert set(np.unique(open_detector(names[2], device="cpu")(images[0], "key"))) <= {0, 1}
    with pytest.raises(UserError, match=r"there is no file absent\.pth: give published weights"):
        open_detector(f"selfmask:{paths[0]},absent.pth")


def test_a_large_photograph_is_voted_on_at_fewer_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    detector = open_detector(f"selfmask:{tiny_dino(tmp_path / 'dino.pth')}", device="cpu")
    image_HWC = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    whole_HW = detector(image_HWC, "key")
    monkeypatch.setattr("backdrop.saliency.features.self_mask_detector.MAX_PIXELS", 60 * 90 // 4)
    small_HW = detector(image_HWC, "key")
    assert small_HW.shape == whole_HW.shape
    assert np.mean(small_HW != whole_HW) < 0.1


def test_features_of_a_vit_are_its_tokens_after_the_last_norm(tmp_path: Path) -> None:
    image_HWC = np.random.default_rng(0).integers(0, 256, (40, 61, 3), np.uint8)
    path = tiny_dino(tmp_path / "dino.pth")
    (vit_map,) = open_map_backbone(path, "cpu").maps([image_HWC])
    assert vit_map.map_hwD.shape == (5, 8, 64)
    assert vit_map.seen == (40, 61)
    with torch.no_grad():
        tokens_BTD = load_vit(path).network(functional.pad(normalised(image_HWC, (0.229, 0.224, 0.225)), (0, 3)))
    np.testing.assert_allclose(vit_map.map_hwD.reshape(40, 64), tokens_BTD[0, 1:].numpy(), atol=1e-5)


def normalised(image_HWC: np.ndarray, std_RGB: tuple[float, ...]) -> torch.Tensor:
    scaled_HWC = (torch.from_numpy(image_HWC) / 255 - torch.tensor(IMAGENET_MEAN)) / torch.tensor(std_RGB)
    return scaled_HWC.permute(2, 0, 1)[None]


@pytest.mark.slow
def test_features_of_swavs_resnet_are_layer4_at_an_eighth_with_its_own_colours(tmp_path: Path) -> None:
    image_HWC = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = torchvision.models.resnet50(weights=None, replace_stride_with_dilation=[False, True, True]).eval()
    own = {name: value for name, value in theirs.state_dict().items() if not name.startswith("fc.")}
    torch.save(RESNET_FILES["swav"](own, {}), tmp_path / "swav.pth.tar")
    (resnet_map,) = open_map_backbone(tmp_path / "swav.pth.tar", "cpu").maps([image_HWC])
    with torch.no_grad():
        layers = list(theirs.children())[:-2]
        expected_BDhw = torch.nn.Sequential(*layers)(normalised(image_HWC, SWAV_STD))
    np.testing.assert_allclose(resnet_map.map_hwD, expected_BDhw[0].permute(1, 2, 0).numpy(), rtol=1e-4, atol=1e-4)
    assert resnet_map.stride_px == 8
