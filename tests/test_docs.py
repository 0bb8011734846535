"""The pages say what is so: their snippets run, their links lead somewhere, their options exist."""

import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from contextlib import redirect_stdout

import doc_pages
import pytest
import yaml
from doc_pages import FILES, PAGES, ROOT, SHELL, SHOWN, STAND_INS

from dedn_hf.cli import COMMANDS, main

LINKED = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
# Options of `accelerate launch`, `pip`, …, that pages speak of.
OTHERS_OPTIONS = {"--cpu", "--multi_gpu", "--num_processes", "--num_machines", "--machine_rank", "--token"}
OF_LAB = r"python (scripts/lab/\w+\.py)"


def page_name(page):
    return page.stem


def is_run(block, *notes):
    return block.language in ("python", *SHELL) and block.note.split(":")[0] in notes


def run_command(command: str):
    """A line of a shell block: one of ours, in this process."""
    program, *arguments = shlex.split(command, comments=True)
    assert program == "dedn", f"{command!r} cannot be run here: say so with `<!-- not run: REASON -->`"
    try:
        status = main([STAND_INS.get(argument, argument) for argument in arguments])
    except SystemExit as end:
        status = end.code
    assert not status, f"{command!r} ended with {status}"


def run_page(page, slow: bool):
    namespace = {"__name__": page.stem}
    for block in doc_pages.blocks(page):
        if not is_run(block, "", *(["slow"] if slow else [])):
            continue
        elif block.language == "python":
            # Lines of a traceback are those of the page.
            code = compile("\n" * block.line + block.text, str(page), "exec")
            exec(code, namespace)
        else:
            for command in block.commands:
                run_command(command)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    doc_pages.prepare_folder(folder)
    return folder


@pytest.fixture
def folder(prepared, tmp_path, monkeypatch):
    folder = shutil.copytree(prepared, tmp_path / "folder")
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_each_block_is_of_a_known_kind(page):
    for block in doc_pages.blocks(page):
        place = f"{page.name}, line {block.line}"
        assert block.language in ("python", *SHELL, *FILES, *SHOWN), place
        assert bool(block.file) == (block.language in FILES), f"{place}: which file is this?"
        assert not block.note or re.match(r"(not run|slow): \S", block.note), place


def pages_with(*notes):
    return [page for page in PAGES if any(is_run(block, *notes) for block in doc_pages.blocks(page))]


@pytest.mark.parametrize("page", pages_with(""), ids=page_name)
def test_its_snippets_run(page, folder):
    run_page(page, slow=False)


@pytest.mark.slow
@pytest.mark.parametrize("page", pages_with("slow"), ids=page_name)
def test_its_slow_snippets_run(page, folder):
    run_page(page, slow=True)


def test_the_readme_is_read_in_two_minutes():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


@pytest.mark.parametrize("page", LINKED, ids=page_name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", doc_pages.prose(page)):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), f"{page.name} leads to {target}"
        assert file.suffix != ".png" or doc_pages.is_image(file)
        if anchor:
            headings = re.findall(r"^#+ (.+)$", doc_pages.prose(file), flags=re.MULTILINE)
            assert anchor in map(doc_pages.slug, headings), f"{page.name} leads to {target}"


@pytest.fixture(scope="session")
def options():
    """Command → its options, those of `dedn train --help_all`, too."""
    found = {}
    for name in COMMANDS:
        with redirect_stdout(io.StringIO()) as printed:
            try:
                main([name, "--help_all" if name == "train" else "--help"])
            except SystemExit as end:
                assert not end.code, name
        found[name] = {*re.findall(r"(?<![\w-])--\w+", printed.getvalue()), "--help"}
    found["train"].add("--help_all")
    return found


def given_options(command: str) -> list[str]:
    return re.findall(r"(?<=\s)--\w+", command)


@pytest.mark.parametrize("page", LINKED, ids=page_name)
def test_options_exist(page, options):
    commands = [line for block in doc_pages.blocks(page) if block.language in SHELL for line in block.commands]
    spans = re.findall(r"`([^`\n]+)`", doc_pages.prose(page))
    for text in [*commands, *spans]:
        ours = re.match(r"(?:.*-m dedn_hf|dedn) ([a-z]+)\b(.*)", text.partition("#")[0])
        if ours:
            name, rest = ours.groups()
            assert name in COMMANDS, f"{page.name}: {text}"
            strange = {*given_options(rest)} - options[name]
            assert not strange, f"{page.name}: {text}"
        elif text.startswith("--") and page.stem != "CHANGELOG":
            # Without its command: then some command has it.
            (option, *_) = text.split()
            assert option in set().union(OTHERS_OPTIONS, *options.values()), f"{page.name}: {text}"


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_settings_in_files_exist(page, options):
    for block in doc_pages.blocks(page):
        if block.language == "yaml":
            assert {f"--{name}" for name in yaml.safe_load(block.text)} <= options["train"], (
                f"{page.name}: {block.file}"
            )


@pytest.mark.parametrize("page", LINKED, ids=page_name)
def test_scripts_exist(page):
    for name in re.findall(r"(?<![\w/])scripts/[\w/]+\.py", page.read_text(encoding="utf-8")):
        assert page.stem == "CHANGELOG" or (ROOT / name).is_file(), f"{page.name}: {name}"


@pytest.mark.slow
def test_options_of_the_laboratory_exist():
    commands = {}
    for page in LINKED:
        for command in (line for block in doc_pages.blocks(page) for line in block.commands):
            if found := re.match(OF_LAB, command):
                commands.setdefault(found[1], set()).update(given_options(command))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    for script, given in commands.items():
        asked = [sys.executable, str(ROOT / script), "--help"]
        done = subprocess.run(asked, capture_output=True, text=True, env=environment, timeout=120)
        assert done.returncode == 0, done.stderr
        assert not given - {*re.findall(r"--\w+", done.stdout)}, script


def test_the_version_stands_in_one_place():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## \[?([\d.]+)", changes, flags=re.MULTILINE)[1] == version
    assert not re.search(r"^version:", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), flags=re.MULTILINE)
