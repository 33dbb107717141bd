"""FOUND: background discovery equal to the goldens and to loops; heads and protocols of the detector."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from backdrop.errors import UserError
from backdrop.saliency.detectors import open_detector
from backdrop.saliency.features.background_discovery import discover_background
from backdrop.saliency.features.found_detector import FoundDetector, Head, load_found, save_found
from backdrop.saliency.features.regions import largest_region
from backdrop.saliency.features.token_features import FeatureBackbone, cls_attention
from backdrop.saliency.networks.published_weights import load_vit
from tests.material.published_vits import dinov2_tensors, tiny_dino
from tests.reference import found as reference

pytestmark = pytest.mark.usefixtures("one_thread")

NUM_HEADS, WIDTH = 4, 4
WIDTH_OF_TINY = 64


def keys_and_attention(qkv_TC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As the backbone gives them, of the output of a qkv layer."""
    q, k, _ = torch.from_numpy(qkv_TC).unflatten(1, (3, NUM_HEADS, WIDTH)).permute(1, 2, 0, 3)
    return k[:, 1:].numpy(), cls_attention(q[None, :, 0], k[None])[0, :, 1:].numpy()


@pytest.mark.parametrize("case", ["one", "two", "large"])
@pytest.mark.parametrize("is_weighted", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 2e-6)])
def test_it_equals_the_goldens(shared_data: Path, case: str, is_weighted: bool, dtype: type, tolerance: float) -> None:
    goldens = np.load(shared_data / "feature-goldens.npz", allow_pickle=False)
    folder = f"{case}/{'found' if is_weighted else 'found_unweighted'}/"
    expected = {name.removeprefix(folder): goldens[name] for name in goldens.files if name.startswith(folder)}
    keys_AND, attention_AN = keys_and_attention(goldens[f"{case}/qkv"].astype(dtype))
    found = discover_background(keys_AND, attention_AN, is_weighted=is_weighted)
    assert found.cosine_N.dtype == dtype
    assert found.seed == expected["seed"]
    size = tuple(goldens[f"{case}/dims"])
    np.testing.assert_array_equal(found.background_N.reshape(size), expected["background"])
    np.testing.assert_array_equal(found.foreground_N.reshape(size), expected["foreground"])
    np.testing.assert_allclose(found.cosine_N.reshape(size), expected["cosine"], atol=tolerance)
    np.testing.assert_allclose(found.attention_N, expected["attention_sum"], atol=tolerance)
    if is_weighted:
        np.testing.assert_allclose(attention_AN, expected["attention"], atol=tolerance)
        np.testing.assert_allclose(found.share_A, expected["q"], atol=tolerance)
        np.testing.assert_allclose(found.weight_A, expected["beta"], atol=tolerance)


@settings(max_examples=20, deadline=None)
@given(num=st.integers(1, 30), seed=st.integers(0, 10**6), is_weighted=st.booleans())
def test_it_equals_loops_and_patches_may_stand_in_any_order(num: int, seed: int, is_weighted: bool) -> None:
    generator = np.random.default_rng(seed)
    qkv_TC = generator.standard_normal((1 + num, 3 * NUM_HEADS * WIDTH))
    found = discover_background(*keys_and_attention(qkv_TC), is_weighted=is_weighted)
    expected_seed, background_N = reference.background(qkv_TC, NUM_HEADS, is_weighted=is_weighted)
    assert found.seed == expected_seed
    np.testing.assert_array_equal(found.background_N, background_N)
    order = generator.permutation(num)
    shuffled = discover_background(*keys_and_attention(qkv_TC[np.r_[0, 1 + order]]), is_weighted=is_weighted)
    np.testing.assert_array_equal(shuffled.background_N, found.background_N[order])


def head_file(path: Path, *, width: int = WIDTH_OF_TINY, under: str = "decoder") -> Path:
    weight = torch.randn(1, width, 1, 1, generator=torch.Generator().manual_seed(3))
    content = {"weight": weight, "bias": torch.tensor([0.25])}
    torch.save({under: content} if under else content, path)
    return path


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("ending", ["", ":single", ":multi", ":solver", ":single:solver"])
@pytest.mark.parametrize("has_head", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (3, 200), (41, 60)])
def test_an_image_of_any_size_has_a_map(tmp_path: Path, ending: str, has_head: bool, size: tuple[int, int]) -> None:
    head = f",{head_file(tmp_path / 'head.pt')}" if has_head else ""
    detector = open_detector(f"found:{tiny_dino(tmp_path / 'dino.pth')}{head}{ending}", device="cpu")
    map_HW = detector(picture(*size), "key")
    assert (map_HW.shape, map_HW.dtype) == (size, np.float32)
    assert 0 <= map_HW.min() <= map_HW.max() <= 1
    if "s" in ending:  # single and solver end in masks
        assert set(np.unique(map_HW)) <= {0, 1}


