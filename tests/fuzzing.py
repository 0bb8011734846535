"""Mutations of valid files and folders, each from a seed. To read them goes well, or gives one line."""

import contextlib
import io
import json
import os
import random
import re
import shutil
import signal
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

SECONDS = 5
VALUES = [None, True, -1, 0, 1, 10**30, 0.5, -1e9, 1e300, float("nan"), "", "x", "0", "é\u200b", [], [1], {}, {"a": 1}]
PIECES = [
    *" \t\n\r,;:#\"'/\\-.0159exé",
    "\x00",
    "\ufeff",
    "\u200b",
    "nan",
    "-1",
    "1e999",
    "9" * 20,
    "../",
]
NAMES = ["", " ", "a\nb", "é", "e\u0301", "x.JPG", "…", "a,b", "-", "%s", "{}", "\udcff", "x" * 200]


class _TooSlow(BaseException):
    pass


def _mutate_bytes(content: bytes, draw: random.Random) -> bytes:
    place, length = draw.randrange(len(content) + 1), draw.choice([1, 2, 8, 100])
    kind = draw.randrange(6)
    if kind == 0:
        return content[:place]
    if kind == 1:
        return content[:place] + content[place + length :]
    if kind == 2:
        return content[:place] + content[place : place + length] * 2 + content[place + length :]
    if kind == 3:
        return content[:place] + draw.randbytes(length) + content[place:]
    changed = bytearray(content)
    for _ in range(draw.choice([1, 1, 4])):
        if changed:
            changed[draw.randrange(len(changed))] = draw.choice([0, 255, draw.randrange(256)])
    return bytes(changed)


def _mutate_text(content: bytes, draw: random.Random) -> bytes:
    lines = content.decode(errors="surrogateescape").splitlines(keepends=True) or [""]
    place, kind = draw.randrange(len(lines)), draw.randrange(7)
    if kind == 0:
        del lines[place]
    elif kind == 1:
        lines.insert(draw.randrange(len(lines) + 1), lines[place])
    elif kind == 2:
        other = draw.randrange(len(lines))
        lines[place], lines[other] = lines[other], lines[place]
    elif kind == 3:
        del lines[place:]
    else:
        line = lines[place]
        at = draw.randrange(len(line) + 1)
        lines[place] = line[:at] + draw.choice(PIECES) + line[at + draw.randrange(3) :]
    return "".join(lines).encode(errors="surrogateescape")


def _mutate_json(content: bytes, draw: random.Random) -> bytes:
    """Of a JSON file, or of one whose lines are JSON: a value somewhere is another, or gone."""
    try:
        tree = json.loads(content)
    except ValueError:
        return _mutate_text(content, draw)
    places = [(None, None)]
    pending = [tree]
    while pending:
        part = pending.pop()
        keys = list(part) if isinstance(part, dict) else range(len(part)) if isinstance(part, list) else []
        places += [(part, key) for key in keys]
        pending += [part[key] for key in keys]
    part, key = draw.choice(places)
    if part is None:
        tree = draw.choice(VALUES)
    elif draw.random() < 0.3:
        del part[key]
    else:
        part[key] = draw.choice([*VALUES, [part[key]], str(part[key])])
    return json.dumps(tree).encode()


def mutate_arrays(arrays: dict, draw: random.Random) -> dict:
    """Of named arrays, as of a MATLAB or HDF5 file: one is gone, of another kind or shape, or has other values."""
    arrays = dict(arrays)
    name = draw.choice(list(arrays))
    array = np.array(arrays[name])
    kind = draw.randrange(8)
    if kind == 0:
        del arrays[name]
    elif kind == 1:
        twice = np.concatenate([array] * 2)
        arrays[name] = draw.choice([array[:0], array[:-1], array.ravel(), array.T, array[None], twice])
    elif kind == 2:
        arrays[name] = draw.choice([np.array(0.0), np.array("text"), np.zeros((2, 0)), np.ones(3, np.complex64)])
    elif array.dtype == object:
        cells = array.ravel()
        cells[draw.randrange(len(cells))] = draw.choice(
            [np.array([]), np.array([3.0]), np.array([["a", "b"]]), np.array(draw.choice(NAMES[1:-2])), cells[0]]
        )
        arrays[name] = cells.reshape(array.shape)
    elif kind == 3 and array.dtype.kind in "iuf":
        arrays[name] = array.astype(draw.choice([np.int8, np.uint64, np.float16, np.float64, bool, np.complex128]))
    elif array.dtype.kind in "iuf" and array.size:
        array = array.astype(np.float64) if draw.random() < 0.5 else array
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = draw.choice([np.nan, np.inf, -1, 0, 0.5, 1e30, 60000, array.flat[0]])
            array.flat[draw.randrange(array.size)] = np.array(value).astype(array.dtype)
        arrays[name] = array
    return arrays


def write_mat(arrays: dict) -> bytes:
    import scipy.io

    file = io.BytesIO()
    scipy.io.savemat(file, {name: array for name, array in arrays.items() if name[0] != "_"}, long_field_names=True)
    return file.getvalue()


def _mutate_mat(content: bytes, draw: random.Random) -> bytes:
    import scipy.io

    arrays = {name: array for name, array in scipy.io.loadmat(io.BytesIO(content)).items() if name[0] != "_"}
    return write_mat(mutate_arrays(arrays, draw))


BY_SUFFIX = {
    ".json": _mutate_json,
    ".jsonl": _mutate_json,
    ".mat": _mutate_mat,
    **dict.fromkeys((".txt", ".csv", ".yaml", ".vec"), _mutate_text),
}


