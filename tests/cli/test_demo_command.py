"""What `dedn demo` says before there is a page; `tests/test_demo_attacks.py` has it serve one."""

import socket
import sys

import pytest
from command_line import CommandFailed


@pytest.mark.parametrize("port", ["0", "65536", "-1", "http"])
def test_what_is_no_port(dedn, port):
    with pytest.raises(CommandFailed, match=r"^error: argument --port: .* is no port from 1 to 65535") as caught:
        dedn("demo", f"--port={port}")
    assert caught.value.status == 2


def test_a_port_that_is_taken(dedn):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(CommandFailed, match=rf"^error: .* port {port} of 127\.0\.0\.1: Address already in use"):
            dedn("demo", "--port", port)


def test_an_address_that_is_not_of_this_machine(dedn):
    with pytest.raises(CommandFailed, match=r"^error: .* cannot listen at 203\.0\.113\.7: "):
        dedn("demo", "--host", "203.0.113.7")


def test_without_gradio(dedn, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(CommandFailed, match=r"^error: dedn demo needs Gradio: pip install 'dedn-hf\[demo\]'$"):
        dedn("demo")


def test_a_model_that_is_not_there(dedn):
    with pytest.raises(CommandFailed, match="there is no model folder nowhere"):
        dedn("demo", "--model", "nowhere")
