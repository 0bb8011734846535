"""Scripts in several processes, as `accelerate launch` starts them, that cannot outlast their test."""

import os
import socket
import subprocess
import sys
from pathlib import Path

TIMEOUT = 300
# The processes talk over the loopback interface, whatever the name of this machine resolves to.
_LOOPBACK = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), "lo")


def launch_script(script: Path, *arguments: str, num_processes: int, folder: Path, timeout: float = TIMEOUT) -> str:
    """
    Runs a script with this Python and gives what it printed, which is kept in `folder`; fails with it where the script
    fails, or takes longer than `timeout` seconds.
    """
    launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(num_processes)]
    launcher += ["--main_process_port", "0"]
    command = [sys.executable, *(launcher if num_processes > 1 else []), str(script), *arguments]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parent),
        "GLOO_SOCKET_IFNAME": _LOOPBACK,
    }
    folder.mkdir(parents=True, exist_ok=True)
    # To a file: the end of a pipe would have to be waited for, and a process left behind may hold it.
    with open(folder / "output.txt", "w+", encoding="utf-8") as output:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            status = f"no end after {timeout} seconds"
        finally:
            # The launcher ends the processes that it started.
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
        output.seek(0)
        printed = output.read()
    assert status == 0, f"{status}: {printed[-5000:]}"
    return printed