def _mutate_tree(folder: Path, place: Path, draw: random.Random) -> str:
    """Renames, removes, empties, doubles or replaces a file or folder; says what was done."""

    def remove():
        shutil.rmtree(place) if place.is_dir() and not place.is_symlink() else place.unlink()

    kinds = ["remove", "rename", "double", "folder", "dangling", "loop", "link", "empty", "stranger"]
    # Nobody has a table that is a pipe.
    kind = draw.choice(kinds + ["pipe"] * (place.suffix in (".jpg", ".png")))
    other = place.with_name(draw.choice(NAMES) or place.name.upper())
    with contextlib.suppress(OSError):
        if kind in ("rename", "double", "stranger") and os.path.lexists(other):
            return f"{kind}: nothing"
        if kind == "rename":
            place.rename(other)
        elif kind == "double":
            shutil.copytree(place, other) if place.is_dir() else shutil.copy(place, other)
        elif kind == "stranger":
            other.write_bytes(b"no image, and no table")
        elif kind == "empty" and place.is_dir():
            for file in place.iterdir():
                shutil.rmtree(file) if file.is_dir() else file.unlink()
        elif kind == "empty" and place.is_file():
            place.write_bytes(b"")
        elif kind == "link":
            moved = folder.with_name("elsewhere")
            if not moved.exists():
                place.rename(moved)
                place.symlink_to(moved)
        else:
            remove()
            if kind == "folder":
                place.mkdir()
            elif kind == "pipe":
                os.mkfifo(place)
            elif kind == "dangling":
                place.symlink_to(folder / "nowhere")
            elif kind == "loop":
                place.symlink_to(place)
    return f"{kind} {place.relative_to(folder)} ({other.name!r})"


def _mutate(folder: Path, draw: random.Random, mutators: dict[str, Callable]) -> list[str]:
    done = []
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        files = sorted(path for path in folder.rglob("*"))
        if not files:
            break
        # As often one of many images as one of few tables would find nothing.
        suffix = draw.choice(sorted({path.suffix for path in files}))
        place = draw.choice([path for path in files if path.suffix == suffix])
        if not place.is_file() or draw.random() < 0.25:
            done.append(_mutate_tree(folder, place, draw))
            continue
        mutator = mutators.get(place.suffix, _mutate_bytes) if draw.random() < 0.7 else _mutate_bytes
        try:
            content = mutator(place.read_bytes(), draw)
        except Exception:  # what an earlier mutation has left
            content = _mutate_bytes(place.read_bytes(), draw)
        place.write_bytes(content)
        done.append(f"{mutator.__name__} {place.relative_to(folder)}")
    return done


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _restore(folder: Path, contents: dict[str, bytes]):
    elsewhere = folder.with_name("elsewhere")
    for path in (folder, elsewhere):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif os.path.lexists(path):
            path.unlink()
    for name, content in contents.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


def fuzz(
    folder: Path,
    read: Callable[[], object],
    cases: int,
    mutators: dict[str, Callable[[bytes, random.Random], bytes]] | None = None,
    naming: str = "$^",
    seed: int = 0,
) -> Counter:
    """
    Reads a folder after each of so many mutations of it, and counts what came of them: `"read"`, or the kind of error.

    Args:
        folder (`Path`):
            A valid folder, which is restored before each mutation.
        read (`Callable`):
            Reads it, and asserts of what it has read what can be told.
        cases (`int`):
            How many mutations.
        mutators (`dict`, *optional*):
            Suffix of a file → what makes other contents of its contents, over those for what is known.
        naming (`str`, *optional*):
            Regular expression of what an error may name in place of a file.
        seed (`int`, *optional*, defaults to 0):
            Seed of all of them.

    Raises:
        AssertionError: If there was another error than ValueError or OSError, or one that does not name a file; lists
            the first of each kind with its mutation.
    """
    contents, outcomes, failures = _contents(folder), Counter(), {}
    names = {str(folder), *(Path(name).name for name in contents if Path(name).suffix)}
    with warnings.catch_warnings(), _alarm():
        warnings.simplefilter("ignore")
        read()
        for case in range(cases):
            draw = random.Random(f"{seed} {case}")
            _restore(folder, contents)
            done = _mutate(folder, draw, BY_SUFFIX | (mutators or {}))
            failure, place = None, ""
            signal.alarm(SECONDS)
            try:
                read()
                outcomes["read"] += 1
            except (ValueError, OSError) as error:
                outcomes[type(error).__name__] += 1
                named = any(name in str(error) for name in names) or re.search(naming, str(error))
                if not named or isinstance(error, UnicodeDecodeError | json.JSONDecodeError):
                    failure = f"names no file: {type(error).__name__}: {error}"
                    place = f"{traceback.extract_tb(error.__traceback__)[-1].name}"
            except (Exception, _TooSlow) as error:
                failure = "".join(traceback.format_exception(error, limit=-4))
                frames = [f for f in traceback.extract_tb(error.__traceback__) if "dedn_hf" in f.filename]
                place = f"{type(error).__name__} {frames[-1].filename}:{frames[-1].lineno}" if frames else str(error)
            finally:
                signal.alarm(0)
            if failure:
                failures.setdefault(place, f"case {case}: {'; '.join(done)}: {failure}")
        _restore(folder, contents)
    assert not failures, f"{len(failures)} kinds of failure:\n\n" + "\n\n".join(failures.values())
    assert outcomes["read"] < cases
    return outcomes


@contextlib.contextmanager
def _alarm():
    def ring(*_):
        raise _TooSlow

    before = signal.signal(signal.SIGALRM, ring)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
