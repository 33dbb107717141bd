"""The network that is scored: its backbone, its classifier of 1,000 classes where it has one, and what it is called."""

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn

from backdrop.errors import UserError, program
from backdrop.progress import warn
from backdrop.stores.images.image_codec import sha256
from backdrop.tensor_files import named_bytes, readable
from backdrop.trainer.evaluation.harness.weights import NUM_CLASSES, load_network
from backdrop.trainer.parts.backbones import Backbone
from backdrop.trainer.run import checkpoint, run_folder
from backdrop.trainer.settings import RunSettings

# The classifier that `evaluate linear` leaves for a network, with the BN statistics it was fitted on.
PROBE_FILE = "linear.safetensors"
# Below a run's folder, of what is scored of its networks before they were trained.
UNTRAINED_FOLDER = "untrained"


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A network to score.

    backbone: images (B, 3, H, W), normalised, to features (B, D); in evaluation mode, on `device`.
    head: features to logits of the 1,000 classes in the order of their sorted WordNet ids, or of ImageNet-9's nine;
        None = not known.
    weights_sha256: of backbone and head, by their names and values, so that the same weights in another file are equal.
    classifier: where `head` comes from, see `classifier_of`; "" = there is none.
    own_head: the classifier that a run trained with its backbone, of whatever classes; own_classes: the data set whose
        they are, "" where unknown.
    pretrained_at: where the weights are without what `evaluate linear` changed since (BN statistics); None = these are.
    untrained_seed: of a network whose weights were drawn anew, which no training has seen; None = it is trained.
    bn_mode: how BatchNorm stood when the head was fitted: "eval" or "adapt" (`linear`); "eval" where unknown.
    image_size_px: side of the images it is at home with. method: of the run, "" where unknown.
    folder: where per-image outputs and probes of it are kept. run: the run's folder, None for a weights file.
    """

    backbone: Backbone
    head: nn.Linear | None
    weights_sha256: str
    bn_mode: str
    image_size_px: int
    method: str
    folder: Path
    run: Path | None
    device: torch.device
    classifier: str = ""
    own_head: nn.Linear | None = None
    own_classes: str = ""
    pretrained_at: Path | None = None
    untrained_seed: int | None = None

    @property
    def probe_folder(self) -> Path:
        """Where `evaluate linear` leaves a classifier for it: in a run's folder itself, or with its evaluations."""
        return self.folder if self.run is None or self.untrained_seed is not None else self.run

    @property
    def precision(self) -> str:
        """Number format of the backbone's convolutions, by its name in torch."""
        return str(self.backbone.autocast_dtype or torch.float32).removeprefix("torch.")

    def logits(self, image_BCHW: torch.Tensor, num_classes: int = NUM_CLASSES) -> torch.Tensor:
        """Return float32 (B, num_classes). Raises: UserError: there is no classifier, or one of another number."""
        if self.head is None:
            raise UserError(
                "these weights have no classifier of the 1,000 classes; fit one first: "
                f"{program()} evaluate linear --run RUN --data IMAGENET, or with --weights FILE for --run RUN"
            )
        if self.head.out_features != num_classes:
            raise UserError(
                f"this evaluation wants a network of {num_classes} outputs; this one has {self.head.out_features}. "
                "Nine outputs are for `evaluate imagenet-9 --set nine_outputs=true`, and for nothing else"
            )
        return self.head(self.backbone(image_BCHW))


def open_subject(run_or_weights: Path, device: torch.device, *, is_untrained: bool = False) -> Subject:
    """Load a network.

    Args:
        run_or_weights: folder of a run of pretrain, or a file of weights, see `weights.load_network`. Where it has no
            classifier of its own, that of `evaluate linear` is taken, if it was fitted on these very weights.
        device: where to score.
        is_untrained: whether its weights are drawn anew instead, by the run's seed; it has no classifier then but what
            `evaluate linear` left of these.
    Raises: UserError: nothing of the kind is there, or it is damaged.
    """
    path, is_run = Path(run_or_weights), Path(run_or_weights).is_dir()
    settings = run_folder.read_settings(path) if is_run else None
    seed = untrained_seed(path) if is_untrained else None
    backbone, head = loaded(path, seed, says=True)
    own = checkpoint.load_classifier(path) if is_run and not is_untrained else None
    probe = probe_of(path, backbone, head, is_untrained=is_untrained)
    classifier = "" if head is None else classifier_of(settings)
    if probe is not None:
        (backbone, head), classifier = load_network(probe), FITTED
    elif head is None and (left := _probe_file(path, is_untrained)).is_file():
        warn(f"{left} is of earlier weights of {path}: not used. Fit it anew with evaluate linear")
    return Subject(
        backbone=_at_home(backbone, device),
        head=None if head is None else head.to(device).eval(),
        weights_sha256=weights_digest(backbone, head),
        classifier=classifier,
        own_head=None if own is None else own.layer.to(device),
        own_classes="" if own is None else own.dataset,
        bn_mode=probe_facts(probe or path).get("bn_mode", "eval"),
        # Features are at home at the resolution they were learned at.
        image_size_px=settings.views[0].size_px if settings else 224,
        method=settings.method if settings else "",
        folder=_folder(path, is_untrained),
        run=path if is_run else None,
        device=device,
        pretrained_at=None if probe is None else path,
        untrained_seed=seed,
    )


