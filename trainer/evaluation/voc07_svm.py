"""One linear SVM for each class of VOC2007 on frozen features: CAST (Selvaraju et al. 2021), Tables 1 and 2.

VirTex's protocol (Desai and Johnson 2020, arXiv 2006.06666, section 4.1, and released code): images resized to
224 x 224, the last feature map averaged to 2 x 2 cells, of unit length; cost of each class by 3-fold average precision
on trainval; mean over classes of the average precision on test, as scikit-learn has it (not 11 points, no envelope).
Difficult objects: in training their images are negatives, in testing they are left out, class by class.

Legend: N images, D features.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
from torch import Tensor
from torch.nn import functional

from backdrop.devices import num_cores
from backdrop.errors import UserError
from backdrop.ranks import present
from backdrop.settings import SEEDS, above, at_least, check_settings, one_of
from backdrop.trainer.evaluation.data.images import Images
from backdrop.trainer.evaluation.data.transforms import Transform, resized_to_square
from backdrop.trainer.evaluation.harness.defaults import no_facts, no_problems, nothing_beside
from backdrop.trainer.evaluation.harness.result import Result
from backdrop.trainer.evaluation.harness.subject import Subject, pretrained_backbone, weights_digest
from backdrop.trainer.evaluation.probing.features import FORMATS, FeatureFile, Features, features_of

DATA = "voc"
LAYOUT = (
    "ROOT/JPEGImages/*.jpg and ROOT/ImageSets/Main/<class>_{trainval,test}.txt, ROOT = VOC2007 or a folder that holds "
    "VOC2007 or VOCdevkit/VOC2007"
)
SOURCE = "http://host.robots.ox.ac.uk/pascal/VOC/voc2007 (trainval and test, into one folder)"
TAKES_DAYS = False
needed_beside = nothing_beside
facts_of_data = no_facts
problems_of_data = no_problems
CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
NUM_IMAGES = {"trainval": 5_011, "test": 4_952}
_NUM_FOLDS = 3
PRESENT, ABSENT, DIFFICULT = 1, -1, 0


@dataclass(frozen=True, kw_only=True)
class Options:
    """What may be chosen; the defaults are VirTex's."""

    costs: Annotated[tuple[float, ...], above(0), "Costs of the SVM to choose from"] = (0.01, 0.1, 1.0, 10.0)
    max_iterations: Annotated[int, at_least(1), "Iterations of liblinear at most"] = 2000
    size_px: Annotated[int, at_least(1), "Side of the square images"] = 224
    dtype: Annotated[
        str,
        one_of(FORMATS),
        "Format of the features that are kept; scikit-learn computes in float64",
    ] = "float32"
    processes: Annotated[
        int,
        at_least(0),
        "Processes that fit classes beside each other, each with a copy of the features (330 MB); 0 = one per core",
    ] = 0
    seed: Annotated[int, SEEDS, "Of liblinear's coordinate descent"] = 0


@dataclass(frozen=True, kw_only=True)
class Score:
    """Of one class: its average precision on test (NaN where test has no positive), cost, and fits cut short."""

    average_precision: float
    cost: float
    num_unconverged: int


def run(subject: Subject, data: Path, options: Options) -> Result:
    """Score a network: voc07_map, and ap_<class> of each class."""
    _check(options)
    transform = resized_to_square(options.size_px)
    _check_sklearn()
    result = Result(facts={"release": "VOC2007", "projection": "none", "bn_mode": "eval"})
    result.facts["average precision"] = "scikit-learn's"
    root = found_root(data)
    labels = {split: read_labels(root, split) for split in NUM_IMAGES}
    backbone = pretrained_backbone(subject)
    result.facts["pretrained_sha256"] = digest = weights_digest(backbone, None)
    features = {}
    for split, (names, label_NK) in labels.items():
        result.expect(f"{split} images", len(names), NUM_IMAGES[split])
        features[split] = features_of(
            lambda image_BCHW: pooled(backbone.forward_map(image_BCHW)),
            Images(root / "JPEGImages", tuple(f"{name}.jpg" for name in names), label_NK),
            transform,
            file=FeatureFile(folder=subject.folder, name=f"voc07-{split}", dtype=options.dtype),
            identity=(digest, "2 x 2, unit length"),
            device=subject.device,
        )
        result.note_corrupt(features[split].corrupt)
    label_of_split = {split: label_NK for split, (_, label_NK) in labels.items()}
    scores = present(subject.device).by_first(lambda: _fit_all(features, label_of_split, options))
    _report(scores, transform, result)
    return result


def pooled(feature_BChw: Tensor) -> Tensor:
    """Average a feature map to 2 x 2 cells (of 7 x 7: rows 0-3 and 3-6), of unit length: (B, 4 * C)."""
    return functional.normalize(functional.adaptive_avg_pool2d(feature_BChw, 2).flatten(1), dim=1, eps=1e-30)


def found_root(data: Path) -> Path:
    """Return the folder of VOC2007. Raises: UserError: it is not there."""
    root = next(
        (data / name for name in ("", "VOC2007", "VOCdevkit/VOC2007") if (data / name / "JPEGImages").is_dir()), None
    )
    if root is None:
        raise UserError(f"{data} holds no VOC2007. Expected: {LAYOUT}. From: {SOURCE}")
    return root


