"""Every setting of the DeepUSPS2 procedure, and the presets.

Sources: Nguyen et al. 2019 ("DeepUSPS"; its published code where the text is silent, marked "code") and Ryali et al.
2021, appendix A ("DeepUSPS2": the same procedure on a self-supervised DRN-D-105).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from backdrop.errors import UserError
from backdrop.saliency.classical import NAMES
from backdrop.saliency.crf.dense_crf import DEFAULTS, REFERENCE_SIDE_PX, CrfSettings
from backdrop.saliency.networks.drn import ARCHITECTURES, PUBLISHED, STRIDE_PX
from backdrop.settings import above, at_least, check_settings, from_below, one_of, within, written
from backdrop.settings.overrides import split_override, with_override
from backdrop.stores.images.imagenet_statistics import IMAGENET_MEAN, IMAGENET_STD

# Of a head on a published network: the 2048 features of a ResNet-50, not normalised, or the 384 to 1280 of a ViT's last
# norm would start at logits of dozens with a DRN's 1.
PUBLISHED_HEAD_INIT_STD = 0.01


@dataclass(frozen=True, kw_only=True)
class DeepUspsSettings:
    """What decides a trained detector besides the images, the seed and the initial weights. Defaults: the papers'."""

    architecture: Annotated[str, one_of(ARCHITECTURES), "The network"] = "drn_d_105"
    methods: Annotated[
        tuple[str, ...],
        'Detectors that give the first pseudo-labels (code). One more source, say "masks:DIR", is one more name here',
    ] = ("mc", "hs", "dsr", "rbd")
    first_thresholds: Annotated[
        tuple[float | None, ...],
        within(0, 1),
        "Thresholds of the first pseudo-labels, one per method (code); None = 1.5 * mean saliency of the method over "
        "the images",
    ] = (0.31, 0.36, 0.23, 0.25)
    working_size_px: Annotated[int, at_least(1), "Images and maps are resized to squares of this side (code)"] = 432
    max_images: Annotated[int | None, at_least(1), "Train on a random subset of this size; None = all"] = None
    mean_RGB: Annotated[
        tuple[float, float, float],
        within(0, 1),
        "Mean of the colours, that of the backbone's pretraining; DeepUSPS does not publish its own",
    ] = IMAGENET_MEAN
    std_RGB: Annotated[tuple[float, float, float], above(0), "Standard deviation of the colours, likewise"] = (
        IMAGENET_STD
    )
    head_init_std: Annotated[
        float,
        at_least(0),
        "Standard deviation of the 1x1 convolution's weights at the start (code: sqrt(2 / (k k out)) = 1 for k = 1, "
        "out = 2)",
    ] = 1.0
    stage1_epochs: Annotated[int, at_least(1), "Passes over the images in each round of stage 1 (code)"] = 25
    stage1_learning_rates: Annotated[
        tuple[float, ...],
        at_least(0),
        "One per round of refinement: on the first pseudo-labels, then on the round before (code: three "
        'rounds, whose (1, 2, 5)e-6 are multiplied by the 6 of Ryali et al.: "6e-6 instead of the default '
        '1e-6")',
    ] = (6e-6, 1.2e-5, 3e-5)
    stage1_batch_size: Annotated[int, at_least(1), "Images per step (code)"] = 20
    stage1_beta_squared: Annotated[float, at_least(0), "beta^2 of stage 1's F-loss (code)"] = 1.0
    average_decay: Annotated[
        float,
        from_below(0, 1),
        "Decay of the moving average of predictions over epochs (DeepUSPS, alpha)",
    ] = 0.7
    averaged_epochs: Annotated[
        int | None,
        at_least(1),
        "How many last epochs of a round enter the moving average; None = all, as in the code. Of 25 epochs "
        "the last 12 carry 99 % of the weight, and only epochs that enter need the CRF",
    ] = None
    stage2_epochs: Annotated[
        int,
        at_least(1),
        "Passes over the images in stage 2, on the refined maps of all methods at once (code)",
    ] = 200
    stage2_learning_rate: Annotated[float, at_least(0), "Learning rate of stage 2 (code)"] = 1e-4
    stage2_batch_size: Annotated[
        int,
        at_least(1),
        "Images per step; the code never accumulates to the 100 of its README, so its own runs had 20",
    ] = 20
    stage2_beta_squared: Annotated[float, at_least(0), "beta^2 of stage 2's F-loss (code); recall counts more"] = 4.0
    refined_threshold: Annotated[
        float, within(0, 1), "Threshold of every pseudo-label but the classical maps (code)"
    ] = 0.5
    label_softness: Annotated[
        float | None,
        above(0),
        "First labels are logistic((t - threshold) / softness), refined ones are taken as they are, and the loss is "
        "cross-entropy and 1 - IoU (ours); None = labels cut at the threshold, and the F-loss (code)",
    ] = None
    label_share: Annotated[
        float | None,
        within(0, 1),
        "What the soft labels of a round weigh in the maps that enter its moving average, the rest being predictions; "
        "with label_softness (ours). None = predictions alone (code)",
    ] = None
    crf_share: Annotated[
        float | None,
        within(0, 1),
        "What the CRF's maps weigh in the moving average, the rest being what it was given (ours); None = all (code)",
    ] = None
    learning_rate_power: Annotated[
        float,
        at_least(0),
        "Polynomial decay per epoch: lr * (1 - epoch / epochs)^power (code)",
    ] = 0.9
    cpu_threads: Annotated[
        int | None,
        at_least(1),
        "Threads of torch while training on a CPU; None = torch's own choice. Part of the settings because it can "
        "change last bits",
    ] = None
    flip: Annotated[
        bool,
        "Whether each image is mirrored at random (ours; the authors augment nothing). Maps are kept unmirrored",
    ] = False
    scales: Annotated[
        tuple[float, ...],
        above(0),
        "Sizes in shares of the working size, one drawn per batch (ours, likewise). Maps are kept at the working size",
    ] = (1.0,)
    crf: Annotated[CrfSettings, "The kernels, wherever a dense CRF is used (code)"] = DEFAULTS
    crf_in_training: Annotated[bool, "Whether it sharpens the predictions that enter the moving average (code)"] = True
    crf_at_test: Annotated[
        bool,
        "Whether it sharpens the finished detector's maps (code: its test script; its loop over test sets does not)",
    ] = True
    crf_test_size_px: Annotated[
        int | None,
        at_least(1),
        "Side of the square it then works at; None = the working size (code)",
    ] = None

    crf_test_weight: Annotated[
        float,
        above(0),
        "What its kernels then weigh, in shares of what they weigh in training (ours: in the code they are the same)",
    ] = 1.0
    mirrored_at_test: Annotated[
        bool,
        "Whether the finished detector's map is the mean with that of the mirrored image (ours)",
    ] = False
    companions: Annotated[
        tuple[str, ...] | None,
        one_of(NAMES),
        "Classical detectors whose maps are averaged with the finished network's, before its CRF (ours); None = none",
    ] = None
    companion_share: Annotated[float, within(0, 1), "What they weigh together, the rest being the network's"] = 0.0

    @property
    def test_crf(self) -> CrfSettings | None:
        """The CRF of the finished detector: the kernels grow with the size it works at."""
        if not self.crf_at_test:
            return None
        crf = self.crf.at_scale((self.crf_test_size_px or self.working_size_px) / self.working_size_px)
        return replace(
            crf,
            spatial_weight=crf.spatial_weight * self.crf_test_weight,
            bilateral_weight=crf.bilateral_weight * self.crf_test_weight,
        )

    @property
    def array_names(self) -> tuple[str, ...]:
        """One name per method, of letters, digits and hyphens, for the arrays of the pseudo-label file.

        Of a path only the last part, options kept: "masks:/data/token-cut:alpha" is "masks-token-cut-alpha".
        """
        return tuple(_array_name(method.lower()) for method in self.methods)