def test_the_head_reads_every_patchs_keys_and_padding_is_cut_off(tmp_path: Path) -> None:
    path = tiny_dino(tmp_path / "dino.pth")
    detector = open_detector(f"found:{path},{head_file(tmp_path / 'head.pt')}", device="cpu")
    image_HWC = picture(40, 61)
    weight = torch.load(tmp_path / "head.pt", weights_only=True)["decoder"]["weight"]
    network = load_vit(path).network
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    image_BCHW = ((torch.from_numpy(image_HWC) / 255 - mean) / std).permute(2, 0, 1)[None]
    image_BCHW = torch.nn.functional.pad(image_BCHW, (0, 3))
    with torch.no_grad():
        _, keys = network.last_queries_keys(image_BCHW)
        grid = keys[0, :, 1:].transpose(0, 1).flatten(1).T.reshape(1, WIDTH_OF_TINY, 5, 8)
        logits = torch.nn.functional.conv2d(grid, weight, torch.tensor([0.25]))
        expected = torch.nn.functional.interpolate(logits, scale_factor=8, mode="bilinear").sigmoid()[0, 0, :, :61]
    np.testing.assert_allclose(detector(image_HWC, "key"), expected.numpy(), atol=2e-6)
    single = open_detector(f"found:{path},{tmp_path / 'head.pt'}:single", device="cpu")
    np.testing.assert_array_equal(single(image_HWC, "key") > 0, largest_region(expected.numpy() > 0.5))


def test_a_run_folder_is_the_same_detector_by_either_name(tmp_path: Path) -> None:
    path, head = tiny_dino(tmp_path / "dino.pth"), head_file(tmp_path / "head.pt", under="")
    run = tmp_path / "run"
    run.mkdir()
    weights = torch.load(head, weights_only=True)
    save_found(run, load_vit(path).network, Head(weight_D=weights["weight"].flatten().numpy(), bias=0.25))
    names = (str(run), f"found:{run}", f"found:{path},{head}")
    identities = [open_detector(name, device="cpu").identity for name in names]
    assert identities[0] == identities[1] == identities[2]
    maps = [open_detector(name, device="cpu")(picture(40, 60), "key") for name in names]
    np.testing.assert_array_equal(maps[0], maps[1])
    np.testing.assert_array_equal(maps[0], maps[2])
    assert str(tmp_path) not in json.dumps(identities)
    with pytest.raises(UserError, match="has no CRF"):
        open_detector(f"{run}:crf")
    (run / "detector.safetensors").write_bytes((run / "detector.safetensors").read_bytes()[:-4] + b"abcd")
    with pytest.raises(UserError, match=r"is not the file that detector\.json describes"):
        load_found(run, "cpu")


def test_the_identity_is_of_weights_head_and_options(tmp_path: Path) -> None:
    path, head = tiny_dino(tmp_path / "dino.pth"), head_file(tmp_path / "head.pt")
    names = [f"found:{path}", f"found:{path},{head}", f"found:{path}:single", f"found:{path}:solver"]
    assert len({json.dumps(open_detector(name, device="cpu").identity) for name in names}) == len(names)
    assert open_detector(f"found:{path}:multi").identity == open_detector(f"found:{path}").identity


def test_registers_are_no_patches(tmp_path: Path) -> None:
    torch.save(dinov2_tensors(width=64, side=4, num_blocks=1, num_registers=4), tmp_path / "reg4.pth")
    published = load_vit(tmp_path / "reg4.pth")
    (features,) = FeatureBackbone(published, "cpu").features([picture(28, 42)])
    assert features.keys_AND.shape == (1, 2 * 3, 64)
    assert features.attention_AN.shape == (1, 2 * 3)
    assert FoundDetector(FeatureBackbone(published, "cpu"), None)(picture(28, 42), "key").shape == (28, 42)


@pytest.mark.parametrize(
    ("head", "message"),
    [({"width": 384}, r"no head of FOUND for this network.*\(1, 64, 1, 1\)"), ({"under": "other"}, "it has nothing")],
)
def test_a_head_for_another_network_is_refused(tmp_path: Path, head: dict, message: str) -> None:
    name = f"found:{tiny_dino(tmp_path / 'dino.pth')},{head_file(tmp_path / 'head.pt', **head)}"
    with pytest.raises(UserError, match=message):
        open_detector(name)


def test_what_is_absent_is_named(tmp_path: Path) -> None:
    path = tiny_dino(tmp_path / "dino.pth")
    with pytest.raises(UserError, match=r"no file .*absent\.pt: after a comma"):
        open_detector(f"found:{path},{tmp_path / 'absent.pt'}")
    with pytest.raises(UserError, match=r"no file .*absent\.pth"):
        open_detector(f"found:{tmp_path / 'absent.pth'}")
    with pytest.raises(UserError, match=r"holds no detector\.json"):
        open_detector(f"found:{tmp_path}")
