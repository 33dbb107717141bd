"""What a run writes about its steps: metrics.jsonl, curves for loggers, and the numbers beside the progress bar."""

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from backdrop.errors import UserError
from backdrop.pipeline.views.batch import Batch, WholeBatch
from backdrop.progress import warn
from backdrop.trainer.loggers import Logger
from backdrop.trainer.parts.collectives import num_processes, rank, summed
from backdrop.trainer.run import metrics_log
from backdrop.trainer.run.collapse import CollapseWatch

_NO_CURVE = ("step", "epoch", metrics_log.CLOCK, metrics_log.RANK)


def crop_statistics(batch: Batch | WholeBatch) -> dict[str, float]:
    """Return, per view, the mean number of crop proposals, and the shares of fallbacks, of crops without any of their
    image's foreground, and of altered backgrounds; and how many rows could not be read and gave way to others."""
    statistics: dict[str, float] = {"skipped_rows": float(len(batch.skipped))}
    for index, record_B in enumerate(batch.records):
        columns = {
            "tries": record_B["tries"],
            "fallback": record_B["is_fallback"],
            "no_foreground": record_B["foreground_fraction"] == 0,
            "background": record_B["has_background"],
        }
        statistics |= {f"view{index}/{name}": float(np.mean(values)) for name, values in columns.items()}
    return statistics


class Recorder:
    """Collects steps and writes them every `log_steps`, so that a GPU is not made to wait for every number.

    Losses are averaged over the processes of a training when they are written; what was drawn is that of the first.
    """

    def __init__(
        self, folder: Path | None, *, log_steps: int, batch_size: int, bar: tqdm, loggers: Sequence[Logger]
    ) -> None:
        """Open the log.

        Args: folder: the run's; None = check the numbers and write nothing, in all processes but the first.
            loggers: told of a step at every write; closed with the log.
        """
        self._file = None if folder is None else (folder / metrics_log.FILE).open("a")
        self._loggers = loggers
        self._log_steps, self._batch_size, self._bar = log_steps, batch_size, bar
        self._waiting: list[tuple[dict[str, Any], list[str], torch.Tensor]] = []
        self._since = time.perf_counter()
        self._collapse = CollapseWatch()
        self._score: dict[str, str] = {}

    def leave_out(self, seconds: float) -> None:
        """Do not count seconds that passed since the last step as time that images took."""
        self._since += seconds

    def add(self, record: dict[str, Any], losses: dict[str, torch.Tensor]) -> None:
        """Take one step's numbers; losses may still be on their way on the device."""
        values = torch.stack([value.detach().float() for value in losses.values()])
        record = record | {metrics_log.CLOCK: round(time.time(), 3), metrics_log.RANK: rank()}
        self._waiting.append((record, list(losses), values))
        if len(self._waiting) >= self._log_steps:
            self.flush()

    def flush(self) -> None:
        """Write what was collected. Raises: UserError: a loss is not finite."""
        if not self._waiting:
            return
        values = (summed(torch.stack([values for _, _, values in self._waiting])) / num_processes()).tolist()
        now = time.perf_counter()
        images_per_s = len(self._waiting) * self._batch_size / (now - self._since)
        self._since = now
        for (record, names, _), numbers in zip(self._waiting, values, strict=True):
            line = record | dict(zip(names, numbers, strict=True)) | {"images_per_s": round(images_per_s, 2)}
            self._check_finite(line)
            self._write(line)
            self._say(line)
        if self._file is not None:
            self._file.flush()
        self._draw(line)
        beside = {"img/s": f"{images_per_s:.1f}", "loss": f"{line['loss']:.4f}", "lr": f"{line['lr']:.4g}"}
        self._bar.set_postfix(beside | self._score, refresh=False)
        self._waiting.clear()

    def close(self) -> None:
        """Close the files; steps not yet written are lost with the steps after the last checkpoint."""
        if self._file is not None:
            self._file.close()
        for logger in self._loggers:
            logger.close()

    def _write(self, line: dict[str, Any]) -> None:
        if self._file is not None:
            self._file.write(json.dumps(line) + "\n")

    def _draw(self, line: dict[str, Any]) -> None:
        """Tell the loggers of a step. Events of every value of every step would be a file longer than the log.

        Args: line: the last of those written at once; an epoch's last step, which has the scores, always is.
        """
        values = {name: float(value) for name, value in line.items() if name not in _NO_CURVE}
        for logger in self._loggers:
            logger.log(line["step"], values, line[metrics_log.CLOCK])

    def _say(self, line: dict[str, Any]) -> None:
        """What belongs on the terminal: the latest score stays beside the bar, a collapse is said once."""
        if "knn_top1" in line:
            self._score = {"kNN": f"{line['knn_top1']:.1f} %"}
        message = self._collapse.add(line)
        if message is not None and self._file is not None:
            warn(message)

    def _check_finite(self, line: dict[str, Any]) -> None:
        if not math.isfinite(line["loss"]):
            raise UserError(
                f"the loss is {line['loss']} at step {line['step']} (epoch {line['epoch']}, learning rate "
                f"{line['lr']:.4g}); the run has diverged; start anew in another --out with a lower optimiser.lr or a "
                "longer schedule.warmup_epochs. (The same command goes on from the latest checkpoint; if it ends "
                "here again, delete that one in checkpoints/ and it goes on from the one before)"
            )
