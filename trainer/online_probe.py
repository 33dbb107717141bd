"""A score while the run goes on: k-nearest-neighbour classification of some of the store's own rows.

Every so many epochs the backbone embeds the central squares of a few thousand labelled rows; a fifth of them, held out,
are classified by the others (`trainer/evaluation/knn.py`, with its defaults). It tells a run that learns from one that
does not, which losses do not (a loss may fall while features get worse). It is no score to report: the rows are trained
on, without their labels unless the method is supervised.

Nothing of the training moves: batch statistics are not touched, nothing is drawn from a generator, and which rows are
taken is a function of the seed. One process computes it, with its own running statistics, whichever number there are.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor, nn

from backdrop.errors import UserError
from backdrop.pipeline.views.device_stage import DeviceStage
from backdrop.pipeline.views.random_streams import PROBE_ROWS
from backdrop.pipeline.views.row_order import row_order
from backdrop.pipeline.views.view_plan import View, ViewPlan
from backdrop.settings import at_least
from backdrop.trainer.parts.nearest_neighbours import NUM_NEIGHBOURS, TEMPERATURE, Features, top_accuracies

BATCH_SIZE = 256
_HELD_OUT = 0.2


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How often and on how much."""

    every_epochs: Annotated[int, at_least(0), "Epochs between two scores; 0 = none"] = 0
    max_rows: Annotated[int, at_least(10), "Rows that are embedded for one, at most"] = 10_000


class OnlineProbe:
    """Scores a backbone on rows that stay the same for the whole run."""

    def __init__(
        self,
        settings: Settings,
        row_N: np.ndarray,
        label_N: np.ndarray,
        open_loader: Callable[[ViewPlan, np.ndarray], AbstractContextManager[Any]],
        *,
        seed: int,
        size_px: int,
    ) -> None:
        """Choose the rows.

        Args: row_N: int64 (N,), rows that are trained on. label_N: int (N,), their classes, -1 = none.
            open_loader: (plan, rows) to a loader of one epoch of these rows. seed: the run's. size_px: side of a view.
        Raises: UserError: too few rows have a label.
        """
        self._open_loader = open_loader
        labelled = np.flatnonzero(label_N >= 0)
        order = row_order(seed, 0, len(labelled), PROBE_ROWS)[: settings.max_rows]
        self.rows = row_N[labelled[order]]
        self.held_out = self.rows[: round(_HELD_OUT * len(order))]
        self._num_classes = int(label_N.max(initial=-1)) + 1
        if not len(self.held_out) or self._num_classes < 2:
            raise UserError(
                f"probe.every_epochs={settings.every_epochs} needs labels of two classes, and {len(labelled)} of the "
                f"store's {len(label_N)} rows have one; set it to 0, or take a store of a data set with one folder per "
                "class"
            )
        # A crop of all of the image and of aspect ratio 1 fits a square only; else the central square takes its place.
        view = View(
            size_px=size_px,
            scale=(1.0, 1.0),
            aspect_ratio=(1.0, 1.0),
            flip_probability=0.0,
            jitter_probability=0.0,
            greyscale_probability=0.0,
            blur_probability=0.0,
        )
        self._plan = ViewPlan(views=(view,))

    def score(self, backbone: nn.Module, device: torch.device) -> dict[str, float]:
        """Return {"knn_top1": percent of the held-out rows}. Args: backbone: (B, 3, H, W) to (B, D), left as it was."""
        row_N, label_N, feature_ND = self._features(backbone, device)
        is_held_out_N = torch.from_numpy(np.isin(row_N.numpy(), self.held_out))
        neighbours, held_out = (
            Features(feature_ND=feature_ND[chosen_N], label_N=label_N[chosen_N], corrupt=())
            for chosen_N in (~is_held_out_N, is_held_out_N)
        )
        ((top1, _),) = top_accuracies(
            neighbours, held_out, num_classes=self._num_classes, k=(NUM_NEIGHBOURS,), temperature=TEMPERATURE,
            device=device,
        )  # fmt: skip
        return {"knn_top1": top1}

    def _features(self, backbone: nn.Module, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Rows, labels and unit-length features, on the host."""
        stage = DeviceStage(self._plan, device=device, channels_last=True)
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        with self._open_loader(self._plan, self.rows) as loader, in_evaluation(backbone), torch.inference_mode():
            for batch in loader.epoch(0):
                feature_BD = nn.functional.normalize(backbone(stage(batch).images[0]).float(), dim=1)
                found.append((batch.row_B.clone(), batch.label_B.clone(), feature_BD.cpu()))
        row_N, label_N, feature_ND = (torch.cat(column) for column in zip(*found, strict=True))
        return row_N, label_N, feature_ND


@contextmanager
def in_evaluation(network: nn.Module) -> Iterator[None]:
    """Within it a network is in evaluation mode; afterwards each of its modules is in the mode it was in."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