def untrained_seed(run_or_weights: Path) -> int:
    """Return what decides the weights of the network untrained: the run's seed, 0 of a file of weights."""
    return run_folder.read_settings(run_or_weights).seed if run_or_weights.is_dir() else 0


def loaded(
    run_or_weights: Path, untrained_seed: int | None, *, says: bool = False
) -> tuple[Backbone, nn.Linear | None]:
    """Return what `load_network` gives; with a seed, a backbone of its kind with weights drawn anew, and no head."""
    backbone, head = load_network(run_or_weights, says=says)
    return (backbone, head) if untrained_seed is None else (untrained_like(backbone, untrained_seed).eval(), None)


# Where a classifier comes from, as a score says it.
FITTED = "fitted by evaluate linear"
OF_THE_FILE, TRAINED = "of the weights file", "trained with the network"
RETRAINED, FINE_TUNED = "retrained on a frozen network", "fine-tuned with the network"


def classifier_of(settings: RunSettings | None) -> str:
    """Return how a network's own classifier was trained: Table 7 of Ryali et al. tells these apart.

    Args: settings: of the run that trained it; None = a file of weights.
    """
    if settings is None:
        return OF_THE_FILE
    if not getattr(settings.algorithm, "start_from", ""):
        return TRAINED
    return RETRAINED if settings.algorithm.trained == "classifier" else FINE_TUNED


def probe_of(
    run_or_weights: Path, backbone: Backbone, head: nn.Linear | None, *, is_untrained: bool = False
) -> Path | None:
    """Return the classifier that `evaluate linear` left of these very weights, None where there is none.

    Args: backbone, head: what `loaded` gives. A run that went on since has another backbone than its classifier.
    """
    file = _probe_file(run_or_weights, is_untrained)
    if head is not None or not file.is_file():
        return None
    return file if probe_facts(file).get("pretrained_sha256") == weights_digest(backbone, None) else None


def _probe_file(run_or_weights: Path, is_untrained: bool) -> Path:
    """Where `linear` leaves it: in a run's folder itself, or in that of a weights file's evaluations."""
    is_beside = is_untrained or not run_or_weights.is_dir()
    return (_folder(run_or_weights, is_untrained) if is_beside else run_or_weights) / PROBE_FILE


def _folder(run_or_weights: Path, is_untrained: bool) -> Path:
    if run_or_weights.is_dir():
        return run_or_weights / (UNTRAINED_FOLDER if is_untrained else "evaluation")
    folder = run_or_weights.with_name(run_or_weights.name + ".evaluation")
    return folder / UNTRAINED_FOLDER if is_untrained else folder


def number_format(device: torch.device) -> torch.dtype | None:
    """Return the format of convolutions on a device, None = float32: as `pretrain` has it by default."""
    return torch.bfloat16 if device.type == "cuda" else None


def _at_home(backbone: Backbone, device: torch.device) -> Backbone:
    backbone.autocast_dtype = number_format(device)
    return backbone.to(device).eval()


def pretrained_backbone(subject: Subject) -> Backbone:
    """Return the backbone as it was trained: without the BN statistics that `evaluate linear` adapted since.

    A copy, in evaluation mode, so that what is fitted on it stays out of the subject.
    """
    at, seed = subject.pretrained_at, subject.untrained_seed
    backbone = subject.backbone if at is None else loaded(at, seed)[0]
    return _at_home(copy.deepcopy(backbone), subject.device)


def probe_facts(file: Path) -> dict[str, str]:
    """Return what `evaluate linear` wrote of a classifier; {} where it is no file of its own."""
    if not file.is_file() or file.suffix != ".safetensors":
        return {}
    with readable(file), safe_open(file, framework="pt", device="cpu") as opened:
        return opened.metadata() or {}


def weights_digest(backbone: nn.Module, head: nn.Module | None) -> str:
    """Return the sha256 of all weights and statistics by name, whatever file or format they came from."""
    tensors = {f"backbone.{name}": value for name, value in backbone.state_dict().items()}
    if head is not None:
        tensors |= {f"head.{name}": value for name, value in head.state_dict().items()}
    return sha256(b"\0".join(part for pair in named_bytes(tensors) for part in pair)).hex()


def untrained_like(backbone: Backbone, seed: int = 0) -> Backbone:
    """Return a copy whose weights are drawn anew, as its family draws them; always the same ones of a seed.

    Args: backbone: left as it is.
    """
    untrained = copy.deepcopy(backbone)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        untrained.reset()
    return untrained
