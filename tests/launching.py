"""Scripts in several processes, as `accelerate launch` starts them, that cannot outlast their test."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from dedn_hf import precision

TIMEOUT = 300
# The processes talk over the loopback interface, whatever the name of this machine resolves to.
_LOOPBACK = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), "lo")


def run_script(
    script: Path | str,
    *arguments: str,
    num_processes: int,
    folder: Path,
    until: Callable[[], bool] = lambda: False,
    timeout: float = TIMEOUT,
) -> tuple[int | None, str]:
    """
    Runs a script (or `"-m"` and a module) with this Python until it ends or `until` holds, upon which all its
    processes are killed. Gives its exit status (`None` if it was killed) and what it printed, which is kept in
    `folder`. Fails if it takes longer than `timeout` seconds.
    """
    launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(num_processes)]
    launcher += ["--main_process_port", "0"]
    command = [sys.executable, *(launcher if num_processes > 1 else []), str(script), *arguments]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")])),
        "GLOO_SOCKET_IFNAME": _LOOPBACK,
    }
    folder.mkdir(parents=True, exist_ok=True)
    output = folder / "output.txt"
    # To a file: a pipe that nobody reads fills up, and one that a child inherits may never close.
    with open(output, "wb") as sink:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT
        )
        try:
            end = time.monotonic() + timeout
            while process.poll() is None and time.monotonic() < end and not until():
                time.sleep(0.005)
            status, killed = process.poll(), until()
        finally:
            # The launcher gives each of its processes a session of its own, so that no group has them all.
            with contextlib.suppress(psutil.NoSuchProcess):
                tree = psutil.Process(process.pid)
                processes = [tree, *tree.children(recursive=True)]
                for running in processes[::-1]:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        running.kill()
                # What they hold, such as a lock of a folder, is free once they have ended.
                while any(map(_is_alive, processes)):
                    time.sleep(0.005)
            process.wait()
    printed = output.read_text(encoding="utf-8", errors="replace")
    assert status is not None or killed, f"no end after {timeout} seconds: {printed[-5000:]}"
    return status, printed


def pretend_speeds(speeds: dict, patch: Callable = setattr):
    """
    Has the machine say `native` of bfloat16, and a batch run at `float32` and at `bfloat16` images/s, in place of what
    this machine would. `timed` gets the number of images of each batch that is timed.
    """

    def measure(compute, num_images, device):
        for bf16 in (False, True):
            compute(bf16)
        speeds.setdefault("timed", []).append(num_images)
        return speeds["float32"], speeds["bfloat16"]

    patch(precision, "has_native_bf16", lambda device: speeds["native"])
    patch(precision, "measure_speeds", measure)


def _is_alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        # One that is dead as a whole may have threads that are not, and have open what it had.
        return process.is_running() and (process.status() != psutil.STATUS_ZOMBIE or process.num_threads() > 1)
    return False


def launch_script(script: Path | str, *arguments: str, **options) -> str:
    """As [`run_script`], for a script that must end well; gives what it printed."""
    status, printed = run_script(script, *arguments, **options)
    assert status == 0, printed[-5000:]
    return printed
