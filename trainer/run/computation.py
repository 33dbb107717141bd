"""How a run computes, in words for `--show-settings`: number format, memory layout, compilation, parts of a step."""

from backdrop.errors import UserError
from backdrop.trainer.methods import METHODS
from backdrop.trainer.settings import RunSettings

_CONVOLUTIONS = {"auto": "bf16 on a GPU, fp32 on a CPU", "fp32": "fp32", "bf16": "bf16", "fp16": "fp16, scaled losses"}


def computation(settings: RunSettings) -> dict[str, tuple[str, str]]:
    """Return what is so and what that is of, by name. Args: settings: of a run, checked."""
    return {
        "computes.number_format": (
            _CONVOLUTIONS[settings.precision],
            "Of backbones (precision); heads, similarities and losses are fp32",
        ),
        "computes.memory_layout": ("channels last", "Of weights and images"),
        "computes.compiled": (
            "every backbone" if settings.is_compiled else "nothing",
            "By torch.compile: with is_compiled=true every backbone, as one graph; never heads, queues and losses",
        ),
        "computes.parts_of_a_step": (str(settings.accumulation_steps), _parts(settings)),
    }


def _parts(settings: RunSettings) -> str:
    """What accumulation_steps may be with the method's own numbers, in one process."""
    numbers = [number for number in range(2, settings.batch_size + 1) if settings.batch_size % number == 0]
    refusals = {number: _refusal(settings, number) for number in numbers}
    possible = [str(number) for number, refusal in refusals.items() if not refusal]
    if possible:
        allowed = f"with {settings.method} in one process one of 1, {', '.join(possible)}"
    else:
        allowed = next(iter(refusals.values()), "a batch of one image has no parts")
    return f"Gradients are added up over so many (accumulation_steps): {allowed}"


def _refusal(settings: RunSettings, num_parts: int) -> str:
    """Why the method does not take so many parts; "" = it does."""
    module = METHODS.load(settings.method)
    try:
        module.check_parts(settings.algorithm, settings.batch_size // num_parts, num_processes=1)
    except UserError as refused:
        return str(refused)
    return ""
