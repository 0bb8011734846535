"""
The page of `dedn demo`: a photo and its names, reasons and places, questions that a person answers, classes that a
person describes, and many photos as a table. Nothing of it leaves the machine, and nothing is kept of a photo but for
as long as its page is open.

A handler is a method of [`Page`] that takes what stands in the page and gives what is to stand there. What a visitor
does is in [`Session`], of which each visitor has one.
"""

import csv
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps

from .answers_dedn import picked_answers
from .candidates_dedn import class_strengths, prose_of, read_candidates
from .data.class_table import load_class_table
from .files import is_formula
from .images_dedn import attention_in_image, load_any_image
from .names_dedn import NameMatcher, readable_attribute, split_attribute
from .ranks_dedn import circle_of_parents, sure_ranks

NUM_LABELS, NUM_ATTRIBUTES, NUM_QUESTIONS = 5, 8, 3
# Of a property that is asked for, the likeliest.
NUM_VALUES = 6
MAX_FILE_SIZE = "50mb"
# Photos are deleted an hour after they were sent: a slow machine names so many in less.
MAX_PHOTOS = 1000
# Of a table on the page; the file has all.
MAX_ROWS = 200
# Longer side of the photo that marks are drawn on, in pixels.
DRAWN_SIZE = 800
# A gradient over a photo would hide it: marked is where attention is more than half of its highest, and its edge.
MARKED, MARK_OPACITY, EDGE = 0.5, 0.25, 11
# For the first name, and for the runner-up: apart for all eyes.
FOR, AGAINST = "#2563eb", "#ea580c"
MAX_LETTERS, MAX_VISITORS = 5000, 200
# Darker than the theme's, to be read by everybody.
COLOURS = {
    "button_primary_background_fill": "*primary_700",
    "button_primary_background_fill_dark": "*primary_700",
    "button_primary_background_fill_hover": "*primary_800",
    "button_primary_background_fill_hover_dark": "*primary_800",
    "block_label_text_color": "*primary_800",
    "block_title_text_color": "*primary_800",
}
CSS = """
.gradio-container { max-width: 1100px !important; margin: 0 auto !important; }
/* One place at a time: that of the reason that is pointed at. */
#places .mask:not(.active) { opacity: 0 !important; }
.question { font-weight: 600; }
button:focus-visible, input:focus-visible, textarea:focus-visible {
    outline: 3px solid #0d9488 !important; outline-offset: 2px; }
"""
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
            The photo, upright, as large as it is drawn: of the rest nothing is kept.
        observed (`dict[str, float | None]`):
            What was answered about it.
        classes (`dict[str, dict[str, float]]`):
            Classes of the visitor → strengths.
        parents (`dict[str, str]`):
            Those of them that have one → the rank above.
        candidates (`dict`, *optional*):
            Those that the result is of.
    """

    result: dict | None = None
    photo: Image.Image | None = None
    observed: dict[str, float | None] = field(default_factory=dict)
    classes: dict[str, dict[str, float]] = field(default_factory=dict)
    parents: dict[str, str] = field(default_factory=dict)
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
        self.begin_with = Session()
        if classes is not None:
            self.load_table(self.begin_with, classes)

    def in_list(self, name: str) -> str:
        """How an attribute stands in a list to choose from: its group first, so that they can be searched by it."""
        group = self.classifier.group_of_attribute[self.config.attribute_names.index(name)]
        return readable_attribute(name) if group == "all" else f"{group}: {readable_attribute(name)}"

    def new_session(self) -> Session:
        classes = {name: dict(strengths) for name, strengths in self.begin_with.classes.items()}
        return Session(classes=classes, parents=dict(self.begin_with.parents))

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
        photo = read_photo(file)
        session.candidates = self.candidates(session, which)
        result = self.classifier(
            photo,
            candidate_labels=session.candidates,
            top_k=None,
            top_attributes=None,
            attention="grid",
            ask=NUM_QUESTIONS,
            ask_by="property",
        )
        session.result = self._with_ranks(session, result)
        for entry in session.result["attributes"]:
            # As lists they would take twenty times the memory, for as long as the page is open.
            entry["attention"] = np.asarray(entry["attention"], np.float16)
        session.photo = ImageOps.contain(photo, (DRAWN_SIZE, DRAWN_SIZE))
        return session

    def options(self, session: Session, place: int) -> list[tuple[str, dict[str, float | None]]]:
        """What can be chosen for one of the questions, each with the answers about attributes that it is."""
        questions = (session.result or {}).get("ask", [])
        if place >= len(questions):
            return []
        answers = questions[place]["answers"]
        values = [answer["attribute"] for answer in answers]
        unknown = ("don't know", picked_answers(values, None))
        if len(values) == 1:
            return [("yes", picked_answers(values, values)), ("no", picked_answers(values, [])), unknown]
        picks = [(answer["label"], picked_answers(values, [answer["attribute"]])) for answer in answers[:NUM_VALUES]]
        return [*picks, ("none of these", picked_answers(values[:NUM_VALUES], [])), unknown]

    def answer(self, session: Session, place: int, option: int) -> Session:
        """What a person chose for one of the questions; the labels follow."""
        options = self.options(session, place)
        if option < len(options):
            session.observed |= options[option][1]
            self._rescore(session)
        return session

    def forget_answers(self, session: Session) -> Session:
        if session.result is not None:
            session.observed = {}
            self._rescore(session)
        return session

    def _rescore(self, session: Session):
        result = self.classifier.rescore(
            session.result,
            session.observed,
            ask=NUM_QUESTIONS,
            candidate_labels=session.candidates,
            ask_by="property",
        )
        session.result = self._with_ranks(session, result)

    def _with_ranks(self, session: Session, result: dict) -> dict:
        """With ranks by the visitor's own parents, which the classifier that all share knows nothing of."""
        if session.candidates is None or not session.parents:
            return result
        scores = {entry["label"]: entry["score"] for entry in sorted(result["labels"], key=lambda one: one["label"])}
        ranks = sure_ranks(scores, self.config.class_parents | session.parents)
        return result if ranks is None else result | {"ranks": ranks}

    def labels(self, session: Session) -> dict[str, float]:
        """Label → score of the best, for bars."""
        return {entry["label"]: entry["score"] for entry in session.result["labels"][:NUM_LABELS]}

    def summary(self, session: Session) -> str:
        """A line of Markdown below the bars."""
        fit, lines = session.result["fit"], []
        if fit is not None:
            lines.append(f"**Fit {fit:.0%}**: " + ("one of them." if fit >= 0.5 else "perhaps none of these."))
        for rank in session.result.get("ranks", [])[:1]:
            lines.append(f"**Surely**: {plain(rank['label'])} ({rank['score']:.0%}).")
        answered = answers_in_words(session.observed)
        if answered:
            lines.append("Answered: " + "; ".join(map(plain, answered)) + ".")
        return "  \n".join(lines)

    def places(self, session: Session) -> tuple[Image.Image, list[tuple[np.ndarray, str]], dict[str, str]]:
        """
        The photo; for each telling attribute in words where it was seen, a mask of the photo's size; and the words'
        colours, which say whether they speak for the first name.
        """
        told = session.result["attributes"][:NUM_ATTRIBUTES]
        maps = torch.tensor(np.stack([entry["attention"] for entry in told]), dtype=torch.float32)
        maps = attention_in_image(maps, self.classifier.image_processor, *session.photo.size).numpy()
        masks, colours = [], {}
        for entry, attention in zip(told, maps):
            marked = attention > MARKED * attention.max()
            wider = Image.fromarray(marked.astype(np.uint8)).filter(ImageFilter.MaxFilter(EDGE))
            words = self.classifier.in_words(entry)
            if entry["contribution"] < 0:
                words += " (against it)"
            colours[words] = FOR if entry["contribution"] >= 0 else AGAINST
            masks.append((np.where(marked, MARK_OPACITY, np.asarray(wider)), words))
        return session.photo, masks, colours

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
            check_number(photos)
            for photo in photos:  # tells of one that cannot be read, by its name alone
                read_photo(photo)
            parts["images"] = [Path(photo) for photo in photos]
        if not parts:
            raise BadInput("Describe it: by words, by attributes or by photos.")
        candidates = read_candidates(self.config, {name: parts}, self.classifier._describe)
        session.classes |= class_strengths(self.classifier.model, candidates)
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
        session.parents.pop(name, None)
        return session

    def load_table(self, session: Session, file: str | os.PathLike) -> Session:
        """Adds the classes of a table and their parents, as `dedn predict --classes` reads it."""
        try:
            table = load_class_table(file)
        except ValueError as error:  # which begins with the whole path
            raise BadInput(str(error).replace(str(file), os.path.basename(file))) from error
        table.match_attributes(NameMatcher(self.config.attribute_names))
        classes = class_strengths(self.classifier.model, read_candidates(self.config, table.descriptions()))
        kept = {name: parent for name, parent in session.parents.items() if name not in classes}
        parents = kept | table.class_parents
        if circle := circle_of_parents(self.config.class_parents | parents):
            raise BadInput(
                f"{os.path.basename(file)}: with the parents that are there already, these go in a circle: "
                f"{' → '.join(map(repr, circle))}. Leave one of them out."
            )
        session.classes |= classes
        session.parents = parents
        return session

    def save_table(self, session: Session, folder: str) -> str:
        """The visitor's classes as a table for `dedn predict --classes`; gives the file."""
        if not session.classes:
            raise BadInput("There are no classes of yours yet.")
        names, with_parents = self.config.attribute_names, bool(session.parents)
        rows = [["class", *["parent"] * with_parents, *map(readable_attribute, names)]]
        for name, of in session.classes.items():
            parent = [session.parents.get(name, "")] * with_parents
            rows.append([name, *parent, *(f"{of[attribute]:.3g}" for attribute in names)])
        return _write_csv(rows, folder, "classes.csv")

    def name_many(
        self, session: Session, files: Sequence[str] | None, which: str, folder: str, progress=iter
    ) -> tuple[list[list], str]:
        """
        A row for each of many photos in a CSV file, and the first of them. Photos are read one after the other, and
        rows are written as they come.
        """
        if not files:
            raise BadInput("Choose photos first.")
        check_number(files)
        classify = self.classifier.prepare_call(
            candidate_labels=self.candidates(session, which), top_k=1, top_attributes=3
        )
        shown = []

        def rows() -> Iterator[list]:
            yield ["photo", "name", "score", "fit", "because"]
            for file in progress(list(files)):
                row = self._name(classify, file)
                if len(shown) < MAX_ROWS:
                    shown.append(row)
                yield row

        path = _write_csv(rows(), folder, "names.csv")
        return shown, path

    def _name(self, classify, file: str) -> list:
        name = os.path.basename(file)
        try:
            result = classify([self.classifier.preprocess(read_photo(file))])[0]
        except BadInput as error:
            return [name, "", "", "", str(error)]
        (label,), fit = result["labels"], result["fit"]
        why = ", ".join(self.classifier.in_words(entry) for entry in result["attributes"])
        return [name, label["label"], round(label["score"], 3), "" if fit is None else round(fit, 3), why]


