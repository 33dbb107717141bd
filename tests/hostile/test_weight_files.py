"""Files of weights that are none, or that want more than to be read: every command that takes one refuses them."""

import functools
import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.material.hostile_cells import cells, refused, run_cell


class Execute:
    """Runs a command when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def safetensors_file(header: bytes | dict, data: bytes = b"", length: int | None = None) -> bytes:
    """The file's bytes. Args: length: that it says its header has; None = that it has."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def one(shape: list[int], end: int, begin: int = 0, dtype: str = "F32") -> dict:
    return {"conv1.weight": {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}}


def saved(content: object, **options: object) -> bytes:
    out = io.BytesIO()
    torch.save(content, out, **options)
    return out.getvalue()


@functools.cache
def zip_bomb() -> bytes:
    """An archive as torch writes them whose pickle is 256 MB of zeros, in 256 KB."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        with file.open("archive/data.pkl", "w", force_zip64=True) as member:
            for _ in range(16):
                member.write(bytes(1 << 24))
        file.writestr("archive/version", "3\n")
    return out.getvalue()


def swollen() -> dict:
    """One number that says it is a trillion."""
    return {"conv1.weight": torch.zeros(1).expand(10**12), "layer1.0.conv1.weight": torch.zeros(1).expand(10**12)}


WEIGHTS: dict[str, tuple[str, Callable[[Path], bytes]]] = {
    "empty.safetensors": (".safetensors", lambda marker: b""),
    "empty.pth": (".pth", lambda marker: b""),
    "text.safetensors": (".safetensors", lambda marker: b"version https://git-lfs.github.com/spec/v1\n"),
    "text.pth": (".pth", lambda marker: b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"),
    "page.pth": (".pth", lambda marker: b"<!DOCTYPE html><html><title>404</title></html>"),
    "long-header": (".safetensors", lambda marker: safetensors_file(one([2], 8), bytes(8), length=2**63)),
    "header-beyond-end": (".safetensors", lambda marker: safetensors_file(one([2], 8), bytes(8), length=10**6)),
    "offsets-beyond-end": (".safetensors", lambda marker: safetensors_file(one([2**40], 2**42), bytes(8))),
    "offsets-overflow": (".safetensors", lambda marker: safetensors_file(one([2**62, 8], 8), bytes(8))),
    "negative-offsets": (".safetensors", lambda marker: safetensors_file(one([2], 8, -8), bytes(8))),
    "unknown-type": (".safetensors", lambda marker: safetensors_file(one([2], 8, dtype="Q7"), bytes(8))),
    "deep-header": (".safetensors", lambda marker: safetensors_file(b'{"a":' * 10**5)),
    "no-object": (".safetensors", lambda marker: safetensors_file(b"[1, 2]")),
    "no-utf8": (".safetensors", lambda marker: safetensors_file(b'{"\xff\xfe": 1}')),
    "code.pth": (".pth", lambda marker: saved({"conv1.weight": Execute(marker)})),
    "old-code.pth": (
        ".pth",
        lambda marker: saved({"conv1.weight": Execute(marker)}, _use_new_zipfile_serialization=False),
    ),
    "plain-pickle.pth": (".pth", lambda marker: pickle.dumps(Execute(marker))),
    "code-named.safetensors": (".safetensors", lambda marker: pickle.dumps(Execute(marker))),
    "module.pth": (".pth", lambda marker: saved(torch.nn.Linear(2, 2))),
    "list.pth": (".pth", lambda marker: saved([torch.zeros(2)])),
    "tensor.pth": (".pth", lambda marker: saved(torch.zeros(2))),
    "numbers.pth": (".pth", lambda marker: saved({"conv1.weight": 3, 4: 5})),
    "cut.pth": (".pth", lambda marker: saved({"conv1.weight": torch.zeros(64, 3, 7, 7)})[:20_000]),
    "foreign-archive.pth": (".pth", lambda marker: zip_bomb()),
    "swollen.pth": (".pth", lambda marker: saved(swollen())),
    "sparse.pth": (
        ".pth",
        lambda marker: saved({"conv1.weight": torch.sparse_coo_tensor([[0], [0]], [1.0], (10**6, 10**6))}),
    ),
    "meta.pth": (".pth", lambda marker: saved({"conv1.weight": torch.zeros(64, 3, 7, 7, device="meta")})),
    "complex.pth": (".pth", lambda marker: saved({"conv1.weight": torch.zeros(64, 3, 7, 7, dtype=torch.complex64)})),
    "no-dimensions.pth": (".pth", lambda marker: saved({"conv1.weight": torch.zeros(())})),
    "patches.pth": (".pth", lambda marker: saved(vit(torch.zeros(2)))),
    "wide-vit.pth": (".pth", lambda marker: saved(vit(torch.zeros(64_000, 3, 1, 1), 64_000))),
    "deep-vit.pth": (
        ".pth",
        lambda marker: saved(
            vit(torch.zeros(64, 3, 16, 16)) | {f"blocks.{n}.norm1.bias": torch.zeros(1) for n in range(200)}
        ),
    ),
    "control.pth": (".pth", lambda marker: saved({"\x1b[2J\x07layer": torch.zeros(2), "a\nb": torch.zeros(1)})),
    "no-weights.safetensors": (".safetensors", lambda marker: safetensors_file({})),
    "our-name.safetensors": (
        ".safetensors",
        lambda marker: safetensors_file({"__metadata__": {"backbone": "../../resnet50"}} | one([2], 8), bytes(8)),
    ),
    "our-stem.safetensors": (
        ".safetensors",
        lambda marker: safetensors_file(
            {"__metadata__": {"backbone": "resnet18", "cifar_stem": "[" * 10**5}} | one([2], 8), bytes(8)
        ),
    ),
    "our-nan.safetensors": (
        ".safetensors",
        lambda marker: safetensors_file({"__metadata__": {"backbone": "resnet18"}} | one([2], 8), bytes(8)),
    ),
}


def vit(patches: torch.Tensor, width: int = 64) -> dict:
    """The names by which a ViT is known."""
    return {
        "patch_embed.proj.weight": patches,
        "blocks.0.attn.qkv.weight": torch.zeros(1),
        "pos_embed": torch.zeros(1, 5, width),
        "cls_token": torch.zeros(1, 1, 1),
    }


COMMANDS: dict[str, Callable[[Path, Path], list[object]]] = {
    "evaluate": lambda file, folder: ["evaluate", "knn", "--weights", file, "--data", folder / "images"],
    "export-backbone": lambda file, folder: [
        "export-backbone", "--weights", file, "--to", "safetensors", "--out", folder / "out" / "b.safetensors",
    ],
    "tokencut": lambda file, folder: predict(f"tokencut:{file}", folder),
    "selfmask": lambda file, folder: predict(f"selfmask:{file}", folder),
    "found": lambda file, folder: predict(f"found:{file}", folder),
    "maskcut": lambda file, folder: predict(f"maskcut:{file}", folder),
    "train-found": lambda file, folder: [
        "saliency", "train", "--images", folder / "images", "--preset", "found", "--backbone-weights", file,
        "--out", folder / "out" / "run",
    ],
    "train": lambda file, folder: [
        "saliency", "train", "--images", folder / "images", "--preset", "tiny", "--backbone-weights", file,
        "--out", folder / "out" / "run",
    ],
    "pretrain": lambda file, folder: [
        "pretrain", "--method", "moco", "--recipe", "smoke", "--start-weights", file, "--store", folder / "scenes.zarr",
        "--out", folder / "out" / "run",
    ],
}  # fmt: skip


def predict(detector: str, folder: Path) -> list[object]:
    return ["saliency", "predict", "--images", folder / "images", "--detector", detector, "--out", folder / "out"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An image, for those that want some."""
    (tmp_path / "images").mkdir()
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "images" / "1.jpg")
    return tmp_path


@cells(WEIGHTS, COMMANDS, {("code.pth", "tokencut"), ("deep-header", "tokencut")})
@pytest.mark.filterwarnings("ignore:Sparse")  # of torch's, while the file is made
def test_weights_that_are_none_are_refused_and_nothing_is_run(
    given: str, command: str, folder: Path, request: pytest.FixtureRequest
) -> None:
    if command == "pretrain":
        scenes = request.getfixturevalue("scenes")
        for name in ("scenes.zarr", "scenes.beton", "scenes.beton.json"):
            (folder / name).symlink_to(scenes.with_name(name))
    suffix, content = WEIGHTS[given]
    file, marker = folder / f"weights{suffix}", folder / "executed"
    file.write_bytes(content(marker))
    run_cell(COMMANDS[command](file, folder), refused(r"weights\.(pth|safetensors)"), folder)
    assert not marker.exists()
    assert not any(path.is_file() for path in (folder / "out").rglob("*"))