def read_labels(root: Path, split: str) -> tuple[list[str], np.ndarray]:
    """Read the lists of all classes.

    Args: root: of VOC2007. split: "trainval" or "test".
    Returns: names of the images, and int8 (N, 20): PRESENT, ABSENT or DIFFICULT.
    Raises: UserError: a list is not there, is no list, or names other images than the first.
    """
    columns, names = [], None
    for name in CLASSES:
        path = root / "ImageSets" / "Main" / f"{name}_{split}.txt"
        try:
            rows = [line.split() for line in path.read_text().splitlines() if line.strip()]
            column = {row[0]: int(row[1]) for row in rows}
        except (OSError, ValueError, IndexError) as error:
            raise UserError(f"{path} cannot be read as a list of images: {error}. Expected: {LAYOUT}") from error
        if not set(column.values()) <= {PRESENT, ABSENT, DIFFICULT} or len(column) != len(rows) or not rows:
            raise UserError(f"{path} must have each image once, with 1, -1 or 0. Expected: {LAYOUT}")
        names = list(column) if names is None else names
        if set(column) != set(names):
            raise UserError(f"{path} names other images than {CLASSES[0]}_{split}.txt. Expected: {LAYOUT}")
        columns.append([column[image] for image in names])
    assert names is not None
    return names, np.array(columns, dtype=np.int8).T


def _check(options: Options) -> None:
    check_settings(options)
    if not options.costs:
        raise UserError("costs is empty; give one number or more, e.g. costs=0.01,0.1,1,10")


def _check_sklearn() -> None:
    try:
        import sklearn  # noqa: F401
    except ImportError as error:
        raise UserError("this evaluation needs scikit-learn: pip install scikit-learn") from error


def _fit_all(features: dict[str, Features], label_NK: dict[str, np.ndarray], options: Options) -> list[Score]:
    """Fit every class, several beside each other."""
    from joblib import Parallel, delayed

    # Once as float64, which liblinear wants; shared between the processes through a memory map.
    feature_ND = {split: np.asarray(found.feature_ND[found.row_M], np.float64) for split, found in features.items()}
    there_NK = {split: label_NK[split][found.row_M] for split, found in features.items()}
    return Parallel(n_jobs=options.processes or num_cores())(
        delayed(fit_class)(
            *(LabelledFeatures(feature_ND[split], there_NK[split][:, k]) for split in NUM_IMAGES),
            name=name,
            options=options,
        )
        for k, name in enumerate(CLASSES)
    )


class LabelledFeatures(NamedTuple):
    """Features of images, float64 (N, D), and of one class PRESENT, ABSENT or DIFFICULT in each, int8 (N,)."""

    feature_ND: np.ndarray
    label_N: np.ndarray


def fit_class(trainval: LabelledFeatures, test: LabelledFeatures, *, name: str, options: Options) -> Score:
    """Choose the cost of one class by cross-validation, fit it on all of trainval, and score it on test.

    Args: name: of the class, for messages. options: the costs to choose from, of equally good ones the first.
    Raises: UserError: fewer positives, or negatives, than there are folds.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.metrics import average_precision_score
    from sklearn.model_selection import cross_val_score
    from sklearn.svm import LinearSVC

    # Difficult ones are negatives here.
    sign_N = np.where(trainval.label_N == PRESENT, 1, -1)
    if min((sign_N == 1).sum(), (sign_N == -1).sum()) < _NUM_FOLDS:
        raise UserError(f"class {name} has fewer than {_NUM_FOLDS} positives or negatives in trainval")

    def machine(cost: float) -> LinearSVC:
        # The dual problem, as scikit-learn's "auto" also has it where there are more features than images.
        return LinearSVC(
            C=cost, class_weight={1: 2, -1: 1}, penalty="l2", loss="squared_hinge", dual=True,
            max_iter=options.max_iterations, random_state=options.seed,
        )  # fmt: skip

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        means = [
            cross_val_score(
                machine(cost), trainval.feature_ND, sign_N, cv=_NUM_FOLDS, scoring="average_precision"
            ).mean()
            for cost in options.costs
        ]
        cost = options.costs[int(np.argmax(means))]
        fitted = machine(cost).fit(trainval.feature_ND, sign_N)
    counted = test.label_N != DIFFICULT
    is_present_N = test.label_N[counted] == PRESENT
    score_N = fitted.decision_function(test.feature_ND[counted]) if counted.any() else np.empty(0)
    precision = float(average_precision_score(is_present_N, score_N)) if is_present_N.any() else float("nan")
    cut_short = sum(issubclass(warning.category, ConvergenceWarning) for warning in caught)
    return Score(average_precision=precision, cost=cost, num_unconverged=cut_short)


def _report(scores: list[Score], transform: Transform, result: Result) -> None:
    precision_K = np.array([score.average_precision for score in scores])
    for name in np.array(CLASSES)[np.isnan(precision_K)]:
        result.problems.append(f"class {name} has no positive in test: left out of the mean")
    if np.isnan(precision_K).all():
        raise UserError(f"no class has a positive in test. Expected: {LAYOUT}")
    result.metrics["voc07_map"] = 100.0 * float(np.nanmean(precision_K))
    for name, precision in zip(CLASSES, precision_K, strict=True):
        if not np.isnan(precision):
            result.metrics[f"ap_{name}"] = 100.0 * float(precision)
    result.facts |= {
        "transform": transform.name,
        "features": "last map averaged to 2 x 2, unit length",
        "difficult": "negatives in training, left out in testing",
        "costs": {name: score.cost for name, score in zip(CLASSES, scores, strict=True)},
        "fits cut short": sum(score.num_unconverged for score in scores),
    }
