"""
The page of `dedn demo`: a photo and its names, reasons and places, questions that a person answers, classes that a
person describes, and many photos as a table. Nothing of it leaves the machine, and nothing is kept of a photo but for
as long as its page is open.

A handler is a method of [`Page`] that takes what stands in the page and gives what is to stand there. What a visitor
does is in [`Session`], of which each visitor has one.
"""

import csv
import io
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from .data.class_table import load_class_table
from .images_dedn import load_any_image
from .names_dedn import NameMatcher, readable_attribute

NUM_LABELS, NUM_ATTRIBUTES, NUM_QUESTIONS = 5, 8, 3
MAX_FILE_SIZE = "50mb"
MAX_PHOTOS = 1000
# A gradient over a photo would hide it: marked is where attention is more than half of its highest.
MARKED, MARK_OPACITY = 0.5, 0.4
OWN, MINE, BOTH = "the model's classes", "my classes", "both"
INTRODUCTION = (
    "Drop, paste or take a photo. **Names** are of the classes chosen below; **fit** says whether it shows any of "
    "them. Nothing leaves this machine."
)


class BadInput(ValueError):
    """What a visitor is told in a line."""


@dataclass
class Session:
    """
    What one visitor does.

    Args:
        result (`dict`, *optional*):
            The [`ImageResult`] of the photo, with all labels.
        photo (`Image.Image`, *optional*):
            The photo, upright.
        observed (`dict[str, float | None]`):
            What was answered about it.
        classes (`dict[str, dict[str, float]]`):
            Classes of the visitor → strengths.
        candidates (`dict`, *optional*):
            Those that the result is of.
    """

    result: dict | None = None
    photo: Image.Image | None = None
    observed: dict[str, float | None] = field(default_factory=dict)
    classes: dict[str, dict[str, float]] = field(default_factory=dict)
    candidates: dict | None = None


