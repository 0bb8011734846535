"""
The page of `dedn demo` before people who write requests of their own. It is served by the command, in a process that
refuses to connect to other machines.
"""

import http.client
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
from synthetic_model import SYNTHETIC_MODEL

pytest.importorskip("gradio")
pytestmark = pytest.mark.slow

MARKUP = "<img src=x onerror=alert(1)><script>alert(2)</script>"


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"GRADIO_TEMP_DIR": str(folder / "sent")}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    command = [sys.executable, "-m", "dedn_hf", "demo", "--model", str(SYNTHETIC_MODEL), "--port", str(port)]
    with (
        open(folder / "log.txt", "wb") as log,
        subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log) as process,
    ):
        try:
            for _ in range(240):
                try:
                    if get(f"http://127.0.0.1:{port}", "/")[0] == 200:
                        break
                except OSError:
                    assert process.poll() is None, (folder / "log.txt").read_text()
                    time.sleep(0.5)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def get(url, path, **headers):
    request = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    request.request("GET", path, headers=headers)
    response = request.getresponse()
    return response.status, response.read(), response.headers


def send(url, name, content, kind="image/jpeg"):
    boundary = "=" * 10
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n'
    body = f"{head}Content-Type: {kind}\r\n\r\n".encode() + content + f"\r\n--{boundary}--\r\n".encode()
    request = urllib.request.Request(f"{url}/gradio_api/upload", body)
    request.add_header("Content-Type", f"multipart/form-data; boundary={boundary}")
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.loads(response.read())[0]


def config_of(url):
    return json.loads(get(url, "/config")[1])


def ask(url, element, trigger, data):
    """What the page answers when an event of an element is sent with these values."""
    config = config_of(url)
    (number,) = (item["id"] for item in config["components"] if item["props"].get("elem_id") == element)
    (event,) = (item for item in config["dependencies"] if [number, trigger] in map(list, item["targets"]))
    joined = {"data": data, "fn_index": event["id"], "session_hash": "somebody", "trigger_id": number}
    request = urllib.request.Request(f"{url}/gradio_api/queue/join", json.dumps(joined).encode())
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=60):
        pass
    with urllib.request.urlopen(f"{url}/gradio_api/queue/data?session_hash=somebody", timeout=60) as stream:
        for line in stream:
            if line.startswith(b"data:"):
                message = json.loads(line[5:])
                if message["msg"] == "process_completed":
                    return message


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "../../../etc/passwd", "log.txt", str(Path(__file__)), str(SYNTHETIC_MODEL / "config.json")],
)
def test_files_beyond_the_uploads_are_not_given(url, path):
    sent = send(url, "photo.jpg", b"x")
    beside = str(Path(sent).parent / ".." / ".." / ".." / "log.txt")
    for asked in (path, beside):
        for quoted in (quote(asked), quote(asked, safe="")):
            status, content, _ = get(url, f"/gradio_api/file={quoted}")
            assert status in (403, 404), asked
            assert b"root:" not in content and b"The page is at" not in content
    assert get(url, f"/gradio_api/file={quote(sent)}")[0] == 200


@pytest.mark.parametrize("path", ["/etc/passwd", str(SYNTHETIC_MODEL / "config.json"), "http://192.0.2.1/photo.png"])
def test_a_photo_is_what_was_sent_and_nothing_else(url, path):
    file = {"path": path, "meta": {"_type": "gradio.FileData"}, "orig_name": "photo.png"}
    answer = ask(url, "photo", "change", [None, file, "the model's classes"])
    assert not answer["success"] and "root:" not in json.dumps(answer)


@pytest.mark.parametrize(
    "name, kind", [("page.jpg", "text/html"), ("page.html", "text/html"), ("drawing.svg", "image/svg+xml")]
)
def test_what_was_sent_is_never_a_page(url, name, kind):
    sent = send(url, name, f"<!doctype html>{MARKUP}".encode(), kind)
    status, _, headers = get(url, f"/gradio_api/file={quote(sent)}")
    assert status == 200
    assert headers["Content-Type"] == "image/jpeg" or headers["Content-Disposition"].startswith("attachment")


def test_there_is_nothing_for_programs_and_for_other_pages(url):
    described = json.loads(get(url, "/gradio_api/info")[1])
    assert not described["named_endpoints"] and not described["unnamed_endpoints"]
    for path in ("/monitoring/summary", "/gradio_api/mcp/sse", "/gradio_api/vibe-code"):
        assert get(url, path)[0] >= 400, path
    *_, headers = get(url, "/config", Origin="https://elsewhere.example")
    assert headers["Access-Control-Allow-Origin"] is None
    config = config_of(url)
    assert not config.get("analytics_enabled") and not config.get("is_space")


def test_no_other_machine_reaches_it(url):
    port = urlsplit(url).port
    listening = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    addresses = {
        line[1].split(":")[0] for line in listening if line[3] == "0A" and int(line[1].split(":")[1], 16) == port
    }
    assert addresses == {"0100007F"}


def test_it_connects_to_no_other_machine():
    code = """
import http.server, socket, threading, urllib.request
from dedn_hf.cli.demo import stay_on_this_machine
server = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
threading.Thread(target=server.serve_forever, daemon=True).start()
stay_on_this_machine()
urllib.request.urlopen(f"http://localhost:{server.server_port}").read()
for call in (
    lambda: socket.create_connection(("192.0.2.1", 80), timeout=1),
    lambda: socket.getaddrinfo("huggingface.co", 443),
    lambda: socket.socket(socket.AF_INET6).connect(("2001:db8::1", 80)),
    lambda: socket.socket(type=socket.SOCK_DGRAM).sendto(b"x", ("192.0.2.1", 53)),
):
    try:
        call()
    except PermissionError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.count("connects to no other machine") == 4, done.stderr
