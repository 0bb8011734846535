"""Whether to compute in bfloat16: what the machine says of itself, and how fast one batch is both ways."""

import logging
import math
import time
from collections.abc import Callable

import torch

logger = logging.getLogger(__name__)

# How much faster bfloat16 must be, as it is less exact.
MIN_GAIN = 1.2
# Of x86, where AVX-512 alone is not enough, and of ARM.
_CPU_BF16 = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")


def check_bf16(asked: bool | str):
    """A ValueError for what is neither `True`, `False` nor `"auto"`."""
    if asked not in (True, False, "auto"):
        raise ValueError(f"`bf16` must be True, False or 'auto', but is {asked!r}.")


def has_native_bf16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 itself; elsewhere it is emulated, up to 45 times slower than float32."""
    if device.type == "cpu":
        # An older torch does not tell.
        capabilities = getattr(torch.cpu, "get_capabilities", dict)()
        return any(capabilities.get(name) for name in _CPU_BF16)
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    ask = getattr(torch.get_device_module(device), "is_bf16_supported", None)
    return ask is not None and ask()


def measure_speeds(
    compute: Callable[[bool], object], num_images: int, device: torch.device, max_seconds: float = 10.0
) -> tuple[float, float]:
    """
    Speeds of one batch in float32 and in bfloat16, taken in turns: the best of three, or of fewer where one is slow.

    Args:
        compute (`Callable[[bool], object]`):
            Computes the batch, in bfloat16 if so told.
        num_images (`int`):
            Images in it.
        device (`torch.device`):
            Where it computes.
        max_seconds (`float`, *optional*, defaults to 10.0):
            After how long no further turn begins.

    Returns:
        `tuple[float, float]`: images/s; 0 of what torch refuses, for want of memory or of an operation.
    """
    seconds, began = ([], []), time.perf_counter()
    for turn in range(4):
        for times, bf16 in zip(seconds, (False, True), strict=True):
            times.append(_time(compute, bf16, device))
        # The first turn sets up what is set up once, and does not count, unless it tells enough.
        slow = seconds[1][0] > 5 * seconds[0][0]
        if slow or (turn and time.perf_counter() - began > max_seconds):
            break
    float32, bfloat16 = (num_images / min(times[1:] or times) for times in seconds)
    return float32, bfloat16


def _time(compute: Callable[[bool], object], bf16: bool, device: torch.device) -> float:
    start = time.perf_counter()
    try:
        compute(bf16)
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
    except RuntimeError:
        return math.inf
    return time.perf_counter() - start


def choose_bf16(
    asked: bool | str,
    device: torch.device,
    prepare: Callable[[], tuple[Callable[[bool], object], int]],
    recorded: Callable[[], bool | None],
) -> bool:
    """
    Whether to compute in bfloat16; says in one line what was found out. Of several processes the first decides for
    all: another might measure something else.

    Args:
        asked (`bool` or `str`):
            `True` or `False`, or `"auto"`: what is recorded; else bfloat16 where the device has it and one batch is at
            least `MIN_GAIN` times as fast as in float32. For `True` there is a warning where it is slower.
        device (`torch.device`):
            Where it is to compute.
        prepare (`Callable`):
            Gives what computes one batch, see [`measure_speeds`], and the number of its images; called to time it.
        recorded (`Callable[[], bool | None]`):
            Gives what was decided for work that is begun, `None` of new work.
    """
    if not asked:
        return False
    auto, begun = asked == "auto", recorded()
    if begun is not None:
        if begun and not has_native_bf16(device):
            logger.warning(
                f"What is there was computed in bfloat16, which this {_name(device)} does not have: what is left is "
                "computed in it, too, and far slower than in float32."
            )
        return begun if auto else True
    if auto and not has_native_bf16(device):
        logger.warning(f"Computing in float32: this {_name(device)} has no bfloat16 of its own.")
        return False
    float32, bfloat16 = measure_speeds(*prepare(), device)
    if not auto:
        if bfloat16 < float32:
            logger.warning(
                f"`bf16` makes this slower here: {_speed(bfloat16)} in bfloat16, {_speed(float32)} in float32. Set it "
                "to false."
            )
        return True
    chosen = bfloat16 > 0 and bfloat16 >= MIN_GAIN * float32
    logger.warning(
        f"Computing in {'bfloat16' if chosen else 'float32'}: one batch had {_speed(bfloat16)} in bfloat16, "
        f"{_speed(float32)} in float32."
    )
    return chosen


def _name(device: torch.device) -> str:
    return "CPU" if device.type == "cpu" else f"device ({device.type})"


def _speed(images: float) -> str:
    return f"{images:.3g} images/s" if images else "an error"