def _array_name(method: str) -> str:
    without_folders = re.sub(r"[^:,]*/+(?=[^:,/])", "", method)
    return re.sub(r"[^a-z0-9]+", "-", without_folders).strip("-")


PRESETS = {
    "paper": DeepUspsSettings(),
    # The procedure on a CPU within an hour: a narrow network with skips at a third of the size, from random weights,
    # which the papers' learning rates (for fine-tuning) would not move. What four networks learnt from a detector each
    # one learns from their mean; what is added was chosen on DUTS photographs, see saliency/DETECTORS.md.
    "small": DeepUspsSettings(
        architecture="drn_d_small_skips",
        methods=("mean",),
        first_thresholds=(0.3,),
        working_size_px=128,
        head_init_std=0.01,
        stage1_epochs=10,
        stage1_learning_rates=(4e-3,),
        stage1_batch_size=8,
        averaged_epochs=3,
        stage2_epochs=16,
        stage2_learning_rate=4e-3,
        stage2_batch_size=8,
        label_softness=0.08,
        label_share=0.5,
        crf_share=0.5,
        cpu_threads=1,
        flip=True,
        crf=DEFAULTS.at_scale(128 / REFERENCE_SIDE_PX),
        crf_test_size_px=432,
        crf_test_weight=0.5,
        mirrored_at_test=True,
        companions=("mc", "hs", "rbd"),
        companion_share=0.4,
    ),
    # The papers' four detectors at the size of a GPU: a network as wide as theirs at four times small's pixels. Rates
    # were tried on a CPU at 64 px only, see saliency/DETECTORS.md: 4e-3 was best in 78 steps and jumped in more.
    "medium": DeepUspsSettings(
        architecture="drn_d_22",
        working_size_px=256,
        head_init_std=0.01,
        stage1_epochs=10,
        stage1_learning_rates=(2e-3,),
        stage1_batch_size=16,
        averaged_epochs=5,
        stage2_epochs=60,
        stage2_learning_rate=2e-3,
        stage2_batch_size=16,
        flip=True,
        crf=DEFAULTS.at_scale(256 / REFERENCE_SIDE_PX),
        crf_test_size_px=432,
    ),
    # The same code within a minute, for demonstrations: one method, one short round, no CRF.
    "tiny": DeepUspsSettings(
        architecture="drn_d_tiny",
        methods=("rbd",),
        first_thresholds=(0.25,),
        working_size_px=128,
        max_images=448,
        head_init_std=0.01,
        stage1_epochs=3,
        stage1_learning_rates=(4e-3,),
        stage1_batch_size=8,
        stage2_epochs=7,
        stage2_learning_rate=4e-3,
        stage2_batch_size=8,
        # the paper's 4 favours recall, which a network this small turns into masks that are too large
        stage2_beta_squared=1.0,
        cpu_threads=1,  # layers this small only lose by more, fourfold on a busy machine
        crf_in_training=False,
        crf_at_test=False,
    ),
}


