"""Every setting of the DeepUSPS2 procedure, and the presets.

Sources: Nguyen et al. 2019 ("DeepUSPS"; its published code where the text is silent, marked "code") and Ryali et al.
2021, appendix A ("DeepUSPS2": the same procedure on a self-supervised DRN-D-105).
"""

from dataclasses import dataclass
from importlib.util import find_spec

from saliency.classical import NAMES
from saliency.drn import TABLES
from saliency.preprocessing import IMAGENET_MEAN_RGB, IMAGENET_STD_RGB
from stores.errors import UserError

# "paper" becomes the default once its parts (mc, hs, dsr, dense CRF) are here: a default must run.
DEFAULT_PRESET = "tiny"


@dataclass(frozen=True, kw_only=True)
class DeepUspsSettings:
    """What decides a trained detector besides the images, the seed and the initial weights. Defaults: the papers'."""

    architecture: str = "drn_d_105"
    # a name of saliency.drn.TABLES
    methods: tuple[str, ...] = ("mc", "hs", "dsr", "rbd")
    # classical detectors that give the first pseudo-labels (code)
    first_thresholds: tuple[float, ...] | None = (0.31, 0.36, 0.23, 0.25)
    # of the classical maps, one per method (code); None = 1.5 * mean saliency of the method over the images
    working_size_px: int = 432
    # images and maps are squashed to squares of this side (code)
    max_images: int | None = None
    # train on a random subset of this size; None = all
    mean_RGB: tuple[float, float, float] = IMAGENET_MEAN_RGB
    # those of the backbone's pretraining; DeepUSPS does not publish its own
    std_RGB: tuple[float, float, float] = IMAGENET_STD_RGB
    # likewise
    head_init_std: float = 1.0
    # of the 1x1 convolution (code: sqrt(2 / (k k out)) = 1 for k = 1, out = 2)
    rounds: int = 3
    # of refinement per method: one on the classical maps, then on the round before (code)
    stage1_epochs: int = 25
    # per round (code)
    stage1_learning_rates: tuple[float, ...] = (6e-6, 1.2e-5, 3e-5)
    # one per round: the code's (1, 2, 5)e-6 times the 6 of Ryali et al. ("6e-6 instead of the default 1e-6")
    stage1_batch_size: int = 20
    # images per step (code)
    stage1_beta_squared: float = 1.0
    # of the F-loss (code)
    average_decay: float = 0.7
    # of the moving average of predictions over epochs (DeepUSPS, alpha)
    stage2_epochs: int = 200
    # on the refined maps of all methods at once (code)
    stage2_learning_rate: float = 1e-4
    # (code)
    stage2_batch_size: int = 20
    # the code never accumulates to the 100 of its README, so its own runs had 20
    stage2_beta_squared: float = 4.0
    # of the F-loss (code); recall counts more
    refined_threshold: float = 0.5
    # of every pseudo-label but the classical maps (code)
    learning_rate_power: float = 0.9
    # polynomial decay per epoch: lr * (1 - epoch / epochs)^power (code)
    cpu_threads: int | None = None
    # of torch while training on a CPU; None = torch's own choice. Part of the settings because it can change last bits
    crf: bool = True
    # whether a dense CRF sharpens the predictions that enter the moving average (code)
    crf_at_test: bool = True
    # whether it sharpens the finished detector's maps (code: its test script; its loop over test sets does not)

    def __post_init__(self) -> None:
        """Refuse values that cannot work together, before any work is done."""
        if self.architecture not in TABLES:
            raise UserError(f"architecture {self.architecture!r} is unknown: give one of {', '.join(TABLES)}")
        if not self.methods or len(set(self.methods)) != len(self.methods):
            raise UserError(f"methods {self.methods} must name at least one classical detector, each once")
        if self.first_thresholds is not None and len(self.first_thresholds) != len(self.methods):
            raise UserError(f"first_thresholds {self.first_thresholds} must give one value per method {self.methods}")
        if self.rounds < 1 or len(self.stage1_learning_rates) != self.rounds:
            raise UserError(
                f"stage1_learning_rates {self.stage1_learning_rates} must give one per round ({self.rounds})"
            )
        counts = ("working_size_px", "stage1_epochs", "stage1_batch_size", "stage2_epochs", "stage2_batch_size")
        for name in counts:
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}: give at least 1")
        if not 0 <= self.average_decay < 1:
            raise UserError(f"average_decay {self.average_decay} is outside [0, 1)")


PRESETS = {
    "paper": DeepUspsSettings(),
    # The whole procedure in little: one method, one round, a network that trains on a CPU within a minute.
    "tiny": DeepUspsSettings(
        architecture="drn_d_tiny",
        methods=("rbd",),
        first_thresholds=(0.25,),
        working_size_px=128,
        max_images=448,
        head_init_std=0.01,
        rounds=1,
        stage1_epochs=3,
        stage1_learning_rates=(4e-3,),
        stage1_batch_size=8,
        stage2_epochs=7,
        stage2_learning_rate=4e-3,
        stage2_batch_size=8,
        # the paper's 4 favours recall, which a network this small turns into masks that are too large
        stage2_beta_squared=1.0,
        cpu_threads=1,  # layers this small only lose by more, fourfold on a busy machine
        crf=False,
        crf_at_test=False,
    ),
}


def preset_settings(name: str) -> DeepUspsSettings:
    """The settings of a preset.

    Raises:
        UserError: there is no such preset.
    """
    if name not in PRESETS:
        raise UserError(f"no preset {name!r}: give one of {', '.join(PRESETS)}")
    return PRESETS[name]


def has_dense_crf() -> bool:
    """Whether this version of the project comes with the dense CRF."""
    return find_spec("saliency.dense_crf") is not None


def require_everything(settings: DeepUspsSettings, name: str) -> None:
    """Refuse settings that need what this version does not have, naming all of it at once.

    Args:
        settings: of the training.
        name: of the preset, for the message.

    Raises:
        UserError: a classical detector or the dense CRF is missing.
    """
    missing = [f"the classical detector {method!r}" for method in settings.methods if method not in NAMES]
    if (settings.crf or settings.crf_at_test) and not has_dense_crf():
        missing.append("the dense CRF (crf, crf_at_test)")
    if missing:
        raise UserError(
            f"preset {name!r} needs {', '.join(missing)}, which this version does not have (it has: "
            f"{', '.join(NAMES)}). Use --preset tiny"
        )
