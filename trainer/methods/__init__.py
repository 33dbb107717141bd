"""Self-supervised methods; a file's name is the method's name on the command line."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from backdrop.open_sets import OpenSet

if TYPE_CHECKING:
    import numpy as np

    from backdrop.pipeline.views.view_plan import ViewPlan
    from backdrop.trainer.cast import Settings as CastSettings
    from backdrop.trainer.downstream_settings import Downstream
    from backdrop.trainer.parts.backbones import Backbone
    from backdrop.trainer.parts.pretraining_method import PretrainingMethod

# A method's own Settings.
Numbers = TypeVar("Numbers")


class MethodFile(Protocol[Numbers]):
    """What a file of `trainer/methods/`, or a plug-in of the set `methods`, provides.

    What it has nothing of its own to check it takes from `trainer/parts/method_defaults.py`.
    """

    @property
    def DEFAULT_RECIPE(self) -> str:
        """The recipe taken when none is named, on a GPU."""

    @property
    def HAS_NEGATIVES(self) -> bool:
        """Whether a query has negatives, to which BG_Swaps adds."""

    @property
    def HAS_CAST(self) -> bool:
        """Whether CAST is defined on it; `Method` makes a QueryKeyMethod then."""

    @property
    def ALWAYS_CAST(self) -> bool:
        """Whether CAST is part of the method."""

    @property
    def SMOKE(self) -> Mapping[str, Any]:
        """What the recipe `smoke` changes in Settings: numbers for a few hundred steps of 32 images."""

    @property
    def SMOKE_LR(self) -> float:
        """The learning rate of the recipe `smoke`, for 256 images a step."""

    @property
    def DOWNSTREAM(self) -> "Downstream":
        """How its backbones are evaluated with labels: the linear protocol, rates of fine-tuning and of detection."""

    @property
    def Settings(self) -> type[Numbers]:
        """A frozen keyword-only dataclass of the method's own numbers, every field with a default."""

    def view_plan(self, background: str = "none") -> "ViewPlan":
        """Return the paper's views, with its probability and FG_min for a background; see `parts/background_numbers`.

        Args: background: a name of backdrop.pipeline.views.backgrounds. Raises: UserError: there is no such background.
        """

    def check(self, settings: Numbers, batch_size: int) -> None:
        """Raise UserError for numbers that do not go together. Args: batch_size: images a step of one process."""

    def check_parts(self, settings: Numbers, part_size: int, num_processes: int) -> None:
        """Raise UserError unless a process's images of a step may be taken in parts. Args: part_size: images of one."""

    def check_labels(self, settings: Numbers, label_N: "np.ndarray") -> None:
        """Raise UserError where the method cannot learn from a store's labels.

        Args: label_N: int, class of each row, -1 = none.
        """

    def expected_curve(self, settings: Numbers) -> str:
        """Return how the loss of a sound run begins and goes on, in the settings' own numbers."""

    def Method(
        self, backbone: "Backbone", settings: Numbers, *, seed: int, cast: "CastSettings | None"
    ) -> "PretrainingMethod":
        """Build the networks around a backbone; their weights come from torch's current generator.

        Args: backbone: to train. seed: of all else that is drawn. cast: CAST's settings, None = without.
        """


METHODS: OpenSet[MethodFile[Any]] = OpenSet("methods", __name__, __path__, contract=MethodFile)
NAMES = METHODS.built_in()
