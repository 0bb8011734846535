"""What is understood of a data set and what is wrong with it, on one page that a person can act on."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..files import printable
from .image_check import examine_images
from .image_files import IGNORED, find_images

# How many of a kind are printed.
SHOWN = 4
# The class with most images may have so many times as many as the one with fewest before it is said.
UNEQUAL = 20


@dataclass
class Finding:
    """
    Things of one kind that were found.

    Args:
        kind (`str`):
            The kind in a word, for programs.
        text (`str`):
            What it is and what to do about it, in a sentence.
        lines (`list[str]`):
            What was found, one line each.
        paths (`list[str]`):
            All files that it speaks of.
    """

    kind: str
    text: str
    lines: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)


@dataclass
class CheckReport:
    """
    What `--check` says.

    Args:
        folder (`Path`):
            What paths in it are relative to.
        understood (`list[str]`):
            What was understood, one line each.
        wrong (`dict[str, Finding]`):
            What would go wrong: kind → what was found of it.
        warnings (`dict[str, Finding]`):
            What may well be meant so.
        ignored (`dict[str, Finding]`):
            Files that are not read.
        check_files (`bool`, *optional*, defaults to `True`):
            Whether all images must be there; stored feature maps need none.
    """

    folder: Path = Path()
    understood: list[str] = field(default_factory=list)
    wrong: dict[str, Finding] = field(default_factory=dict)
    warnings: dict[str, Finding] = field(default_factory=dict)
    ignored: dict[str, Finding] = field(default_factory=dict)
    check_files: bool = True

    def add_wrong(self, kind: str, text: str, *lines: str, paths: Sequence[Path] = ()):
        """Adds what is wrong, of a kind and with a sentence on it, see [`Finding`]."""
        self._add(self.wrong, kind, text, lines, paths)

    def add_warning(self, kind: str, text: str, *lines: str, paths: Sequence[Path] = ()):
        """Adds what may be meant so, see [`Finding`]."""
        self._add(self.warnings, kind, text, lines, paths)

    def add_ignored(self, ignored: Mapping[str, Sequence[Path]]):
        """Adds files that are not read: a key of `IGNORED` → the files."""
        for reason in IGNORED:
            if ignored.get(reason):
                paths = list(ignored[reason])
                self._add(self.ignored, reason, IGNORED[reason], map(self.name, paths), paths)

    def _add(self, findings: dict[str, Finding], kind: str, text: str, lines, paths: Sequence[Path]):
        lines = [_printable(line) for line in lines]
        if lines:
            finding = findings.setdefault(kind, Finding(kind, _printable(text)))
            finding.lines += lines
            finding.paths += [_printable(self.name(path)) for path in paths]

    def name(self, path: Path) -> str:
        """A file as the report names it: within the folder, if it is there."""
        path = Path(path)
        return str(path.relative_to(self.folder) if path.is_relative_to(self.folder) else path)

    @property
    def problems(self) -> list[str]:
        """All that is wrong, one line each."""
        return [line for finding in self.wrong.values() for line in finding.lines]

    def exit_status(self, strict: bool = False) -> int:
        """
        0 if nothing is wrong, else 1.

        Args:
            strict (`bool`, *optional*, defaults to `False`):
                Whether warnings and ignored files count, too.
        """
        return int(bool(self.wrong or (strict and (self.warnings or self.ignored))))

    def __str__(self) -> str:
        lines = [_printable(line) for line in self.understood]
        for title, findings in (("WRONG", self.wrong), ("WARNING", self.warnings)):
            for finding in findings.values():
                lines += ["", f"{title} ({len(finding.lines):,}): {finding.text}"]
                lines += [f"  {line}" for line in finding.lines[:SHOWN]]
                if len(finding.lines) > SHOWN:
                    lines.append(f"  and {len(finding.lines) - SHOWN:,} more")
        if self.ignored:
            lines.append("")
        for finding in self.ignored.values():
            shown = 1 if finding.kind == "litter" else SHOWN - 1
            more = f" and {len(finding.lines) - shown:,} more" if len(finding.lines) > shown else ""
            lines.append(f"IGNORED ({len(finding.lines):,}): {finding.text}: {', '.join(finding.lines[:shown])}{more}")
        wrong, warnings, ignored = (
            sum(len(finding.lines) for finding in findings.values())
            for findings in (self.wrong, self.warnings, self.ignored)
        )
        last = f"Found wrong: {wrong:,}." if wrong else "Nothing wrong was found."
        last += f" Warnings: {warnings:,}." * bool(warnings) + f" Ignored: {ignored:,}." * bool(ignored)
        return "\n".join([*lines, *[""] * (len(lines) > len(self.understood)), last])

    def to_dict(self) -> dict:
        """All of it, for JSON."""
        parts = {"wrong": self.wrong, "warnings": self.warnings, "ignored": self.ignored}
        return {
            "folder": _printable(str(self.folder)),
            "understood": [_printable(line) for line in self.understood],
            **{
                part: [
                    {
                        "kind": finding.kind,
                        "text": finding.text,
                        "count": len(finding.lines),
                        "lines": finding.lines,
                        "paths": finding.paths,
                    }
                    for finding in findings.values()
                ]
                for part, findings in parts.items()
            },
        }


def check_images(
    report: CheckReport,
    images: Sequence[tuple[Path, str]],
    class_splits: Mapping[str, str],
):
    """
    Decodes all images, and looks at how they are spread over classes.

    Args:
        report ([`CheckReport`]):
            Where to add what is found.
        images (`Sequence[tuple[Path, str]]`):
            The images and their classes.
        class_splits (`Mapping[str, str]`):
            Class → `"seen"`, `"validation"` or `"unseen"`, as far as it is known.
    """
    if not report.check_files:
        there = [(path, name) for path, name in images if path.exists()]
        if len(there) < len(images):
            report.understood.append(
                f"images: {len(images) - len(there):,} are not there; their feature maps are used"
            )
        images = there
    found = {"missing": [], "unreadable": [], "frames": [], "remark": []}
    of_mark, readable = {}, dict.fromkeys((name for _, name in images), 0)
    for (path, name), state in zip(images, examine_images([path for path, _ in images])):
        if state.problem:
            found["unreadable" if state.mark else "missing"].append((path, state.problem))
            continue
        readable[name] += 1
        of_mark.setdefault(state.mark, []).append((path, name))
        for remark in state.remarks:
            found["frames" if "frames" in remark else "remark"].append((path, remark))
    skip = "or leave them out of a store with `dedn features … --on_error skip`"
    for kind, add, text in (
        ("missing", report.add_wrong, f"images that are not there; bring them back, {skip}"),
        ("unreadable", report.add_wrong, f"images that cannot be read; replace or remove them, {skip}"),
        ("frames", report.add_warning, "images with several frames, of which the first is taken"),
        ("remark", report.add_warning, "images that can be read, but are out of the ordinary"),
    ):
        lines = [f"{report.name(path)}: {said}" for path, said in found[kind]]
        add(f"{kind} image", text, *lines, paths=[path for path, _ in found[kind]])
    for name, count in readable.items():
        if not count and class_splits.get(name) in ("seen", "validation"):
            report.add_wrong(
                "class without images",
                "seen and validation classes of which no image can be read",
                f"{name} ({class_splits[name]})",
            )
    _warn_of_copies(report, of_mark, class_splits)
    counts = {name: count for name, count in readable.items() if count}
    report.add_warning(
        "class with one image",
        "classes with a single image, too few to train on and to test with",
        *(name for name, count in counts.items() if count == 1),
    )
    if counts:
        largest, smallest = max(counts, key=counts.get), min(counts, key=counts.get)
        if counts[largest] > UNEQUAL * counts[smallest]:
            report.add_warning(
                "unequal classes",
                f"a class has more than {UNEQUAL} times as many images as another",
                f"{largest} has {counts[largest]:,}, {smallest} has {counts[smallest]:,}",
            )


def check_unlisted(report: CheckReport, listed: Sequence[Path]):
    """
    Reports the files among images that no list names.

    Args:
        report ([`CheckReport`]):
            Where to add them.
        listed (`Sequence[Path]`):
            The images that the lists name.
    """
    folders = {path.parent for path in listed}
    root = Path(os.path.commonpath(folders)) if folders else None
    if root is None or not root.is_dir():
        return
    named, ignored = {str(path) for path in listed}, {}
    for path in find_images(root, ignored):
        if str(path) not in named:
            ignored.setdefault("unlisted", []).append(path)
    report.add_ignored(ignored)


def _warn_of_copies(report: CheckReport, of_mark: Mapping[str, list], class_splits: Mapping[str, str]):
    texts = {
        "picture in seen and unseen": "the same picture in a seen and an unseen class: it is trained on and tested",
        "picture in two classes": "the same picture in two classes: one of them is wrong",
        "picture twice": "the same picture twice in a class: it may be trained on and tested",
    }
    found = {kind: [] for kind in texts}
    for copies in of_mark.values():
        if len(copies) > 1:
            names = {name for _, name in copies}
            splits = {class_splits.get(name) == "unseen" for name in names}
            kinds = list(texts)
            found[kinds[0] if len(splits) > 1 else kinds[1] if len(names) > 1 else kinds[2]].append(copies)
    for kind, groups in found.items():
        report.add_warning(
            kind,
            texts[kind],
            *(" = ".join(report.name(path) for path, _ in copies) for copies in groups),
            paths=[path for copies in groups for path, _ in copies],
        )


def check_class_attributes(
    report: CheckReport,
    class_names: Sequence[str],
    attribute_names: Sequence[str],
    class_attributes: np.ndarray,
    seen_class_names: Sequence[str],
):
    """
    Warns of attributes that tell nothing, and of classes that they do not tell apart.

    Args:
        report ([`CheckReport`]):
            Where to add what is found.
        class_names, attribute_names, class_attributes:
            As in [`GzslDataset`].
        seen_class_names (`Sequence[str]`):
            The seen classes.
    """
    report.add_warning(
        "twin classes",
        "classes with the same attributes, which cannot be told apart: give them one that differs",
        *(" = ".join(class_names[i] for i in twins) for twins in _equal_rows(class_attributes)),
    )
    constant = (class_attributes == class_attributes[:1]).all(0)
    report.add_warning(
        "constant attribute",
        "attributes that are the same in all classes, and tell none from another",
        *(f"{attribute_names[i]} ({class_attributes[0, i]:g})" for i in np.flatnonzero(constant)),
    )
    varying = np.flatnonzero(~constant)
    report.add_warning(
        "duplicate attributes",
        "attributes that are the same as another in every class: keep one, or tell them apart",
        *(
            " = ".join(attribute_names[varying[i]] for i in equal)
            for equal in _equal_rows(class_attributes[:, varying].T)
        ),
    )
    seen = np.array([name in set(seen_class_names) for name in class_names])
    if seen.any():
        unlearnt = (class_attributes[seen] == 0).all(0) & (class_attributes > 0).any(0)
        report.add_warning(
            "attribute of unseen classes only",
            "attributes that no seen class has, so that they cannot be learnt",
            *(
                f"{attribute_names[i]}: {', '.join(np.array(class_names)[class_attributes[:, i] > 0][:3])}"
                for i in np.flatnonzero(unlearnt)
            ),
        )


def _equal_rows(rows: np.ndarray) -> list[list[int]]:
    groups = {}
    for index, row in enumerate(rows):
        groups.setdefault(tuple(row), []).append(index)
    return [group for group in groups.values() if len(group) > 1]


def _printable(text: str) -> str:
    """Text that any terminal and JSON can hold, on one line: a file name may be anything."""
    return "".join(character if character.isprintable() else "�" for character in printable(text))
