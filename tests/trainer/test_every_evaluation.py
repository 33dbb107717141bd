"""What every file of trainer/evaluation must do: say what it needs, refuse anything else, count what is odd in it."""

import dataclasses
import inspect
import json
import shutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from backdrop.errors import UserError
from backdrop.trainer import evaluation
from backdrop.trainer.evaluation import EVALUATIONS, imagenet_c, limited_labels, linear
from backdrop.trainer.evaluation.harness.result import Result
from backdrop.trainer.evaluation.probing import probe as _probe
from tests.material.cifar_files import write_cifar10
from tests.material.detection_fixtures import tiny_subject
from tests.material.evaluation_fixtures import FACTS, WNIDS, imagenet_split, oracle, paint, save_image, write_tree
from tests.material.imagenet_9_scenes import CLASS_OF_FOLDER
from tests.material.objectnet_mappings import write_mappings

# A run and its store are needed before anything is read, or masks are: their own tests have these.
NEEDS_MORE = ("grounding", "mask-quality")


@pytest.fixture(params=evaluation.NAMES)
def task(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def module(task: str) -> ModuleType:
    return import_module(f"backdrop.trainer.evaluation.{task.replace('-', '_')}")


def test_says_what_it_needs_and_where_that_comes_from(module: ModuleType) -> None:
    assert module.DATA
    assert "ROOT/" in module.LAYOUT or "DIR/" in module.LAYOUT
    assert module.SOURCE
    assert list(inspect.signature(module.run).parameters) == ["subject", "data", "options"]
    assert "score" in (module.run.__doc__ or "").lower()


def test_options_are_frozen_and_all_have_defaults(module: ModuleType) -> None:
    options = module.Options()
    for field in dataclasses.fields(options):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(options, field.name, None)


def test_another_layout_is_refused_with_the_one_expected(task: str, module: ModuleType, tmp_path: Path) -> None:
    if task in NEEDS_MORE:
        pytest.skip("it looks for a run's store or for masks first")
    data = tmp_path / "something"
    write_tree(data, {"photos/1.jpg": 3, "notes.txt": "nothing of the kind"})
    subject = tiny_subject(tmp_path) if task in ("voc-detection", "coco-segmentation") else oracle(tmp_path)
    with pytest.raises(UserError, match=r"[Ee]xpected"):
        module.run(subject, data, module.Options())


def test_a_folder_that_is_not_there_is_refused(
    task: str, module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also "sample", which the command line lets through for the evaluations that have one."""
    if task == "grounding":
        pytest.skip("it looks for a run's store first")
    monkeypatch.chdir(tmp_path)
    subject = tiny_subject(tmp_path) if task in ("voc-detection", "coco-segmentation") else oracle(tmp_path)
    for data in ("nowhere", *(["sample"] if task not in ("knn", "limited-labels", "linear") else [])):
        with pytest.raises(UserError, match=data):
            module.run(subject, Path(data), module.Options())


@pytest.mark.parametrize(
    ("task", "options", "words"),
    [
        ("cifar10", {"dtype": "float64"}, "dtype='float64' is unknown; allowed: float16, float32"),
        ("cifar10", {"score_epochs": 0}, "score_epochs=0 must be 1 or more"),
        ("cifar10", {"size_px": 0}, "size_px=0 must be 1 or more"),
        ("places205", {"score_epochs": 0}, "score_epochs=0 must be 1 or more"),
        ("voc07-svm", {"dtype": "float64"}, "dtype='float64' is unknown"),
        ("linear", {"score_epochs": 0}, "score_epochs=0 must be 1 or more"),
        ("voc07-svm", {"costs": ()}, "costs is empty"),
        ("voc07-svm", {"costs": (1.0, 0.0)}, "costs=1.0,0.0 must be above 0"),
        ("voc07-svm", {"max_iterations": 0}, "max_iterations=0 must be 1 or more"),
        ("voc07-svm", {"size_px": 0}, "size_px=0 must be 1 or more"),
    ],
)
def test_a_value_out_of_range_is_refused(
    task: str, options: dict[str, Any], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first step of a fit."""
    monkeypatch.setattr(_probe, "lr_fraction", None)
    module, data = EVALUATIONS.load(task), tmp_path / "data"
    if task == "cifar10":
        write_cifar10(data)
    else:
        _imagenet(data)
    with pytest.raises(UserError, match=words):
        module.run(oracle(tmp_path), data, module.Options(**options))


@pytest.mark.parametrize("name", ["imagenet-r", "imagenet-9", "linear"])
def test_a_link_to_nowhere_is_a_damaged_image(name: str, tmp_path: Path) -> None:
    module, odd = EVALUATIONS.load(name), ODD[name](tmp_path / "data")
    odd.damage.unlink()
    odd.damage.symlink_to(tmp_path / "nowhere")
    result = module.run(oracle(tmp_path), odd.root, odd.options or module.Options())
    assert any(odd.damage.name in problem and "cannot be decoded" in problem for problem in result.problems)


# ------------------------------------------------------------------------------------------------------ what is odd


@dataclasses.dataclass(frozen=True)
class Odd:
    """A tiny data set. damage: one of its images. stray: a file that is none of its. missing: a class folder."""

    root: Path
    damage: Path
    stray: Path | None
    missing: Path | None
    options: Any = None


def _imagenet(root: Path, options: Any = None) -> Odd:
    for split in ("train", "val"):
        imagenet_split(root, split, {label: [label] * 3 for label in (3, 40, 700)})
    names = [path.name for path in sorted((root / "train").rglob("*.JPEG"))]
    write_tree(root, {f"{percent}percent.txt": "\n".join(names) for percent in (1, 10)})
    (root / "real.json").write_text(json.dumps([[label] for _ in range(3) for label in (3, 40, 700)]))
    folder = root / "val" / WNIDS[3]
    return Odd(root, sorted(folder.iterdir())[0], folder / "notes.txt", root / "val" / WNIDS[700], options)


def _wnids(root: Path, classes: tuple[int, ...]) -> Odd:
    write_tree(root, {f"{WNIDS[label]}/{number}.jpg": label for label in classes for number in range(2)})
    folder = root / WNIDS[classes[0]]
    return Odd(root, folder / "0.jpg", folder / "notes.txt", root / WNIDS[classes[1]])


def _imagenet_c(root: Path) -> Odd:
    for name in imagenet_c.CORRUPTIONS:
        for severity in imagenet_c.SEVERITIES:
            write_tree(root / name / str(severity), {f"{WNIDS[label]}/1.JPEG": label for label in (3, 7)}, (224, 224))
    folder = root / "fog" / "1" / WNIDS[3]
    return Odd(root, folder / "1.JPEG", folder / "notes.txt", root / "snow" / "2")


def _imagenet_9(root: Path) -> Odd:
    for variant in ("original", "mixed_same"):
        for folder, label in CLASS_OF_FOLDER.items():
            save_image(root / variant / "val" / folder / "1.JPEG", paint(label, (224, 224)))
    folder = root / "original/val/00_dog"
    return Odd(root, root / "original/val/01_bird/1.JPEG", folder / "notes.txt", root / "original/val/08_fish")


def _imagenet_v2(root: Path) -> Odd:
    folder = root / "imagenetv2-matched-frequency"
    write_tree(folder, {f"{label}/{number}.jpeg": label for label in (0, 2, 10, 100) for number in range(2)})
    return Odd(root, folder / "2/0.jpeg", folder / "2/notes.txt", folder / "100")


def _objectnet(root: Path) -> Odd:
    write_mappings(root / "mappings")
    painted = {"alarm_clock/0.png": 409, "bike/0.png": 671, "bike/1.png": 671, "zz_bannana/0.png": 954}
    write_tree(root / "images", painted)
    return Odd(root, root / "images/bike/0.png", root / "images/bike/notes.txt", root / "images/zz_bannana")


def _shape_bias(root: Path) -> Odd:
    write_tree(
        root, {f"{name}.png": 281 for name in ("cat/cat1-dog2", "cat/cat2-dog2", "dog/dog1-cat2", "car/car1-cat1")}
    )
    return Odd(root, root / "cat/cat1-dog2.png", root / "cat/notes.txt", root / "car")


SHORT = linear.Options(protocol="swav", epochs=1, warmup_epochs=0, batch_size=4, training="cached_centre")
# The others' damage is another (lists, arrays, annotations), in their own tests.
ODD: dict[str, Callable[[Path], Odd]] = {
    "classification": _imagenet,
    "fgsm": _imagenet,
    "imagenet-9": _imagenet_9,
    "imagenet-a": lambda root: _wnids(root, (6, 11, 13)),
    "imagenet-c": _imagenet_c,
    "imagenet-r": lambda root: _wnids(root, (1, 2, 4)),
    "imagenet-v2": _imagenet_v2,
    "knn": _imagenet,
    "linear": lambda root: _imagenet(root, SHORT),
    "limited-labels": lambda root: _imagenet(root, limited_labels.Options(modes=("linear",), linear=SHORT)),
    "objectnet": _objectnet,
    "real": _imagenet,
    "shape-bias": _shape_bias,
}


@pytest.fixture(params=ODD)
def odd_task(request: pytest.FixtureRequest) -> str:
    return request.param


def test_what_is_odd_is_counted_and_strict_fails(odd_task: str, tmp_path: Path) -> None:
    """A truncated image, a file too many, a class too few: each is told, and none shifts a label or ends the run."""
    module, odd = EVALUATIONS.load(odd_task), ODD[odd_task](tmp_path / "data")
    options = odd.options or module.Options()
    whole = module.run(oracle(tmp_path / "before"), odd.root, options)
    content = odd.damage.read_bytes()
    odd.damage.write_bytes(content[: min(200, len(content) // 2)])
    if odd.stray is not None:
        odd.stray.write_text("")
    if odd.missing is not None:
        shutil.rmtree(odd.missing)
    result: Result = module.run(oracle(tmp_path / "after"), odd.root, options)
    assert result.facts.keys() >= FACTS
    new = "\n".join(problem for problem in result.problems if problem not in whole.problems)
    assert odd.damage.name in new
    assert odd.stray is None or odd.stray.name in new
    assert len(new.splitlines()) >= 2 + (odd.stray is not None)  # the class' absence changed a count or a list
    with pytest.raises(UserError, match="--strict: "):
        result.fail_where_strict(True)
