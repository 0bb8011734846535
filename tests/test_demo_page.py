"""
The page of `dedn demo` in a real browser. `make test-demo` has an environment for it; without Gradio, Playwright or a
Chromium these are skipped.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
import zipfile

import numpy as np
import pytest
from PIL import Image
from synthetic_model import SYNTHETIC_MODEL
from transformers import pipeline

pytest.importorskip("gradio")
playwright = pytest.importorskip("playwright.sync_api")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="there is no Chromium: apt-get install chromium"),
]

from dedn_hf.demo import MAX_FILE_SIZE, Page, launch  # noqa: E402
from dedn_hf.hub.space import write_space  # noqa: E402

ANSWER = ".answers button:visible"


@pytest.fixture(scope="module")
def address():
    classifier = pipeline("zero-shot-attribute-classification", model=str(SYNTHETIC_MODEL), device="cpu")
    blocks, address = launch(Page(classifier), "127.0.0.1", None, wait=False)
    yield address
    blocks.close()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(address, browser):
    """Opens the page for one more visitor; it fails if anything was asked of another host."""
    elsewhere, contexts = [], []

    def open_page(**options):
        context = browser.new_context(viewport={"width": 1200, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()

        def note(request):
            if not request.url.startswith((address, "data:", "blob:")):
                elsewhere.append(request.url)

        page.on("request", note)
        page.goto(address)
        page.wait_for_selector("#photo input[type=file]", state="attached")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert elsewhere == []


@pytest.fixture
def photos(tmp_path):
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 256, (80, 120, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    return [str(tmp_path / f"{number}.png") for number in range(2)]


def upload(page, photo):
    page.set_input_files("#photo input[type=file]", photo)
    page.wait_for_selector("#names dd, #names .confidence", timeout=30_000)


def test_a_photo_its_names_and_an_answer(visit, photos):
    page = visit()
    upload(page, photos[0])
    page.wait_for_selector("#places img")
    before = page.inner_text("#names")
    answer = page.locator(ANSWER).first
    told = answer.inner_text()
    answer.click()
    page.wait_for_function("document.querySelector('#summary').innerText.includes('Answered')")
    assert f": {told}." in page.inner_text("#summary") and page.inner_text("#names") != before
    page.get_by_role("button", name="Forget my answers").click()
    page.wait_for_function("!document.querySelector('#summary').innerText.includes('Answered')")
    assert page.inner_text("#names") == before


def test_the_place_of_a_reason_is_seen_when_it_is_pointed_at_or_reached_by_the_keyboard(visit, photos):
    page = visit()
    upload(page, photos[0])
    page.wait_for_selector("#places .mask", state="attached")
    shown = "[...document.querySelectorAll('#places .mask')].map(mask => getComputedStyle(mask).opacity)"
    page.wait_for_function(f"{shown}.every(opacity => opacity === '0')")
    reasons = page.locator("#places .legend-item")
    for place in range(reasons.count()):
        reasons.nth(place).hover()
        page.wait_for_function(f"{shown}.every((opacity, place) => opacity === String(Number(place === {place})))")
    page.mouse.move(0, 0)
    reasons.first.focus()
    page.wait_for_function(f"{shown}[0] === '1'")
    # On to the answers, and one of them, without a mouse.
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.matches('.answers button')"):
            break
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('#summary').innerText.includes('Answered')")


def test_a_property_has_its_values_and_two_answers_more(visit, photos):
    page = visit()
    upload(page, photos[0])
    page.wait_for_selector(ANSWER)
    rows = page.locator(".answers")
    for place in range(3):
        texts = rows.nth(place).locator("button:visible").all_inner_texts()
        assert len(texts) == 3 or (4 <= len(texts) <= 8 and texts[-2:] == ["none of these", "don't know"])
    question = page.locator(".question").first.inner_text()
    rows.first.get_by_role("button", name="don't know").click()
    # It is not asked again.
    shown = "[...document.querySelectorAll('.question')].map(element => element.innerText)"
    page.wait_for_function(f"!{shown}.some(text => text.includes({question!r}))")
    page.wait_for_function(f"{shown}.some(text => text.endsWith('?'))")


def test_as_dark_as_the_visitor_likes_it(visit):
    for scheme in ("light", "dark"):
        page = visit(color_scheme=scheme)
        page.wait_for_function(f"document.body.classList.contains('dark') === {str(scheme == 'dark').lower()}")


def test_a_class_and_its_table(visit, photos, tmp_path):
    page = visit()
    page.get_by_role("tab", name="My classes").click()
    page.get_by_label("Name", exact=True).fill("<b>Lantern</b>")
    page.get_by_label("In words").fill("a red head and a blue wing")
    page.get_by_role("button", name="Add the class").click()
    page.wait_for_function("document.querySelector('#said').innerText.includes('one of your classes')")
    assert "<b>Lantern</b>" in page.inner_text("#said")
    page.get_by_role("button", name="Save my classes as a table").click()
    with page.expect_download() as download:
        page.get_by_role("link", name="classes.csv").or_(page.locator("a[download]")).first.click()
    download.value.save_as(tmp_path / "classes.csv")
    assert "<b>Lantern</b>," in (tmp_path / "classes.csv").read_text()
    page.get_by_role("tab", name="A photo").click()
    page.get_by_label("my classes", exact=True).check()
    upload(page, photos[0])
    assert "<b>Lantern</b>" in page.inner_text("#names")


def test_two_visitors(visit, photos):
    one, other = visit(), visit()
    one.get_by_role("tab", name="My classes").click()
    one.get_by_label("Name", exact=True).fill("Lantern")
    one.get_by_label("In words").fill("a red head")
    one.get_by_role("button", name="Add the class").click()
    one.wait_for_function("document.querySelector('#said').innerText.includes('one of your classes')")
    other.get_by_label("my classes", exact=True).check()
    other.set_input_files("#photo input[type=file]", photos[0])
    other.wait_for_selector("text=There are no classes of yours yet")


def test_a_broken_file_is_told_in_a_line(visit, tmp_path):
    (tmp_path / "bird.jpg").write_bytes(b"<script>alert(1)</script>")
    page = visit()
    page.set_input_files("#photo input[type=file]", str(tmp_path / "bird.jpg"))
    page.wait_for_selector("text=cannot be read as a photo")
    assert str(tmp_path) not in page.inner_text("body")


def test_many_photos(visit, photos):
    page = visit()
    page.get_by_role("tab", name="Many photos").click()
    page.locator("input[type=file][multiple]").last.set_input_files(photos)
    page.wait_for_function("document.body.innerText.includes('KB')")
    page.get_by_role("button", name="Name them").click()
    page.wait_for_function("document.querySelector('#found').innerText.includes('1.png')", timeout=30_000)


def test_a_phone_and_the_keyboard(visit, photos):
    page = visit()
    page.set_viewport_size({"width": 390, "height": 800})
    upload(page, photos[0])
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    # All values of a question are there, and none is cut off.
    for button in page.locator(ANSWER).all():
        box = button.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390
        assert button.evaluate("button => button.scrollWidth <= button.clientWidth")
    page.locator(ANSWER).first.focus()
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('#summary').innerText.includes('Answered')")


@pytest.mark.parametrize("path", ["/etc/passwd", "/proc/self/environ", "../../../../etc/passwd", "pyproject.toml"])
def test_files_of_the_machine_are_not_served(visit, address, path):
    page = visit()
    response = page.request.get(f"{address}gradio_api/file={path}")
    assert response.status in (400, 403, 404)


def test_a_huge_upload_is_refused(visit, address):
    page = visit()
    content = b"0" * (51 * 2**20)
    files = {"files": {"name": "bird.jpg", "mimeType": "image/jpeg", "buffer": content}}
    response = page.request.post(f"{address}gradio_api/upload", multipart=files)
    assert MAX_FILE_SIZE == "50mb" and response.status == 413


def test_a_space_runs_as_it_stands(tmp_path):
    """Of its own wheel: the package that these tests import is not found there."""
    space = tmp_path / "space"
    write_space(space, "me/birds")
    with zipfile.ZipFile(next(space.glob("*.whl"))) as wheel:
        wheel.extractall(tmp_path / "site")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site"), "GRADIO_SERVER_PORT": str(port)}
    with subprocess.Popen([sys.executable, "app.py"], cwd=space, env=environment) as process:
        try:
            for _ in range(120):
                with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/") as response:
                    assert response.status == 200
                    return
                assert process.poll() is None
                time.sleep(1)
            pytest.fail("it does not answer")
        finally:
            process.terminate()


def test_it_listens_on_this_machine_alone(address):
    port = int(address.rsplit(":", 1)[1].strip("/"))
    own = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)} - {"127.0.0.1"}
    for other in own:
        with pytest.raises(OSError):
            socket.create_connection((other, port), timeout=2).close()
