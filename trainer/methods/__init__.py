"""Self-supervised methods; a file's name is the method's name on the command line.

A file provides
- `Settings`: frozen keyword-only dataclass, the method's own numbers;
- `DEFAULT_RECIPE`: the recipe taken when none is named; `HAS_NEGATIVES`: whether BG_Swaps applies;
  `HAS_CAST`: whether CAST is defined on it; `ALWAYS_CAST`: whether CAST is part of the method;
- `SMOKE`, `SMOKE_LR`: what the recipe `smoke` changes in `Settings`, and its learning rate for 256 images;
- `view_plan(background) -> ViewPlan`: the paper's views, with Ryali's probability and FG_min for that background;
- `check(settings, batch_size)`: raises UserError for numbers that do not go together;
- `check_parts(settings, part_size, num_processes)`, where a step may be taken in parts of a process's images: raises
  UserError for parts that are too small;
- `expected_curve(settings) -> str`: how the loss of a sound run begins and goes on, in the settings' own numbers;
- `check_labels(settings, label_N)`, where a method learns from labels: raises UserError for a store without them;
- `Method(backbone, settings, *, seed, cast)`: a module with `backbone` (what is trained for later use),
  `optimised_parameters() -> list of (name, parameter)`, `training_step(views) -> dict` of scalars, the one to minimise
  under "loss" (and, where images are embedded, `embedding_spread`: it tells a collapse), and `after_step(step,
  num_steps)`, called once after each optimiser step. All that decides the future is in its parameters and persistent
  buffers.
"""

from typing import Any

from backdrop.open_sets import OpenSet

METHODS: OpenSet[Any] = OpenSet("methods", __name__, __path__)
NAMES = METHODS.built_in()
