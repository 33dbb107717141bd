"""TokenCut: equal to the goldens and to a dense solver, whatever the order of the patches; and as a detector."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import ArpackNoConvergence

from backdrop.errors import UserError
from backdrop.saliency.detectors import open_detector
from backdrop.saliency.features import token_cut as module
from backdrop.saliency.features.token_cut import token_cut
from backdrop.saliency.features.token_features import MAX_PATCHES, resized_to_patches, within_max_patches
from backdrop.saliency.inference import predict_folder
from tests.material.planted_patches import planted
from tests.material.published_vits import dino_tensors, tiny_dino
from tests.material.small_images import make_images
from tests.reference import token_cut as reference

pytestmark = pytest.mark.usefixtures("one_thread")


def two_clusters(size: tuple[int, int], planted_hw: np.ndarray, seed: int) -> np.ndarray:
    """Keys of two directions with noise; of the planted patches the one, of the others the other."""
    generator = np.random.default_rng(seed)
    keys_ND = 0.2 * generator.standard_normal((size[0] * size[1], 8))
    keys_ND[:, 0] += 2 * planted_hw.ravel()
    keys_ND[:, 1] += 2 * ~planted_hw.ravel()
    return keys_ND


@pytest.mark.parametrize("case", ["one", "two", "large"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_it_equals_the_goldens(shared_data: Path, case: str, dtype: type) -> None:
    goldens = np.load(shared_data / "feature-goldens.npz", allow_pickle=False)
    expected = {
        name.rpartition("/")[2]: goldens[name] for name in goldens.files if name.startswith(f"{case}/tokencut/")
    }
    keys_ND = goldens[f"{case}/qkv"][1:, 16:32].astype(dtype)
    found = token_cut(keys_ND, tuple(goldens[f"{case}/dims"]), has_corner_rule=False)
    assert found is not None
    assert (found.num_edges, found.seed) == (expected["num_edges"], expected["seed"])
    assert found.eigenvalue == pytest.approx(expected["eigenvalues"][1], abs=1e-12)
    np.testing.assert_allclose(found.degree_N, expected["degree"], rtol=1e-12)
    np.testing.assert_allclose(found.vector_N, expected["vector"], rtol=0, atol=1e-12)
    assert found.vector_N.mean() == pytest.approx(expected["mean"], abs=1e-12)
    np.testing.assert_array_equal(found.partition_hw, expected["partition"])
    np.testing.assert_array_equal(found.component_hw, expected["component"])
    (top, left, bottom, right), inside = expected["box_yxyx"], np.argwhere(found.component_hw)
    assert [*inside.min(axis=0), *(inside.max(axis=0) + 1)] == [top, left, bottom, right]
    assert not found.is_flipped


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(2, 7), columns=st.integers(2, 7), seed=st.integers(0, 10**6), tau=st.sampled_from([0.0, 0.2, 0.4])
)
def test_it_equals_a_dense_solver(rows: int, columns: int, seed: int, tau: float) -> None:
    keys_ND = np.random.default_rng(seed).standard_normal((rows * columns, 4))
    found = token_cut(keys_ND, (rows, columns), tau=tau, has_corner_rule=False)
    if found is None:
        return
    eigenvalue, vector_N = reference.second_vector(keys_ND, tau)
    assert found.eigenvalue == pytest.approx(eigenvalue, abs=1e-10)
    largest_two = np.sort(np.abs(vector_N))[-2:]
    is_one_vector = np.linalg.norm(found.vector_N * np.sign(found.vector_N @ vector_N) - vector_N) < 1e-6
    if is_one_vector and largest_two[1] - largest_two[0] > 1e-6:  # neither a double eigenvalue nor a tie of seeds
        assert found.seed == np.argmax(np.abs(vector_N))
        partition_hw = (vector_N > vector_N.mean()).reshape(rows, columns)
        np.testing.assert_array_equal(found.component_hw, reference.component(partition_hw, found.seed))


@given(seed=st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_patches_may_stand_in_any_order(seed: int) -> None:
    mask_hw = planted((6, 7), (1, 2, 3, 3))
    keys_ND = two_clusters((6, 7), mask_hw, 3)
    order = np.random.default_rng(seed).permutation(42)
    straight, shuffled = (token_cut(keys, (6, 7), has_corner_rule=False) for keys in (keys_ND, keys_ND[order]))
    assert straight is not None
    assert shuffled is not None
    np.testing.assert_array_equal(straight.partition_hw, mask_hw)
    np.testing.assert_array_equal(shuffled.partition_hw.ravel(), mask_hw.ravel()[order])
    np.testing.assert_allclose(shuffled.vector_N, straight.vector_N[order], atol=1e-9)


@pytest.mark.parametrize("axes", [0, 1, (0, 1)])
def test_a_flipped_image_has_a_flipped_object(axes: int | tuple[int, int]) -> None:
    mask_hw = planted((6, 7), (1, 2, 3, 3))
    keys_hwD = two_clusters((6, 7), mask_hw, 3).reshape(6, 7, 8)
    found = token_cut(np.flip(keys_hwD, axes).reshape(42, 8), (6, 7))
    assert found is not None
    np.testing.assert_array_equal(found.component_hw, np.flip(mask_hw, axes))


def test_an_object_larger_than_the_background_is_found_by_the_corners_alone() -> None:
    """A frame of one patch about an object of most of the image: it stands out more, and is the background."""
    mask_hw = planted((8, 8), (1, 1, 6, 6))
    keys_ND = two_clusters((8, 8), mask_hw, 5)
    published = token_cut(keys_ND, (8, 8), has_corner_rule=False)
    ours = token_cut(keys_ND, (8, 8))
    assert published is not None
    assert ours is not None
    np.testing.assert_array_equal(published.component_hw, ~mask_hw)
    np.testing.assert_array_equal(ours.component_hw, mask_hw)
    assert ours.is_flipped
    assert ours.vector_N[ours.seed] == ours.vector_N.max()


def test_where_lanczos_does_not_converge_the_graph_is_solved_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_end(*arguments: object, **options: object) -> None:
        raise ArpackNoConvergence("too many steps", np.empty(0), np.empty((42, 0)))

    keys_ND = two_clusters((6, 7), planted((6, 7), (1, 2, 3, 3)), 3)
    expected = token_cut(keys_ND, (6, 7))
    monkeypatch.setattr(module, "eigsh", without_end)
    found = token_cut(keys_ND, (6, 7))
    assert expected is not None
    assert found is not None
    np.testing.assert_allclose(found.vector_N, expected.vector_N, atol=1e-9)
    np.testing.assert_array_equal(found.component_hw, expected.component_hw)


@pytest.mark.parametrize("num", [1, 2, 9])
def test_patches_all_alike_or_none_like_another_have_no_object(num: int) -> None:
    assert token_cut(np.ones((num, 3), np.float32), (1, num)) is None
    assert token_cut(np.eye(num), (1, num)) is None
    assert token_cut(np.zeros((num, 3)), (1, num)) is None


def test_two_clusters_joined_by_nothing_are_told_apart() -> None:
    """The second eigenvalue is then near the first, at 0; of patches with equal values the first is seed."""
    mask_hw = planted((20, 20), (5, 5, 6, 6))
    keys_ND = np.eye(4)[mask_hw.ravel().astype(int)]
    found = token_cut(keys_ND, (20, 20))
    assert found is not None
    assert 0 < found.eigenvalue < 1e-3
    np.testing.assert_array_equal(found.component_hw, mask_hw)
    assert found.seed == 5 * 20 + 5


@settings(max_examples=50, deadline=None)
@given(height=st.integers(1, 3000), width=st.integers(1, 3000), patch_px=st.sampled_from([8, 14, 16]))
def test_every_size_becomes_whole_patches_and_not_too_many(height: int, width: int, patch_px: int) -> None:
    image_HWC = np.broadcast_to(np.uint8(7), (height, width, 3))
    resized = resized_to_patches(np.ascontiguousarray(image_HWC), patch_px)
    rows, columns = resized.shape[0] // patch_px, resized.shape[1] // patch_px
    assert (rows * patch_px, columns * patch_px, 3) == resized.shape
    assert rows * columns <= MAX_PATCHES
    if height * width * 2 < MAX_PATCHES * patch_px**2 and min(height, width) > patch_px:
        assert (rows, columns) == (round(height / patch_px), round(width / patch_px))
        assert within_max_patches(image_HWC, patch_px) is image_HWC


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (40, 60), (64, 64)])
@pytest.mark.parametrize("ending", ["", ":solver", ":published", ":tau=0.9:solver"])
def test_an_image_of_any_size_has_a_map(tmp_path: Path, size: tuple[int, int], ending: str) -> None:
    detector = open_detector(f"tokencut:{tiny_dino(tmp_path / 'dino.pth')}{ending}", device="cpu")
    image_HWC = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    map_HW = detector(image_HWC, "key")
    assert (map_HW.shape, map_HW.dtype) == (size, np.float32)
    assert 0 <= map_HW.min() <= map_HW.max() <= 1
    if "solver" in ending:  # a mask, which a high threshold leaves as it is
        assert set(np.unique(map_HW)) <= {0, 1}


def test_images_of_several_sizes_make_a_batch(tmp_path: Path) -> None:
    detector = open_detector(f"tokencut:{tiny_dino(tmp_path / 'dino.pth')}", device="cpu")
    generator = np.random.default_rng(0)
    images = [generator.integers(0, 256, (*size, 3), np.uint8) for size in ((40, 60), (60, 40), (40, 60))]
    for map_HW, image_HWC in zip(detector.maps(images, ["a", "b", "c"]), images, strict=True):
        assert isinstance(map_HW, np.ndarray)
        assert np.mean(np.abs(map_HW - detector(image_HWC, "key")) > 1e-6) < 0.01


def test_a_constant_image_has_no_object(tmp_path: Path) -> None:
    weights = dino_tensors(width=64, patch_px=8, side=4, num_blocks=1)
    weights["pos_embed"][:] = 0
    torch.save(weights, tmp_path / "blind.pth")
    detector = open_detector(f"tokencut:{tmp_path / 'blind.pth'}", device="cpu")
    assert not detector(np.full((40, 60, 3), 90, np.uint8), "key").any()


def test_the_identity_is_of_weights_and_options(tmp_path: Path) -> None:
    path, other = tiny_dino(tmp_path / "dino.pth"), tiny_dino(tmp_path / "other.pth", seed=1)
    names = [f"tokencut:{path}{ending}" for ending in ("", ":solver", ":published", ":tau=0.3")] + [f"tokencut:{other}"]
    identities = [json.dumps(open_detector(name, device="cpu").identity, sort_keys=True) for name in names]
    assert len(set(identities)) == len(names)
    assert json.dumps(open_detector(f"tokencut:{path}:tau=0.2").identity, sort_keys=True) == identities[0]
    assert not any(str(tmp_path) in identity for identity in identities)


@pytest.mark.parametrize(
    ("ending", "message"),
    [
        (
            ":solvr",
            r"no file .*:solvr: give published weights; after them may stand :solver, :published, :tau=",
        ),
        (":tau=big", "tau=big is no number"),
        (":tau=2", r"tokencut.tau=2.0 must be in \[-1, 1\]"),
    ],
)
def test_a_mistaken_option_is_named(tmp_path: Path, ending: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_detector(f"tokencut:{tiny_dino(tmp_path / 'dino.pth')}{ending}")


def test_what_the_weights_are_is_said(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    open_detector(f"tokencut:{tiny_dino(tmp_path / 'dino.pth')}")
    assert "dino.pth: DINO: width 64, 1 heads, 2 blocks, patch 8" in capsys.readouterr().err


def test_it_writes_the_maps_of_a_folder(tmp_path: Path) -> None:
    images = make_images(tmp_path / "images")
    name = f"tokencut:{tiny_dino(tmp_path / 'dino.pth')}"
    summary = predict_folder(images, name, tmp_path / "maps", device="cpu")
    assert summary["num_written"] == len(list((tmp_path / "maps").rglob("*.png"))) > 2