def is_papers(settings: DeepUspsSettings) -> bool:
    """Tell whether it is the papers' network, made for their backbone's weights and cut at their threshold."""
    return settings.architecture == PRESETS["paper"].architecture


def fine_tunes(settings: DeepUspsSettings) -> bool:
    """Tell whether its network and rates are made to start from given weights."""
    has_papers_rates = settings.stage1_learning_rates == PRESETS["paper"].stage1_learning_rates
    return is_papers(settings) or (settings.architecture in PUBLISHED and has_papers_rates)


def check(settings: DeepUspsSettings) -> None:
    """Refuse values that cannot work, or not together, before any work is done.

    Raises:
    UserError: naming the setting.
    """
    check_settings(settings)
    if not settings.methods or len(set(settings.array_names)) != len(settings.methods):
        raise UserError(f"methods {settings.methods} must name at least one detector, each once")
    if len(settings.first_thresholds) != len(settings.methods):
        raise UserError(
            f"first_thresholds {settings.first_thresholds} must give one value per method {settings.methods}"
        )
    if not settings.stage1_learning_rates:
        raise UserError("stage1_learning_rates is empty: give one per round of stage 1, at least one")
    if settings.label_share is not None and settings.label_softness is None:
        raise UserError(f"label_share={settings.label_share} is of soft labels: give label_softness, too")
    if bool(settings.companions) != bool(settings.companion_share):
        raise UserError(
            f"companions={written(settings.companions)} and companion_share={settings.companion_share} need each other"
        )
    if not settings.scales or min(settings.scales) * settings.working_size_px < STRIDE_PX:
        raise UserError(f"scales {settings.scales} must leave images of at least {STRIDE_PX} px")


def choose_settings(preset: str, overrides: Sequence[str] = (), sources: Sequence[str] = ()) -> DeepUspsSettings:
    """A preset with a user's changes.

    Args:
        preset: a name of `PRESETS`.
        overrides: `name=value` texts, applied in order.
        sources: detectors, as `open_detector` takes them, whose maps are further pseudo-labels; each is cut at 1.5
            times its mean saliency.

    Raises:
        UserError: there is no such preset or setting, or a value is impossible.
    """
    if preset not in PRESETS:
        raise UserError(f"no preset {preset!r}: give one of {', '.join(PRESETS)}")
    settings = PRESETS[preset]
    settings = replace(
        settings,
        methods=(*settings.methods, *sources),
        first_thresholds=(*settings.first_thresholds, *[None] * len(sources)),
    )
    for override in overrides:
        settings = with_override(settings, *split_override(override))
    paths = {split_override(override)[0] for override in overrides}
    if settings.architecture in PUBLISHED and "head_init_std" not in paths:
        settings = replace(settings, head_init_std=min(settings.head_init_std, PUBLISHED_HEAD_INIT_STD))
    if not set(sources) <= set(settings.methods):
        raise UserError(
            f"methods={written(settings.methods)} leaves out --source {', '.join(sources)}; name it there too"
        )
    check(settings)
    return settings
