"""The files of benchmarks in their official layouts. Every error ends with where to get a good one."""

import hashlib
import mmap
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import scipy.io


def find_files(folder: Path, *names: str, help: str) -> list[Path]:
    """Paths of files in a folder; a FileNotFoundError names all that are missing."""
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{folder} lacks {', '.join(missing)}. {help}")
    return [folder / name for name in names]


def read_lines(file: Path, help: str) -> list[str]:
    """Lines of a text file in UTF-8."""
    try:
        return file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is no text in UTF-8: {error}. {help}") from error


def read_table(file: Path, *types: type, help: str) -> list[list]:
    """Lines of values with spaces between them; only the last value may have spaces within."""
    rows = []
    for number, line in enumerate(read_lines(file, help), start=1):
        values = line.split(maxsplit=len(types) - 1)
        try:
            rows.append([convert(value) for convert, value in zip(types, values, strict=True)])
        except ValueError as error:
            raise ValueError(f"{file}, line {number}: {line!r} is not {len(types)} values. {help}") from error
    return rows


def read_numbered(file: Path, help: str) -> list[str]:
    """Different names numbered from 1, one a line."""
    rows = read_table(file, int, str, help=help)
    names = [name.strip() for _, name in rows]
    if [number for number, _ in rows] != list(range(1, len(rows) + 1)) or len(set(names)) != len(names):
        raise ValueError(f"{file} must number different names from 1 on, without gaps. {help}")
    return names


