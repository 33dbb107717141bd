"""Logs of long trainings, made up: lines as a run writes them."""

import json
from pathlib import Path

STEPS_AN_EPOCH = 5004


def record_of(step: int) -> dict:
    """Return the line of a step; the last of each epoch has a score, which is the number of the epoch."""
    epoch, of_epoch = divmod(step, STEPS_AN_EPOCH)
    views = {
        f"view{view}/{name}": 0.125 for view in (0, 1) for name in ("tries", "fallback", "no_foreground", "background")
    }
    record = {"step": step, "epoch": epoch, "waited_s": 0.00123, "lr": 0.03, "skipped_rows": 0.0, **views}
    score = {"knn_top1": float(epoch)} if of_epoch == STEPS_AN_EPOCH - 1 else {}
    clock = {"unix_time": 1.7e9 + step, "rank": 0}
    return record | score | clock | {"loss": 8 - step / 1e6, "info_nce_loss": 8 - step / 1e6, "images_per_s": 1234.56}


def write_log(path: Path, num_steps: int) -> None:
    """Write the log of so many steps, at some hundred thousand lines a second."""
    step = STEPS_AN_EPOCH  # the first line without a score whose numbers are told from all others in it
    before, between, after = _template(step)
    with path.open("w") as file:
        for number in range(num_steps):
            if number % STEPS_AN_EPOCH == STEPS_AN_EPOCH - 1:
                file.write(json.dumps(record_of(number)) + "\n")
                continue
            loss = 8 - number / 1e6
            clock = 1.7e9 + number
            file.write(f'{before}{number}{between[0]}{number // STEPS_AN_EPOCH}{between[1]}{clock}{between[2]}{loss}'
                       f'{between[3]}{loss}{after}\n')  # fmt: skip


def _template(step: int) -> tuple[str, list[str], str]:
    """The texts around the numbers that differ from line to line."""
    text = json.dumps(record_of(step))
    pieces: list[str] = []
    for name in ("step", "epoch", "unix_time", "loss", "info_nce_loss"):
        head, _, rest = text.partition(f'"{name}": ')
        _, comma, text = rest.partition(", ")
        pieces.append(f'{head}"{name}": ')
        text = comma + text
    return pieces[0], pieces[1:], text