class Page:
    """
    What the page does, for a classifier.

    Args:
        classifier ([`ZeroShotAttributeClassificationPipeline`]):
            The pipeline.
        classes (`str`, *optional*):
            A table of classes that every visitor begins with.
    """

    def __init__(self, classifier, classes: str | os.PathLike | None = None):
        self.classifier, self.config = classifier, classifier.model.config
        self.attribute_of = {self.in_list(name): name for name in self.config.attribute_names}
        self.begin_with = {} if classes is None else self.read_table(classes)

    def in_list(self, name: str) -> str:
        """How an attribute stands in a list to choose from: its group first, so that they can be searched by it."""
        index = self.config.attribute_names.index(name)
        group = next(group for group, indices in self.config.attribute_groups.items() if index in indices)
        return readable_attribute(name) if group == "all" else f"{group}: {readable_attribute(name)}"

    def new_session(self) -> Session:
        return Session(classes={name: dict(strengths) for name, strengths in self.begin_with.items()})

    def candidates(self, session: Session, which: str) -> dict | None:
        """The pipeline's `candidate_labels`."""
        if which == OWN:
            return None
        if not session.classes:
            raise BadInput("There are no classes of yours yet: describe one, or load a table.")
        own = dict.fromkeys(self.config.label2id) if which == BOTH else {}
        return own | session.classes

    def look(self, session: Session, file: str | None, which: str) -> Session:
        """Reads a photo, and says what it shows; without a file nothing."""
        session.result, session.photo, session.observed = None, None, {}
        if file is None:
            return session
        session.photo = read_photo(file)
        session.candidates = self.candidates(session, which)
        session.result = self.classifier(
            session.photo,
            candidate_labels=session.candidates,
            top_k=None,
            top_attributes=None,
            attention="grid",
            ask=NUM_QUESTIONS,
        )
        return session

    def answer(self, session: Session, place: int, answer: bool | None) -> Session:
        """A person's answer to one of the questions; the labels follow."""
        questions = (session.result or {}).get("ask", [])
        if place < len(questions):
            session.observed[questions[place]["attribute"]] = None if answer is None else float(answer)
            self._rescore(session)
        return session

    def forget_answers(self, session: Session) -> Session:
        if session.result is not None:
            session.observed = {}
            self._rescore(session)
        return session

    def _rescore(self, session: Session):
        session.result = self.classifier.rescore(
            session.result, session.observed, ask=NUM_QUESTIONS, candidate_labels=session.candidates
        )

    def labels(self, session: Session) -> dict[str, float]:
        """Label → score of the best, for bars."""
        return {entry["label"]: entry["score"] for entry in session.result["labels"][:NUM_LABELS]}

    def summary(self, session: Session) -> str:
        """A line of Markdown below the bars."""
        fit, lines = session.result["fit"], []
        if fit is not None:
            lines.append(f"**Fit {fit:.0%}**: " + ("one of them." if fit >= 0.5 else "perhaps none of these."))
        answered = [self.classifier.in_words(entry) for entry in session.result["attributes"] if "observed" in entry]
        if answered:
            lines.append("Answered: " + ", ".join(map(plain, answered)) + ".")
        return "  \n".join(lines)

    def places(self, session: Session) -> tuple[np.ndarray, list[tuple[np.ndarray, str]]]:
        """The photo, and for each telling attribute in words where it was seen: a mask of the photo's size."""
        photo, result = session.photo, session.result
        small = photo.copy()
        small.thumbnail((1024, 1024))
        left, top, right, bottom = (side * small.width / photo.width for side in result["crop"])
        # From a pixel to the cell of the grid that it lies on; beside the crop there is none.
        columns = (np.arange(small.width) + 0.5 - left) / (right - left)
        rows = (np.arange(small.height) + 0.5 - top) / (bottom - top)
        masks = []
        for entry in result["attributes"][:NUM_ATTRIBUTES]:
            attention = np.asarray(entry["attention"])
            marked = attention > MARKED * attention.max()
            within = [np.clip((share * len(marked)).astype(int), 0, len(marked) - 1) for share in (rows, columns)]
            mask = marked[np.ix_(*within)]
            mask &= np.outer((rows >= 0) & (rows < 1), (columns >= 0) & (columns < 1))
            masks.append((MARK_OPACITY * mask, self.classifier.in_words(entry)))
        return np.asarray(small), masks

    def questions(self, session: Session) -> list[str]:
        """What to answer next, in Markdown."""
        return [plain(entry["question"]) for entry in (session.result or {}).get("ask", [])]

    def add_class(
        self, session: Session, name: str, text: str, attributes: Sequence[str], photos: Sequence[str] | None
    ) -> tuple[Session, str]:
        """Describes a class by words, by attributes, by photos or by all of these; and says what was understood."""
        name = " ".join((name or "").split())
        if not name:
            raise BadInput("Give the class a name.")
        parts: dict = {}
        if text and text.strip():
            parts["text"] = text
        if attributes:
            parts["attributes"] = [self.attribute_of[attribute] for attribute in attributes]
        if photos:
            parts["images"] = [read_photo(photo) for photo in photos[:MAX_PHOTOS]]
        if not parts:
            raise BadInput("Describe it: by words, by attributes or by photos.")
        from .candidates_dedn import class_rows, prose_of, read_candidates

        candidates = read_candidates(self.config, {name: parts}, self.classifier._describe)
        strengths = self.classifier.model.strengths(class_rows(self.classifier.model, candidates, "likely"))[0]
        session.classes[name] = dict(zip(self.config.attribute_names, strengths.tolist()))
        understood = prose_of(candidates).get(name)
        said = f"{plain(name)} is one of your classes."
        if understood:
            said += (
                " Understood: " + ", ".join(plain(readable_attribute(one)) for one in understood["attributes"]) + "."
            )
            if understood["unread"]:
                said += " Not read: " + ", ".join(map(plain, understood["unread"])) + "."
        return session, said

    def remove_class(self, session: Session, name: str | None) -> Session:
        session.classes.pop(name, None)
        return session

    def read_table(self, file: str | os.PathLike) -> dict[str, dict[str, float]]:
        """Classes of a table, as `dedn predict --classes` reads it."""
        from .candidates_dedn import class_rows, read_candidates

        table = load_class_table(file)
        table.match_attributes(NameMatcher(self.config.attribute_names))
        candidates = read_candidates(self.config, table.descriptions())
        rows = self.classifier.model.strengths(class_rows(self.classifier.model, candidates, "likely"))
        return {name: dict(zip(self.config.attribute_names, row)) for name, row in zip(candidates, rows.tolist())}

    def load_table(self, session: Session, file: str) -> Session:
        session.classes |= self.read_table(file)
        return session

    def save_table(self, session: Session, folder: str) -> str:
        """The visitor's classes as a table for `dedn predict --classes`; gives the file."""
        if not session.classes:
            raise BadInput("There are no classes of yours yet.")
        names = self.config.attribute_names
        rows = [["class", *map(readable_attribute, names)]]
        rows += [[name, *(f"{of[attribute]:.3g}" for attribute in names)] for name, of in session.classes.items()]
        return _write_csv(rows, folder, "classes.csv")

    def name_many(self, session: Session, files: Sequence[str] | None, which: str, folder: str, progress=iter):
        """A row for each of many photos, and the same as a CSV file. Photos are read one after the other."""
        if not files:
            raise BadInput("Choose photos first.")
        classify = self.classifier.prepare_call(
            candidate_labels=self.candidates(session, which), top_k=1, top_attributes=3
        )
        rows = []
        for file in progress(list(files)[:MAX_PHOTOS]):
            name = os.path.basename(file)
            try:
                result = classify([self.classifier.preprocess(read_photo(file))])[0]
            except BadInput as error:
                rows.append([name, "", "", "", str(error)])
                continue
            (label,), fit = result["labels"], result["fit"]
            why = ", ".join(self.classifier.in_words(entry) for entry in result["attributes"])
            rows.append([name, label["label"], round(label["score"], 3), "" if fit is None else round(fit, 3), why])
        header = ["photo", "name", "score", "fit", "because"]
        return rows, _write_csv([header, *rows], folder, "names.csv")


