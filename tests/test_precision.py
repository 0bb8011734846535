from types import SimpleNamespace

import pytest
import torch

from dedn_hf import precision
from dedn_hf.precision import check_bf16, choose_bf16, has_native_bf16, measure_speeds

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "capabilities, native",
    [
        ({"architecture": "x86_64", "avx2": True}, False),
        ({"architecture": "x86_64", "avx2": True, "avx512_f": True, "avx512_bf16": False}, False),
        ({"architecture": "x86_64", "avx512_f": True, "avx512_bf16": True}, True),
        ({"architecture": "x86_64", "amx_bf16": True}, True),
        ({"architecture": "aarch64", "neon": True, "bf16": False}, False),
        ({"architecture": "aarch64", "neon": True, "bf16": True}, True),
    ],
)
def test_a_cpu_is_asked_whether_it_has_bfloat16(monkeypatch, capabilities, native):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert has_native_bf16(CPU) is native


def test_a_torch_that_cannot_tell_has_none(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert has_native_bf16(CPU) is False


@pytest.mark.parametrize("native", [True, False])
def test_a_gpu_that_emulates_it_has_none(monkeypatch, native):
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: native or including_emulation
    )
    assert has_native_bf16(torch.device("cuda")) is native


@pytest.fixture
def run_batch(monkeypatch):
    """A batch that takes the given seconds in each turn, `None` for an error, by a clock of its own, and its calls."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(precision, "time", SimpleNamespace(perf_counter=lambda: clock.now))

    def make(float32, bfloat16):
        calls = []

        def compute(bf16):
            turn = calls.count(bf16)
            calls.append(bf16)
            seconds = (bfloat16 if bf16 else float32)[turn]
            if seconds is None:
                raise torch.OutOfMemoryError("no memory")
            clock.now += seconds

        return compute, calls

    return make


@pytest.mark.parametrize(
    "float32, bfloat16, speeds, turns",
    [
        # The first turn sets up, and the best of the others counts: what else a machine does makes a batch slower.
        ([7.0, 0.5, 0.4, 0.8], [0.1, 0.3, 0.2, 0.9], (20, 40), 4),
        # Nobody waits for a way that is hopeless.
        ([1.0], [40.0], (8, 0.2), 1),
        ([2.0, 2.0, 2.0], [4.0, 4.0, 4.0], (4, 2), 2),
        ([None] * 4, [1.0] * 4, (0, 8), 4),
        ([1.0], [None], (8, 0), 1),
        ([None] * 4, [None] * 4, (0, 0), 4),
    ],
)
def test_speeds(run_batch, float32, bfloat16, speeds, turns):
    compute, calls = run_batch(float32, bfloat16)
    assert measure_speeds(compute, 8, CPU) == pytest.approx(speeds)
    assert calls == [False, True] * turns


def choose(asked, recorded=None):
    return choose_bf16(asked, CPU, lambda: (lambda bf16: None, 8), lambda: recorded)


@pytest.mark.parametrize(
    "float32, bfloat16, chosen, said",
    [
        (
            6.64,
            14.7,
            True,
            "Computing in bfloat16: one batch had 14.7 images/s in bfloat16, 6.64 images/s in float32.",
        ),
        (10, 12, True, "Computing in bfloat16"),
        (10, 11.9, False, "Computing in float32: one batch had 11.9 images/s in bfloat16, 10 images/s in float32."),
        (26, 1.2, False, "Computing in float32"),
        (0, 3, True, "3 images/s in bfloat16, an error in float32"),
        (3, 0, False, "an error in bfloat16, 3 images/s in float32"),
        (0, 0, False, "Computing in float32"),
    ],
)
def test_auto_takes_what_is_clearly_faster(speeds, caplog, float32, bfloat16, chosen, said):
    speeds |= {"native": True, "float32": float32, "bfloat16": bfloat16}
    assert choose("auto") is chosen
    (message,) = caplog.messages
    assert said in message


def test_auto_times_nothing_where_there_is_no_bfloat16(speeds, caplog):
    speeds |= {"bfloat16": 99}
    assert choose("auto") is False and not speeds["timed"]
    assert caplog.messages == ["Computing in float32: this CPU has no bfloat16 of its own."]


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("recorded", [True, False])
def test_what_is_recorded_stays(speeds, caplog, recorded, native):
    speeds |= {"native": native, "bfloat16": 1 if recorded else 99}
    assert choose("auto", recorded) is recorded and not speeds["timed"]
    messages = caplog.messages
    assert len(messages) == (recorded and not native)
    assert not messages or "computed in bfloat16, which this CPU does not have" in messages[0]


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("bfloat16, warned", [(30, False), (26, False), (1.2, True), (0, True)])
def test_asked_for_it_is_done_and_said_if_slower(speeds, caplog, native, bfloat16, warned):
    speeds |= {"native": native, "float32": 26, "bfloat16": bfloat16}
    assert choose(True) is True and speeds["timed"] == [8]
    assert len(caplog.messages) == warned
    if bfloat16 == 1.2:
        assert caplog.messages == [
            "`bf16` makes this slower here: 1.2 images/s in bfloat16, 26 images/s in float32. Set it to false."
        ]
    # Said once, when it begins.
    assert choose(True, recorded=True) is True and speeds["timed"] == [8]


def test_not_asked_for_nothing_is_timed(speeds, caplog):
    speeds |= {"native": True, "bfloat16": 99}
    assert choose(False) is False and not speeds["timed"] and not caplog.messages


@pytest.mark.parametrize("asked", ["false", "yes", None, 2])
def test_what_else_is_asked_is_refused(asked):
    with pytest.raises(ValueError, match=rf"`bf16` must be True, False or 'auto', but is {asked!r}"):
        check_bf16(asked)
