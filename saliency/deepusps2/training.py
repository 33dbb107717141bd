"""The loop of DeepUSPS over phases and epochs, its state on disk after every epoch.

Shapes: B images of a batch, b of them on this rank, H rows, W columns (H = W = working size).
"""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from backdrop.devices import num_cores
from backdrop.durable_files import write_aside
from backdrop.errors import UserError
from backdrop.progress import stage_bar
from backdrop.ranks import Ranks
from backdrop.saliency.deepusps2 import pseudo_labels, training_state
from backdrop.saliency.deepusps2.losses import mean_f_loss, soft_label, soft_label_loss
from backdrop.saliency.deepusps2.phases import Phase, decayed, phases
from backdrop.saliency.deepusps2.random_streams import FLIPS, ORDER, SCALES, WEIGHTS, stream
from backdrop.saliency.deepusps2.refinement import Refiner
from backdrop.saliency.deepusps2.settings import DeepUspsSettings
from backdrop.saliency.deepusps2.training_log import LOG_FILE
from backdrop.saliency.networks.drn import STRIDE_PX, DrnSegmenter, normalise_images


class Training:
    """A training in progress.

    Args:
        run: the run folder, readable by every rank.
        file: its pseudo-labels, first labels complete; None on every rank but the first.
        settings: of the training.
        seed: of initial weights, orders and augmentations.
        initial: backbone weights, empty = random.
        ranks: this process among all.
    """

    def __init__(
        self,
        run: Path,
        file: h5py.File | None,
        settings: DeepUspsSettings,
        seed: int,
        initial: dict[str, Tensor],
        ranks: Ranks,
    ) -> None:
        self.run, self.file, self.settings, self.seed = run, file, settings, seed
        self.initial, self.ranks = initial, ranks
        self.is_gpu = ranks.device.startswith("cuda")
        facts = (pseudo_labels.usable(file).tolist(), self._first_thresholds(file)) if file is not None else None
        places, first_thresholds = ranks.from_first(facts)
        self.places = np.array(places)
        self.phases = phases(settings, tuple(first_thresholds))
        self.progress, self.tensors = training_state.load_state(run)

    def _first_thresholds(self, file: h5py.File) -> list[float]:
        settings = self.settings
        return [
            1.5 * pseudo_labels.mean_map_value(file, name) if threshold is None else threshold
            for name, threshold in zip(settings.array_names, settings.first_thresholds, strict=True)
        ]

    def run_to_end(
        self, after_phase: Callable[[Phase, DrnSegmenter], None] = lambda phase, model: None
    ) -> DrnSegmenter:
        """Train every phase that is left.

        Args:
            after_phase: called when a phase's network is trained.

        Returns:
            The network of stage 2.
        """
        while True:
            phase = self.phases[self.progress.phase]
            model = self._train_phase(phase)
            if after_phase is not None:
                after_phase(phase, model)
            if phase.method is None:
                return model
            self._finish_round(phase)

    def _finish_round(self, phase: Phase) -> None:
        if self.file is not None:
            num_averaged = phase.num_epochs - self._first_averaged(phase)
            pseudo_labels.finish_round(self.file, str(phase.method), num_averaged, self.settings.average_decay)
        # The next phase overwrites the moving average: from here on this one must not be finished again.
        self.progress.phase, self.progress.num_epochs, self.tensors = self.progress.phase + 1, 0, {}
        if self.ranks.is_first:
            training_state.save_state(self.run, self.progress, {})

    def _first_averaged(self, phase: Phase) -> int:
        """The first epoch whose predictions are kept; the phase's number of epochs where none are."""
        if phase.stage == 2:
            return phase.num_epochs
        return max(0, phase.num_epochs - (self.settings.averaged_epochs or phase.num_epochs))

    def _train_phase(self, phase: Phase) -> DrnSegmenter:
        model = self._fresh_model(phase)
        optimiser = torch.optim.Adam(model.parameters(), lr=phase.learning_rate)
        if self.tensors:
            training_state.restore(model, optimiser, self.tensors)
        shared = self.ranks.wrap(model)
        num_left = phase.num_epochs - self.progress.num_epochs
        with stage_bar(
            total=num_left * len(self.places),
            stage=phase.title,
            unit="img",
            shown_after_s=0.0 if self.ranks.is_first else None,
        ) as bar:
            for epoch in range(self.progress.num_epochs, phase.num_epochs):
                learning_rate = decayed(phase.learning_rate, epoch, phase.num_epochs, self.settings.learning_rate_power)
                for group in optimiser.param_groups:
                    group["lr"] = learning_rate
                loss = self._train_epoch(phase, epoch, shared, optimiser, bar)
                bar.set_postfix(loss=f"{loss:.4f}")
                self._record(phase, epoch, loss, learning_rate, model, optimiser)
        return model

    def _fresh_model(self, phase: Phase) -> DrnSegmenter:
        weights_seed = int(stream(self.seed, WEIGHTS, phase.number).integers(2**63))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(weights_seed)
            model = DrnSegmenter(self.settings.architecture, self.settings.head_init_std)
        if self.initial:
            model.backbone.load_state_dict(self.initial)
        return model.to(self.ranks.device).train()

    def _train_epoch(
        self, phase: Phase, epoch: int, model: nn.Module, optimiser: torch.optim.Optimizer, bar: tqdm
    ) -> float:
        """One pass over all images; the mean loss per image."""
        total = 0.0
        is_flipped_N = self._flips(phase, epoch)
        is_averaged = epoch >= self._first_averaged(phase)
        crf = self.settings.crf if self.settings.crf_in_training else None
        with Refiner(crf, num_cores(), self.settings.crf_share) as refiner:
            for batch, scale in self._batches(phase, epoch):
                images_BHWC, targets_MBHW = self._load(phase, batch)
                mine = self.ranks.share(len(batch))
                is_flipped = is_flipped_N[batch[mine]].to(self.ranks.device)
                loss, foreground_bHW = self._loss(
                    phase, model, images_BHWC[mine], targets_MBHW[:, mine], is_flipped, scale
                )
                if not torch.isfinite(loss):
                    raise UserError(f"{phase.title}, epoch {epoch}: the loss is {loss.item()}: lower the learning rate")
                # gradients are averaged over ranks, so each weighs its loss by its share of the batch
                weighted = loss * (len(batch[mine]) * self.ranks.size / len(batch))
                optimiser.zero_grad()
                weighted.backward()
                optimiser.step()
                total += loss.item() * len(batch[mine])
                if is_averaged:
                    # code: the train-mode prediction made before this batch's step, no pass of its own
                    foreground_BHW = self.ranks.to_first(foreground_bHW.detach(), len(batch))
                    if self.ranks.is_first:
                        mixed_BHW = self._with_labels(phase, foreground_BHW, targets_MBHW)
                        refiner.put(batch, images_BHWC, mixed_BHW)
                self._average(epoch - self._first_averaged(phase), refiner.take())
                bar.update(len(batch))
            self._average(epoch - self._first_averaged(phase), refiner.take(everything=True))
        return self.ranks.sum(total) / len(self.places)

    def _batches(self, phase: Phase, epoch: int) -> Iterator[tuple[np.ndarray, float]]:
        """Places in this epoch's order, in batches whose sizes differ by one at most, each with its scale.

        The authors drop an incomplete last batch, which their 2,500 images never give; the moving average needs every
        image in every epoch.
        """
        order = stream(self.seed, ORDER, phase.number, epoch).permutation(self.places)
        batches = np.array_split(order, -(-len(order) // phase.batch_size))
        if len(batches[-1]) < self.ranks.size:
            raise UserError(f"batches of {len(batches[-1])} images cannot feed {self.ranks.size} processes: use fewer")
        scales = stream(self.seed, SCALES, phase.number, epoch).choice(self.settings.scales, len(batches))
        yield from zip(batches, scales, strict=True)

    def _flips(self, phase: Phase, epoch: int) -> Tensor:
        """Which images are mirrored in this epoch: bool (N,), by place; a draw per image, whatever batch it is in."""
        draws = stream(self.seed, FLIPS, phase.number, epoch).random(int(self.places.max()) + 1)
        return torch.from_numpy(self.settings.flip & (draws < 0.5))

    def _load(self, phase: Phase, batch: np.ndarray) -> tuple[Tensor, Tensor]:
        """A batch on every rank's device: images uint8 (B, H, W, 3), targets uint8 (M, B, H, W)."""
        side_px, device = self.settings.working_size_px, self.ranks.device
        if self.file is None:
            images_BHWC = torch.empty(len(batch), side_px, side_px, 3, dtype=torch.uint8, device=device)
            targets_MBHW = torch.empty(
                len(phase.targets), len(batch), side_px, side_px, dtype=torch.uint8, device=device
            )
        else:
            images_BHWC = torch.from_numpy(np.stack([self.file["images"][place] for place in batch])).to(device)
            targets = [[self.file[name][place] for place in batch] for name in phase.targets]
            targets_MBHW = torch.from_numpy(np.array(targets)).to(device)
        return self.ranks.tensor_from_first(images_BHWC), self.ranks.tensor_from_first(targets_MBHW)

    def _loss(
        self,
        phase: Phase,
        model: nn.Module,
        images_bHWC: Tensor,
        targets_MbHW: Tensor,
        is_flipped_b: Tensor,
        scale: float,
    ) -> tuple[Tensor, Tensor]:
        """The mean loss of this rank's images, and their predictions float32 (b, H, W), unmirrored."""
        settings = self.settings
        images_bCHW = _mirrored(normalise_images(images_bHWC, settings.mean_RGB, settings.std_RGB), is_flipped_b)
        if scale != 1:
            side_px = max(STRIDE_PX, round(settings.working_size_px * scale / STRIDE_PX) * STRIDE_PX)
            images_bCHW = functional.interpolate(images_bCHW, side_px, mode="bilinear", antialias=True)
        with torch.autocast("cuda" if self.is_gpu else "cpu", torch.bfloat16, enabled=self.is_gpu):
            logits_bCHW = model(images_bCHW).float()
        if scale != 1:
            logits_bCHW = functional.interpolate(logits_bCHW, settings.working_size_px, mode="bilinear")
        foreground_bHW = _mirrored(logits_bCHW.softmax(dim=1)[:, 0], is_flipped_b)
        targets = (targets_MbHW.float() / 255).unbind()
        if settings.label_softness is None:
            loss = mean_f_loss(foreground_bHW, targets, phase.thresholds, phase.beta_squared)
        else:
            labels = self._soft_labels(phase, targets)
            loss = torch.stack([soft_label_loss(foreground_bHW, label_bHW) for label_bHW in labels]).mean()
        return loss, foreground_bHW

    def _soft_labels(self, phase: Phase, targets_MBHW: Sequence[Tensor]) -> list[Tensor]:
        """First labels made soft at their thresholds; refined ones are probabilities, and stay as they are."""
        softness = self.settings.label_softness
        if softness is None or not phase.has_first_labels:
            return list(targets_MBHW)
        return [
            soft_label(target_BHW, threshold, softness)
            for target_BHW, threshold in zip(targets_MBHW, phase.thresholds, strict=True)
        ]

    def _with_labels(self, phase: Phase, foreground_BHW: Tensor, targets_MBHW: Tensor) -> Tensor:
        """Predictions with their share of the labels they were trained on, before the CRF."""
        share = self.settings.label_share
        if share is None:
            return foreground_BHW
        (label_BHW,) = self._soft_labels(phase, (targets_MBHW.float() / 255).unbind())
        return (1 - share) * foreground_BHW + share * label_BHW

    def _average(self, epoch: int, finished: Iterator[tuple[np.ndarray, np.ndarray]]) -> None:
        for batch, maps_BHW in finished:
            decay = self.settings.average_decay
            pseudo_labels.update_moving_average(self.file, epoch, batch.tolist(), maps_BHW, decay)

    def _record(
        self,
        phase: Phase,
        epoch: int,
        loss: float,
        learning_rate: float,
        model: nn.Module,
        optimiser: torch.optim.Optimizer,
    ) -> None:
        """Make an epoch count: first the moving average on disk, then the state that says so."""
        self.progress.num_epochs = epoch + 1
        if self.file is None:
            return
        self.file.flush()
        self.progress.log.append(
            {
                "stage": phase.stage,
                "method": phase.method,
                "round": phase.round,
                "epoch": epoch,
                "loss": loss,
                "learning_rate": learning_rate,
            }
        )
        training_state.save_state(self.run, self.progress, training_state.training_tensors(model, optimiser))
        lines = "".join(json.dumps(record) + "\n" for record in self.progress.log)
        write_aside(self.run / LOG_FILE, lines.encode())


def _mirrored(values: Tensor, is_flipped_b: Tensor) -> Tensor:
    """Mirror some images of a batch left to right; the last dimension is the columns."""
    if not is_flipped_b.any():
        return values
    shape = (-1, *[1] * (values.dim() - 1))
    return torch.where(is_flipped_b.reshape(shape), values.flip(-1), values)
