"""Which files of a folder are images: one answer for data sets of one's own, for `--check` and for `dedn predict`."""

import os
from pathlib import Path

# By its name a file is an image or not, whatever is installed: a split may not depend on that. What cannot be read is
# said by whoever reads it.
IMAGE_SUFFIXES = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".avif", ".avifs", ".bmp", ".dib", ".gif"),
    *(".tif", ".tiff", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".jxl", ".heic", ".heif", ".hif", ".qoi"),
    *(".tga", ".pbm", ".pgm", ".ppm", ".pnm"),
}
# Pillow would take the small preview in some of them for the picture.
RAW_SUFFIXES = {
    *(".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dng", ".erf", ".kdc", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf"),
    *(".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f"),
}
OTHER_SUFFIXES = {
    *(".ai", ".eps", ".pdf", ".ps", ".svg", ".svgz", ".wmf", ".emf", ".xcf"),
    *(".3gp", ".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"),
    *(".h5", ".hdf", ".hdf5", ".mat", ".npy", ".csv", ".json", ".txt", ".xml", ".html", ".zip"),
}
# Of Pillow's, those that are known for certain by how they begin.
SURE_FORMATS = (
    *(
        "AVIF",
        "BMP",
        "GIF",
        "HEIF",
        "ICNS",
        "ICO",
        "JPEG",
        "JPEG2000",
        "MPO",
        "PCX",
        "PNG",
        "PPM",
        "PSD",
        "QOI",
        "SGI",
    ),
    *("TIFF", "WEBP"),
)
LITTER = {
    *("__macosx", "@eadir", "#recycle", "#snapshot", "$recycle.bin", "recycler", "system volume information"),
    *("lost+found", "thumbs.db", "thumbs.db:encryptable", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini"),
    *("folder.htt", "picasa.ini", ".picasa.ini", ".ds_store", ".localized", "icon\r", ".nomedia", ".directory"),
}
LITTER_BEGINNINGS = (
    "._",
    ".trash",
    ".fseventsd",
    ".spotlight",
    ".documentrevisions",
    ".temporaryitems",
    ".fuse_hidden",
)

# Why a file is no image of a data set: in a word, and what is to be said of such files.
IGNORED = {
    "raw": "raw files of cameras: save them as JPEG, PNG or TIFF unless they are there as such",
    "outside": "images that lie in no class's folder: put them into images/<class>/",
    "other": "drawings, films, tables and other files that are no photos",
    "no image": "files that are no images",
    "hidden": "hidden files and folders, whose names begin with a dot",
    "broken link": "links that lead nowhere",
    "link": "links to folders that are searched already",
    "empty folder": "folders that are no class and have no images",
    "unlisted": "files that the data set's lists do not name",
    "litter": "what systems leave behind",
}


def why_ignored(path: str | os.PathLike) -> str | None:
    """
    Why a file is not taken for an image; of a folder, why it is not searched.

    Args:
        path (`str` or `os.PathLike`):
            The file or folder.

    Returns:
        `str`, *optional*: a key of `IGNORED`; `None` of an image, which may still be damaged, missing or of a kind
        that needs a package, and of a folder that may hold some.
    """
    name = os.path.basename(os.fspath(path)).casefold()
    if name in LITTER or name.startswith(LITTER_BEGINNINGS):
        return "litter"
    if name.startswith("."):
        return "hidden"
    if os.path.isdir(path):
        return None
    suffix = os.path.splitext(name)[1]
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe would be waited for
        return "no image"
    if suffix in IMAGE_SUFFIXES:
        return None
    if suffix in RAW_SUFFIXES:
        return "raw"
    if suffix in OTHER_SUFFIXES:
        return "other"
    if not os.path.exists(path):
        return "broken link"
    return None if _begins_as_image(path) else "no image"


def find_images(folder: Path, ignored: dict[str, list[Path]]) -> list[Path]:
    """
    The images in a folder and in the folders in it, sorted, each folder searched once, whatever links lead to it.

    Args:
        folder (`Path`):
            The folder.
        ignored (`dict[str, list[Path]]`):
            Where to add all else: a key of `IGNORED` → files and folders.

    Returns:
        `list[Path]`: links that lead nowhere among them, if they are named as images.

    Raises:
        OSError: If a folder cannot be searched.
    """
    images, searched = [], set()

    def search(place: Path):
        real = os.path.realpath(place)
        if real in searched:
            ignored.setdefault("link", []).append(place)
            return
        searched.add(real)
        for entry in sorted(place.iterdir()):
            reason = why_ignored(entry)
            if reason:
                ignored.setdefault(reason, []).append(entry)
            elif entry.is_dir():
                search(entry)
            else:
                images.append(entry)

    search(folder)
    return sorted(images)


def describe_ignored(reason: str, files: list[Path], folder: Path) -> str:
    """One line on files that were ignored for a reason, with the first of them."""
    first = files[0].relative_to(folder) if files[0].is_relative_to(folder) else files[0]
    return f"{len(files):,} left out, such as {first}: {IGNORED[reason]}"


def _begins_as_image(path: str | os.PathLike) -> bool:
    from PIL import Image

    from ..images_dedn import is_heic, is_jpeg_xl  # which brings torch along, and few files need it

    try:
        with open(path, "rb") as file:
            head = file.read(16)
            if is_heic(head) or is_jpeg_xl(head):
                return True
            Image.init()
            Image.open(file, formats=[name for name in SURE_FORMATS if name in Image.OPEN]).close()
    except Exception:  # whatever the first bytes lead to
        return False
    return True
