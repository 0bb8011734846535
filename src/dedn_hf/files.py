"""Files: how they are written, and what tells their contents apart."""

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm.auto import tqdm

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None


def write_json(path: str | os.PathLike, content: dict):
    """
    Writes JSON under a temporary name and moves it, so that a file is there whole or not at all. JSON knows no NaN and
    no infinity: they become `null`.
    """
    write_text(path, json.dumps(_finite(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike) -> dict:
    """
    What a JSON file says by name.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no JSON, or holds something other than names and values.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged, or no JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold names and values, but holds {str(content)[:50]!r}")
    return content


def write_text(path: str | os.PathLike, text: str):
    """Writes text under a temporary name and moves it, so that a file is there whole or not at all."""
    with replacing(path) as file:
        file.write(text)


@contextlib.contextmanager
def replacing(path: str | os.PathLike):
    """
    A text file to write bit by bit, under a temporary name: it is moved when all is written, and what was there before
    stays as it was if an error comes first.

    Args:
        path (`str` or `os.PathLike`):
            The file; its folder is made.

    Raises:
        OSError: If it cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            yield file
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and error.filename in (None, str(temporary)) and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


@contextlib.contextmanager
def clear_faults(folder: str | os.PathLike):
    """
    Tells a full disk and killed processes, which come as errors of many kinds, as an OSError in one line: what it is
    about, and what to do.

    Args:
        folder (`str` or `os.PathLike`):
            What is being written.
    """
    try:
        yield
    except Exception as error:
        text = " ".join(str(error).split())
        # safetensors says it in words, and torch.save says nothing.
        number = getattr(error, "errno", None) or int((re.search(r"os error (\d+)\)", text) or [0, 0])[1])
        if number in _DISK_FULL or "PytorchStreamWriter failed" in text or "inline_container" in text:
            reason = os.strerror(number) if number else "a file cannot be written"
            raise OSError(
                number or errno.ENOSPC,
                f"{folder} cannot be written: {reason}. What was there before is as it was. Make room, and give the "
                "same command again",
            ) from error
        if (
            text.startswith("DataLoader worker")
            or "Connection closed by peer" in text
            or "Connection reset by peer" in text
        ):
            raise ChildProcessError(
                f"A process of the run that writes {folder} was killed, most often because memory ran out. Give the "
                "same command again, with fewer workers or a smaller batch: what is finished is not done again."
            ) from error
        raise


_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def only_run_in(folder: str | os.PathLike):
    """
    Keeps other runs out of a folder until this one ends, however it ends. Where a disk or system has no locks, none
    is kept out.

    Args:
        folder (`str` or `os.PathLike`):
            The folder, which is made if it does not exist.

    Raises:
        ValueError: If another run is in it.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        yield
        return
    # Of the folder itself: it is left behind by nobody, and freed by the system when the process dies.
    held = os.open(folder, os.O_RDONLY)
    _held.add(held)
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"Another run is writing into {folder}. Wait until it has ended and give the same command again, or "
                "choose another --output_dir."
            ) from None
        except OSError:
            pass
        yield
    finally:
        with contextlib.suppress(OSError):
            fcntl.flock(held, fcntl.LOCK_UN)
        _held.discard(held)
        os.close(held)


_held = set()
if fcntl is not None:
    # Workers may outlive the process that has started them.
    os.register_at_fork(after_in_child=lambda: [os.close(_held.pop()) for _ in range(len(_held))])


def require_writable(path: str | os.PathLike):
    """An OSError or ValueError if a file cannot be written, before the work that ends with it; makes its folder."""
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder: name a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path.parent):
        pass


def is_formula(text: str) -> bool:
    """Whether a spreadsheet would take a cell with this text for a formula."""
    return text.startswith(("=", "+", "-", "@", "\t", "\r"))


def printable(path: str | os.PathLike) -> str:
    """A path, or text with paths, that can be written as UTF-8; bytes that are not become `\\xe9` and the like."""
    # Python has a byte that is not UTF-8 as one of these.
    text = re.sub("[\udc80-\udcff]", lambda odd: f"\\x{ord(odd[0]) - 0xDC00:02x}", os.fspath(path))
    return text.encode(errors="backslashreplace").decode()


def source_name(source: str | os.PathLike) -> str:
    """What is recorded of where something is from: of a path its name alone, since the rest is this machine's."""
    path = Path(source)
    return path.resolve().name if path.exists() else str(source)


def hash_file(path: str | os.PathLike) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_mark(content: bytes) -> str:
    """Size and hash of a file's content, which is all that tells whether it changed: times of files prove nothing."""
    return f"{len(content)}-{hashlib.sha256(content).hexdigest()[:32]}"


def content_marks(files: Sequence[str | os.PathLike], description: str) -> list[str | None]:
    """
    Marks of many files, which are read in parallel, see [`content_mark`].

    Args:
        files (`Sequence[str` or `os.PathLike]`):
            The files.
        description (`str`):
            What the progress bar says.

    Returns:
        `list[str | None]`: a mark for each; `None` of one that is not there or cannot be read.
    """

    def read(file: str | os.PathLike) -> str | None:
        try:
            return content_mark(Path(file).read_bytes())
        except OSError:
            return None

    with ThreadPoolExecutor() as readers:
        marks = readers.map(read, files)
        return list(tqdm(marks, total=len(files), desc=description, unit="image", disable=None))


def _finite(content):
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content