def answers_in_words(observed: Mapping[str, float | None]) -> list[str]:
    """What is known of each property that was answered: "wing color: blue", or "wing color: not red, not green"."""
    answers = {}
    for name, answer in observed.items():
        if answer is not None:
            what, value = split_attribute(name)
            answers.setdefault(what, {})[value] = answer >= 0.5
    words = []
    for what, known in answers.items():
        seen = [value for value, is_seen in known.items() if is_seen]
        if "" in known:
            words.append(f"{what}: {'yes' if seen else 'no'}")
        else:
            words.append(f"{what}: " + ", ".join(seen or [f"not {value}" for value in known]))
    return words


def check_number(photos: Sequence[str]):
    """A BadInput if there are more photos than are read at a time."""
    if len(photos) > MAX_PHOTOS:
        raise BadInput(f"These are {len(photos):,} photos, and at most {MAX_PHOTOS:,} are read at a time.")


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


def _write_csv(rows: Iterable[list], folder: str, name: str) -> str:
    """A CSV file in which no cell is a formula to a spreadsheet."""
    path = Path(folder, name)
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(
            ["'" + cell if isinstance(cell, str) and is_formula(cell) else cell for cell in row] for row in rows
        )
    return str(path)


def build(page: Page):
    """
    The page as Gradio has it.

    Args:
        page ([`Page`]):
            What it does.
    """
    import gradio as gr

    def told(handler):
        """What a visitor did wrong as a line on the page."""

        def handle(*args):
            try:
                return handler(*args)
            except (ValueError, OSError) as error:
                raise gr.Error(escape(" ".join(str(error).split())[:500]), duration=10) from None

        return handle

    def to_download(write):
        """A function that writes a file into a folder, as one that gives it to a visitor and keeps none of it."""
        write = told(write)

        def handle(*args):
            with tempfile.TemporaryDirectory() as folder:
                # Gradio has a copy, of those that it deletes, before this goes on.
                yield write(*args, folder)

        return handle

    def show(session: Session):
        """What stands in the first tab."""
        shown = session.result is not None
        questions = page.questions(session) if shown else []
        rows, drawn = [], gr.AnnotatedImage(None)
        for place in range(NUM_QUESTIONS):
            there = place < len(questions)
            rows += [gr.Group(visible=there), gr.Markdown(questions[place] if there else "")]
            texts = [text for text, _ in page.options(session, place)]
            hidden = [gr.Button(visible=False)] * (NUM_VALUES + 2 - len(texts))
            rows += [gr.Button(text, visible=True) for text in texts] + hidden
        if shown:
            photo, masks, colours = page.places(session)
            drawn = gr.AnnotatedImage((photo, masks), color_map=colours)
        return [
            session,
            page.labels(session) if shown else None,
            page.summary(session) if shown else "",
            gr.Row(visible=shown),
            drawn,
            gr.Button(visible=bool(session.observed)),
            *rows,
        ]

    def show_classes(session: Session):
        names = list(session.classes)
        return session, gr.Dropdown(choices=names, value=None, label=f"My classes: {len(names)}")

    with gr.Blocks(title="dedn", analytics_enabled=False, delete_cache=(600, 3600)) as blocks:
        session = gr.State(page.new_session(), time_to_live=3600)
        gr.Markdown("# dedn\n" + INTRODUCTION)
        which = gr.Radio([OWN, MINE, BOTH], value=OWN, label="Choose among")
        with gr.Tab("A photo"):
            with gr.Row():
                with gr.Column(min_width=300):
                    photo = gr.Image(
                        type="filepath",
                        sources=["upload", "clipboard", "webcam"],
                        label="Photo",
                        height=320,
                        buttons=["fullscreen"],
                        elem_id="photo",
                    )
                    # Its own reading of a broken file ends in an error that says nothing.
                    photo.preprocess = lambda payload: None if payload is None else payload.path
                with gr.Column(min_width=300):
                    labels = gr.Label(label="Names", num_top_classes=NUM_LABELS, elem_id="names")
                    summary = gr.Markdown(elem_id="summary")
            with gr.Row(visible=False) as why:
                with gr.Column(min_width=300):
                    gr.Markdown("### Why, and where\nPoint at a reason, or choose it, to see its place.")
                    places = gr.AnnotatedImage(
                        label="Why, and where",
                        show_label=False,
                        height=420,
                        buttons=["fullscreen"],
                        elem_id="places",
                    )
                with gr.Column(min_width=300):
                    gr.Markdown("### What do you see?\nThese answers would tell most; the names follow.")
                    questions = []
                    for _ in range(NUM_QUESTIONS):
                        with gr.Group(visible=False) as group:
                            question = gr.Markdown(elem_classes="question", padding=True)
                            with gr.Row(elem_classes="answers", equal_height=True):
                                buttons = [
                                    gr.Button("", size="sm", min_width=80, visible=False)
                                    for _ in range(NUM_VALUES + 2)
                                ]
                        questions.append((group, question, buttons))
                    again = gr.Button("Forget my answers", size="sm", visible=False)
        with gr.Tab("My classes"), gr.Row():
            with gr.Column(min_width=300):
                name = gr.Textbox(label="Name", max_length=200)
                text = gr.Textbox(
                    label="In words",
                    placeholder="a small songbird with a blue head and a red belly",
                    lines=3,
                    max_length=MAX_LETTERS,
                )
                attributes = gr.Dropdown(
                    list(page.attribute_of), multiselect=True, label="By attributes: type to search, also for a group"
                )
                photos = gr.File(file_count="multiple", label="By photos", height=120)
                add = gr.Button("Add the class", variant="primary")
                said = gr.Markdown(elem_id="said")
            with gr.Column(min_width=300):
                mine = gr.Dropdown(
                    list(page.begin_with.classes), label=f"My classes: {len(page.begin_with.classes)}", elem_id="mine"
                )
                remove = gr.Button("Take this one out")
                table = gr.File(label="Load a table (CSV)", height=120, elem_id="table")
                save = gr.Button("Save my classes as a table")
                saved = gr.File(label="Table", interactive=False, visible=False, height=80)
        with gr.Tab("Many photos"):
            many = gr.File(file_count="multiple", label=f"Photos, up to {MAX_PHOTOS:,}", height=160)
            name_all = gr.Button("Name them", variant="primary")
            found = gr.Dataframe(
                headers=["photo", "name", "score", "fit", "because"],
                datatype="str",
                interactive=False,
                wrap=True,
                label=f"The first {MAX_ROWS}: choose a heading to sort by it",
                elem_id="found",
            )
            names_file = gr.File(label="Table of all", interactive=False, visible=False, height=80)

        for files in (photos, many, table):
            # Its own leaves an empty file behind for each.
            files.preprocess = sent_files if files.file_count == "multiple" else lambda sent: sent and sent.path
        # Nothing of it is for programs.
        private = {"api_visibility": "private"}
        first_tab = [session, labels, summary, why, places, again]
        first_tab += [part for group, question, buttons in questions for part in (group, question, *buttons)]
        look = told(lambda session, file, which: show(page.look(session, file, which)))
        for event in (photo.change, which.change):
            event(look, [session, photo, which], first_tab, **private)
        for place, (_, _, buttons) in enumerate(questions):
            for option, button in enumerate(buttons):
                button.click(
                    told(lambda session, place=place, option=option: show(page.answer(session, place, option))),
                    session,
                    first_tab,
                    show_progress="hidden",
                    **private,
                )
        again.click(told(lambda session: show(page.forget_answers(session))), session, first_tab, **private)

        def add_class(*values):
            changed, understood = page.add_class(*values)
            return *show_classes(changed), understood

        add.click(told(add_class), [session, name, text, attributes, photos], [session, mine, said], **private)
        remove.click(
            told(lambda *values: show_classes(page.remove_class(*values))),
            [session, mine],
            [session, mine],
            **private,
        )
        table.upload(
            told(lambda *values: show_classes(page.load_table(*values))),
            [session, table],
            [session, mine],
            **private,
        )

        def save_table(session, folder):
            return gr.File(page.save_table(session, folder), visible=True)

        save.click(to_download(save_table), session, saved, **private)

        def name_many(session, files, which, progress=gr.Progress()):  # noqa: B008
            def watched(files):
                return progress.tqdm(files, unit="photos")

            def write(folder):
                rows, path = page.name_many(session, files, which, folder, watched)
                return rows, gr.File(path, visible=True)

            yield from to_download(write)()

        name_all.click(name_many, [session, many, which], [found, names_file], **private)
    return blocks


def sent_files(payload) -> list[str]:
    """The files that a visitor has sent."""
    return [] if payload is None else [file.path for file in payload.root]


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

    blocks = build(page)
    fonts = ["ui-sans-serif", "system-ui", "sans-serif"]
    _, address, _ = blocks.queue(api_open=False).launch(
        server_name=host,
        server_port=port,
        share=False,
        mcp_server=False,
        enable_monitoring=False,
        quiet=True,
        prevent_thread_lock=not wait,
        max_file_size=MAX_FILE_SIZE,
        allowed_paths=[],
        state_session_capacity=MAX_VISITORS,
        footer_links=[],
        ssr_mode=False,
        theme=gr.themes.Soft(primary_hue="teal", font=fonts, font_mono=["ui-monospace", "monospace"]).set(**COLOURS),
        css=CSS,
    )
    return blocks, address
