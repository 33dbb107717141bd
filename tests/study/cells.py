"""What is compared: each cell is one way of training, on one data set, with one source of masks."""

from dataclasses import dataclass

from backdrop.trainer.methods import METHODS

SEEDS = (0, 1, 2)
RECIPE = "smoke"
# Of every cell: a shorter run than the recipe's, in the short format, which takes 0.6 of the time on a CPU that has it.
SETTINGS = ("epochs=24", "precision=bf16", "checkpoint_steps=100000", "keep_checkpoints=1", "loader_threads=1")
# phi of CAST, and of the row that has its crops alone.
PHI = 0.2
# Side of the global views; CAST needs a feature map of more than one cell, and its rows their own baseline.
SIZE_PX, CAST_SIZE_PX = 32, 48
# FG_min of Ryali A.1; MoCo's rm and random have none there.
_FG_MIN = {
    ("moco", "swaps"): 0.1,
    ("byol", "rm"): 0.05,
    ("byol", "random"): 0.05,
    ("swav", "rm"): 0.15,
    ("swav", "random"): 0.15,
}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One way of training.

    data: a name of `data.NAMES`. method, background: as on the command line. size_px, min_foreground: of the global
    views. masks: true, rbd, deepusps2; or true ones that are perturbed at use: rotated, boxes. has_attention_loss: of
    method cast; without, it is MoCo with CAST's head and clipping, which CAST is to be compared with.
    """

    data: str
    method: str
    background: str = "none"
    size_px: int = SIZE_PX
    min_foreground: float = 0.0
    masks: str = "true"
    has_attention_loss: bool = True

    @property
    def name(self) -> str:
        """What the cell is called in the table's rows."""
        if self.method != "cast":
            return f"{self.method} {self.background}"
        crops = "crop" if self.min_foreground == PHI else "none"
        return "moco crop + attention" if self.has_attention_loss else f"moco {crops}"

    @property
    def settings(self) -> tuple[str, ...]:
        """The cell's changes of the recipe."""
        own = []
        for number, view in enumerate(METHODS.load(self.method).view_plan(self.background).views):
            min_foreground = self.min_foreground if view.is_global else 0.0
            own.append(f"views.{number}.min_foreground={min_foreground:g}")
            if view.is_global:
                own.append(f"views.{number}.size_px={self.size_px}")
        if not self.has_attention_loss:
            own.append("cast.weight=0")
        return (*SETTINGS, *own, *_PERTURBED.get(self.masks, ()))


# The strongest of appendix B's settings of each kind, together; and its boxes.
_PERTURBED = {
    "rotated": (
        "background.mask.max_rotation_degrees=25",
        "background.mask.max_shear_degrees=25",
        "background.mask.max_shift_fraction=0.25",
    ),
    "boxes": ("background.mask.is_box=true",),
}


def _with_backgrounds(data: str, method: str, backgrounds: tuple[str, ...]) -> list[Cell]:
    return [
        Cell(data=data, method=method, background=name, min_foreground=_FG_MIN.get((method, name), 0.0))
        for name in backgrounds
    ]


def _cast(data: str, *, min_foreground: float, has_attention_loss: bool) -> Cell:
    return Cell(
        data=data,
        method="cast",
        size_px=CAST_SIZE_PX,
        min_foreground=min_foreground,
        has_attention_loss=has_attention_loss,
    )


def _methods(data: str) -> list[Cell]:
    """Every method with every background; and on larger views MoCo, MoCo with CAST's crops, and CAST."""
    return [
        *_with_backgrounds(data, "moco", ("none", "rm", "random", "swaps", "recombine")),
        _cast(data, min_foreground=0.0, has_attention_loss=False),
        _cast(data, min_foreground=PHI, has_attention_loss=False),
        _cast(data, min_foreground=PHI, has_attention_loss=True),
        *_with_backgrounds(data, "byol", ("none", "rm", "random")),
        *_with_backgrounds(data, "swav", ("none", "rm", "random")),
    ]


_MASKS = [
    Cell(data="sample", method="moco", background="random", masks=masks)
    for masks in ("deepusps2", "rbd", "rotated", "boxes")
]
_CORRELATIONS = [
    cell for name in ("sample-0", "sample-0.95") for cell in _with_backgrounds(name, "moco", ("none", "random"))
]
CELLS = (*_methods("sample"), *_methods("scenes"), *_MASKS, *_CORRELATIONS)