def plain(text: str) -> str:
    """Text of somebody else's as Markdown that says just that: no markup, no link, no picture."""
    return re.sub(r"([\\`*_{}\[\]()#+\-.!|~$^:])", r"\\\1", escape(" ".join(text.split())))


def read_photo(file: str | os.PathLike) -> Image.Image:
    """
    An image file of a visitor's.

    Raises:
        BadInput: If it is none, is damaged or too large; says so in one line, without the path.
    """
    try:
        return load_any_image(Path(file))
    except Exception as error:  # Pillow raises whatever a damaged byte leads to
        reason = " ".join(str(error).replace(str(file), os.path.basename(file)).split())
        raise BadInput(f"{os.path.basename(file)} cannot be read as a photo: {reason[:200]}") from error


def _write_csv(rows: list[list], folder: str, name: str) -> str:
    """A CSV file in which no cell is a formula to a spreadsheet."""
    text = io.StringIO()
    csv.writer(text).writerows([["'" + cell if _is_formula(cell) else cell for cell in row] for row in rows])
    path = Path(tempfile.mkdtemp(dir=folder), name)
    path.write_text(text.getvalue(), encoding="utf-8")
    return str(path)


def _is_formula(cell) -> bool:
    return isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r"))


def build(page: Page, folder: str):
    """
    The page as Gradio has it.

    Args:
        page ([`Page`]):
            What it does.
        folder (`str`):
            Where files to download are written.
    """
    import gradio as gr

    def told(handler):
        """What a visitor did wrong as a line on the page."""

        def handle(*args):
            try:
                return handler(*args)
            except (BadInput, ValueError, OSError) as error:
                raise gr.Error(escape(" ".join(str(error).split())[:500]), duration=10) from None

        return handle

    def show(session: Session):
        """What stands in the first tab."""
        shown = session.result is not None
        questions = page.questions(session) if shown else []
        rows = []
        for place in range(NUM_QUESTIONS):
            there = place < len(questions)
            rows += [gr.Row(visible=there), gr.Markdown(questions[place] if there else "")]
        return [
            session,
            page.labels(session) if shown else None,
            page.summary(session) if shown else "",
            page.places(session) if shown else None,
            gr.Button(visible=bool(session.observed)),
            *rows,
        ]

    def show_classes(session: Session):
        names = list(session.classes)
        return session, gr.Dropdown(choices=names, value=None, label=f"My classes: {len(names)}")

    with gr.Blocks(title="dedn", analytics_enabled=False, delete_cache=(600, 3600)) as blocks:
        session = gr.State(page.new_session, time_to_live=3600)
        gr.Markdown("# dedn\n" + INTRODUCTION)
        which = gr.Radio([OWN, MINE, BOTH], value=OWN, label="Choose among")
        with gr.Tab("A photo"), gr.Row():
            with gr.Column():
                photo = gr.Image(
                    type="filepath", sources=["upload", "clipboard", "webcam"], label="Photo", elem_id="photo"
                )
                # Its own reading of a broken file ends in an error that says nothing.
                photo.preprocess = lambda payload: None if payload is None else payload.path
                places = gr.AnnotatedImage(label="Because of these (hover, or tap the names)", elem_id="places")
            with gr.Column():
                labels = gr.Label(label="Names", num_top_classes=NUM_LABELS, elem_id="names")
                summary = gr.Markdown(elem_id="summary")
                questions = []
                for _ in range(NUM_QUESTIONS):
                    with gr.Row(visible=False) as row:
                        question = gr.Markdown()
                        buttons = [gr.Button(text, size="sm", min_width=60) for text in ("yes", "no", "don't know")]
                    questions.append((row, question, buttons))
                again = gr.Button("Forget my answers", visible=False)
        with gr.Tab("My classes"), gr.Row():
            with gr.Column():
                name = gr.Textbox(label="Name", max_length=200)
                text = gr.Textbox(
                    label="In words", placeholder="a small songbird with a blue head and a red belly", lines=3
                )
                attributes = gr.Dropdown(list(page.attribute_of), multiselect=True, label="By attributes")
                photos = gr.File(file_count="multiple", label="By photos", height=120)
                add = gr.Button("Add the class", variant="primary")
                said = gr.Markdown(elem_id="said")
            with gr.Column():
                mine = gr.Dropdown(list(page.begin_with), label=f"My classes: {len(page.begin_with)}", elem_id="mine")
                remove = gr.Button("Take this one out")
                table = gr.File(label="Load a table (CSV)", height=120)
                save = gr.Button("Save my classes as a table")
                saved = gr.File(label="Table", interactive=False, height=80)
        with gr.Tab("Many photos"):
            many = gr.File(file_count="multiple", label="Photos", height=160)
            name_all = gr.Button("Name them", variant="primary")
            found = gr.Dataframe(
                headers=["photo", "name", "score", "fit", "because"],
                datatype="str",
                interactive=False,
                wrap=True,
                elem_id="found",
            )
            names_file = gr.File(label="Table", interactive=False, height=80)

        first_tab = [session, labels, summary, places, again]
        first_tab += [part for row, question, _ in questions for part in (row, question)]
        look = told(lambda session, file, which: show(page.look(session, file, which)))
        for event in (photo.change, which.change):
            event(look, [session, photo, which], first_tab)
        for place, (_, _, buttons) in enumerate(questions):
            for button, answer in zip(buttons, (True, False, None)):
                button.click(
                    told(lambda session, place=place, answer=answer: show(page.answer(session, place, answer))),
                    session,
                    first_tab,
                )
        again.click(told(lambda session: show(page.forget_answers(session))), session, first_tab)

        def add_class(*values):
            changed, understood = page.add_class(*values)
            return *show_classes(changed), understood

        add.click(told(add_class), [session, name, text, attributes, photos], [session, mine, said])
        remove.click(told(lambda *values: show_classes(page.remove_class(*values))), [session, mine], [session, mine])
        table.upload(told(lambda *values: show_classes(page.load_table(*values))), [session, table], [session, mine])
        save.click(told(lambda session: page.save_table(session, folder)), session, saved)

        def name_many(session, files, which, progress=gr.Progress()):  # noqa: B008
            return page.name_many(session, files, which, folder, lambda files: progress.tqdm(files, unit="photos"))

        handle = told(name_many)
        name_all.click(
            lambda session, files, which, progress=gr.Progress(): handle(session, files, which, progress),  # noqa: B008
            [session, many, which],
            [found, names_file],
        )
    return blocks


def launch(page: Page, host: str, port: int | None, wait: bool = True):
    """
    Serves the page, on this machine alone unless `host` says otherwise.

    Args:
        page ([`Page`]):
            What it does.
        host (`str`):
            The address to listen at.
        port (`int`, *optional*):
            The port; by default the first that is free from 7860 on.
        wait (`bool`, *optional*, defaults to `True`):
            Whether to come back only when it is interrupted.

    Returns:
        The Gradio page and its address.
    """
    # Both are read when Gradio is imported.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    import gradio as gr

    folder = tempfile.mkdtemp(prefix="dedn_demo_")
    blocks = build(page, folder)
    fonts = ["ui-sans-serif", "system-ui", "sans-serif"]
    _, address, _ = blocks.queue(api_open=False).launch(
        server_name=host,
        server_port=port,
        share=False,
        quiet=True,
        prevent_thread_lock=not wait,
        max_file_size=MAX_FILE_SIZE,
        allowed_paths=[folder],
        footer_links=[],
        ssr_mode=False,
        theme=gr.themes.Default(font=fonts, font_mono=["ui-monospace", "monospace"]),
    )
    return blocks, address