def read_mat(file: Path, *variables: str, help: str, optional: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """
    Variables of a MATLAB file, and optional ones if it has them; others are not read. Files of MATLAB 7.3, which are
    HDF5, are read with h5py.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing. {help}")
    names = [*variables, *optional]
    try:
        if _is_hdf5(file):
            content = _read_hdf5(file, names)
        else:
            _check_elements(file, names)
            content = scipy.io.loadmat(file, variable_names=names)
    except ImportError as error:
        raise ValueError(
            f"{file} is of MATLAB 7.3 (HDF5), which needs h5py: pip install 'dedn-hf[hdf5]', or write it anew in "
            "MATLAB with save(FILE, VARIABLES, '-v7')."
        ) from error
    except Exception as error:  # scipy and h5py raise whatever a damaged byte leads to
        raise ValueError(f"{file} cannot be read as a MATLAB file: {error}. {help}") from error
    missing = [name for name in variables if name not in content]
    if missing:
        raise ValueError(f"{file} lacks {', '.join(missing)}. {help}")
    return content


# Kinds of elements that a file of MATLAB 5 to 7 has: numbers of ten types, matrices, compressed ones, texts.
_ELEMENTS = {*range(1, 8), 9, *range(12, 19)}
_MATRIX, _COMPRESSED = 14, 15
# Classes of matrices: letters and numbers of ten types, and cells.
_OF_NUMBERS, _OF_CELLS = {4, *range(6, 16)}, 1


def _check_elements(file: Path, names: list[str]):
    """
    A ValueError if elements of some variables do not fit together: scipy, which believes them, would take the whole
    program down.
    """

    def is_wanted(head: bytes) -> bool:
        return any(name.encode() in head for name in names)

    def check(content, place: int, end: int, is_top: bool = False) -> list[tuple[int, int, int]]:
        """Kind of each element, where it begins, and its number of bytes."""
        found = []
        while place + 8 <= end:
            kind, size = struct.unpack_from(order + "2I", content, place)
            # Up to four bytes stand in the second half of the tag.
            is_small, start = kind >> 16, place + 8
            kind = kind & 0xFFFF if is_small else kind
            found.append((kind, start - 4 if is_small else start, is_small or size))
            if kind not in _ELEMENTS or (not is_small and start + size > end):
                raise ValueError(f"it is damaged at byte {place}")
            if not is_small:
                place += size if kind == _COMPRESSED else -(-size // 8) * 8
                # A variable's name is in its first bytes.
                if kind == _MATRIX and size and (not is_top or is_wanted(content[start : start + 256])):
                    check_matrix(content, start, check(content, start, min(start + size, end)))
                elif kind == _COMPRESSED and is_wanted(
                    zlib.decompressobj().decompress(content[start : start + min(size, 1024)], 256)
                ):
                    matrix = zlib.decompress(content[start : start + size])
                    check(matrix, 0, len(matrix))
            place += 8
        return found

    def check_matrix(content, start: int, elements: list[tuple[int, int, int]]):
        kinds = [kind for kind, *_ in elements]
        good = len(kinds) >= 3 and kinds[:2] == [6, 5]
        if good:
            # scipy takes the flags for eight bytes, whatever their tag says. Sizes have four bytes each.
            (_, place, num_flag_bytes), (_, _, num_size_bytes) = elements[:2]
            good = (place, num_flag_bytes) == (start + 8, 8)
            good = good and 8 <= num_size_bytes <= 128 and num_size_bytes % 4 == 0
        if good:
            (flags,) = struct.unpack_from(order + "I", content, elements[0][1])
            if flags & 0xFF in _OF_NUMBERS:
                is_complex = bool(flags & 0x800)
                good = good and len(kinds) == 4 + is_complex and not {_MATRIX, _COMPRESSED} & set(kinds)
            else:
                # No variable of the field is a structure or sparse, which a damaged byte makes of numbers.
                good = good and flags & 0xFF == _OF_CELLS and set(kinds[3:]) <= {_MATRIX}
        if not good:
            raise ValueError(f"it is damaged at byte {start}")

    with open(file, "rb") as opened:
        header = opened.read(128)
        order = {b"IM": "<", b"MI": ">"}.get(header[126:])
        if order is not None:
            with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
                check(content, 128, len(content), is_top=True)


def _is_hdf5(file: Path) -> bool:
    with open(file, "rb") as opened:
        # MATLAB writes 512 bytes of its own before.
        return any(opened.seek(place) == place and opened.read(4) == b"\x89HDF" for place in (0, 512))


def _read_hdf5(file: Path, names: list[str]) -> dict[str, np.ndarray]:
    """Matrices, texts and cells of them, in the shapes that `scipy.io.loadmat` gives of older files."""
    import h5py

    def read(item) -> np.ndarray:
        if not isinstance(item, h5py.Dataset):
            raise ValueError(f"{item.name} is no matrix")
        kind = item.attrs.get("MATLAB_class", b"")
        if item.attrs.get("MATLAB_empty"):
            return np.zeros((0, 0))
        if h5py.check_string_dtype(item.dtype):
            return np.asarray(item.asstr()[()])
        # MATLAB counts by columns.
        values = np.asarray(item[()]).T
        if h5py.check_ref_dtype(item.dtype):
            cells = np.empty(values.shape, dtype=object)
            for place, reference in np.ndenumerate(values):
                cells[place] = read(content[reference])
            return cells
        if kind == b"char":
            return np.array(["".join(map(chr, row)) for row in np.atleast_2d(values)])
        return values

    with h5py.File(file, "r") as content:
        return {name: read(content[name]) for name in names if name in content}


def read_texts(file: Path, variable: str, values: np.ndarray, help: str) -> list[str]:
    """
    The texts in a variable of a MATLAB file: a list of cells, nested in whatever way, or a matrix of letters. Whole
    numbers are taken for their digits.
    """
    texts = []
    for place, cell in enumerate(values.ravel(), start=1):
        while isinstance(cell, np.ndarray) and cell.size == 1:
            cell = cell.ravel()[0]
        if isinstance(cell, bytes):
            cell = cell.decode("utf-8", errors="replace")
        if isinstance(cell, np.number) and cell.dtype.kind in "iuf" and cell == cell // 1:
            cell = str(int(cell))
        if not isinstance(cell, str) or not cell.strip() or not cell.isprintable():
            raise ValueError(f"{variable} in {file} must be a list of texts, but its entry {place} is none. {help}")
        texts.append(str(cell).strip())
    return texts


def read_class_attributes(file: Path, num_classes: int, num_attributes: int, help: str) -> np.ndarray:
    """A class-attribute matrix `(num_classes, num_attributes)`, float64, as it stands in the file."""
    try:
        matrix = np.loadtxt(file, dtype=np.float64, ndmin=2)
    except ValueError as error:
        raise ValueError(f"{file} is no matrix of numbers: {error}. {help}") from error
    if matrix.shape != (num_classes, num_attributes):
        raise ValueError(
            f"{file} has shape {matrix.shape}, but must have a row for each of the {num_classes} classes and a "
            f"column for each of the {num_attributes} attributes. {help}"
        )
    return matrix


def check_attribute_count(file: Path, names: list[str], expected: int, title: str, help: str):
    """A ValueError if a file does not name all attributes of a data set."""
    if len(names) != expected:
        raise ValueError(f"{file} names {len(names)} attributes, but {title} has {expected}. {help}")


def fingerprint_names(names: Iterable[str]) -> str:
    """SHA-256 of names in their order, whatever their case, spaces and punctuation."""
    bare = ["".join(filter(str.isalnum, name.lower())) for name in names]
    return hashlib.sha256("\n".join(bare).encode()).hexdigest()


def mark_names(names: Iterable[str]) -> str:
    """Two digits of the SHA-256 of each name, which tell where one stands that does not belong there."""
    return "".join(fingerprint_names([name])[:2] for name in names)


def check_attribute_order(file: Path, names: list[str], known: tuple[str, str, str], help: str) -> list[str]:
    """
    Whether attributes are named in the order of the release, which is that of its matrix, word vectors and groups.

    Args:
        file (`Path`):
            Where the names are from.
        names (`list[str]`):
            The names.
        known (`tuple[str, str, str]`):
            [`fingerprint_names`] of the release's names, in its order and sorted, and [`mark_names`] in its order.
        help (`str`):
            Where to get the release, for messages.

    Returns:
        `list[str]`: what cannot be told, one line each.

    Raises:
        ValueError: If they are the release's names in another order; names the first that is out of place.
    """
    if fingerprint_names(names) == known[0]:
        return []
    if fingerprint_names(sorted(names, key=lambda name: "".join(filter(str.isalnum, name.lower())))) == known[1]:
        found = mark_names(names)
        places = [place for place in range(len(names)) if found[2 * place :][:2] != known[2][2 * place :][:2]]
        first = f" (number {places[0] + 1}, {names[places[0]]!r}, is another one there)" if places else ""
        raise ValueError(
            f"{file} has the names of the release in another order{first}: the columns of the matrix, word vectors "
            f"and groups would go to wrong attributes. {help}"
        )
    return [
        f"{file} has other names of attributes than the release: whether they are in the order of its matrix, word "
        "vectors and groups cannot be told."
    ]


def check_no_empty_class(file: Path, class_names: list[str], class_attributes: np.ndarray, help: str):
    """A ValueError that names classes without any attribute."""
    empty = [name for name, row in zip(class_names, class_attributes, strict=True) if not row.any()]
    if empty:
        raise ValueError(f"{file} gives no attribute above 0 to {', '.join(empty)}. {help}")
