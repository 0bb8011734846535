"""
Names what photos show: in a table to read, or in a file with a row for each image.

    dedn predict photos/
    dedn predict photos/ --output birds.csv --top_k 3 --attributes 5
    dedn predict photo.jpg --ask 3 --observed "blue wing=yes" --observed "bill shape: hooked=no"
    dedn predict photos/ --output birds.parquet --attributes all
    dedn predict photos/ --output tasks.json --format label-studio
    dedn predict photo.jpg --describe "Painted Finch: a small songbird with a blue head, a red belly and a green back"
    find . -name "*.jpg" | dedn predict - --classes my_birds.csv --output birds.jsonl --resume
    accelerate launch --multi_gpu --num_processes 4 -m dedn_hf predict photos/ --output birds.csv    # divides the work

A file has the columns image, label, score, seen and error, and with more labels label_2, score_2, seen_2 and so on;
with --none_of_these, fit; where classes have parents, rank and rank_score, the finest rank that is sure.
An image that cannot be read has a row, too, which says why.

A model trained on CUB, such as the built-in one, is for non-commercial research only, as CUB is.
"""

import argparse
import itertools
import os
import re
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from functools import partial
from pathlib import Path

from ..data.image_files import why_ignored
from ..files import is_formula, printable
from ..prediction_file import FORMATS, PredictionFile
from ..prediction_formats import check_fiftyone_names
from ..ranks_dedn import ranks_of
from ..registration import DEFAULT_MODEL
from . import CommandParser, check_model, load_model
from .describe import summary

# On a CPU few images, so that activations are small beside its caches.
CPU_BATCH_SIZE, BATCH_SIZE = 8, 32
# Batches that each of several processes is given at a time: they wait for the slowest, and a killed run loses these.
BATCHES_OF_A_ROUND = 16
# Of a property that is asked for, the likeliest.
NUM_VALUES = 6


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = CommandParser("dedn predict", description=__doc__)
    parser.add_argument(
        "images", nargs="+", metavar="IMAGES", help="files, folders to search through, or - for a path a line on stdin"
    )
    parser.add_argument(
        "--model", default=str(DEFAULT_MODEL), help="folder or Hub id (default: the birds of CUB, built in)"
    )
    parser.add_argument(
        "--classes",
        metavar="FILE.csv",
        help="classes to choose among, by their attributes or in prose: class,<attribute>,…,description",
    )
    parser.add_argument(
        "--describe",
        action="append",
        type=_named_text,
        default=[],
        metavar="NAME: TEXT",
        help="a class more to choose among, in prose, beside those of --classes or of the model (again for another)",
    )
    parser.add_argument(
        "--attribute_scale",
        metavar="SCALE",
        help="unit, percent or the top of the scale of --classes (default: as the table says)",
    )
    parser.add_argument(
        "--top_k", type=_at_least_one, metavar="N", help="labels for an image (default: 3 in a table, 1 in a file)"
    )
    parser.add_argument(
        "--attributes",
        type=_number_or_all,
        default=0,
        metavar="N|all",
        help="also N attributes, or all: in a table those that set the first label apart from the second, in a file "
        "the strongest",
    )
    parser.add_argument(
        "--observed",
        action="append",
        type=_answer,
        default=[],
        metavar="ATTRIBUTE=yes|no|0.5",
        help="what you see in the images; labels follow (again for another attribute)",
    )
    parser.add_argument(
        "--ask",
        type=_at_least_one,
        default=0,
        metavar="N",
        help="also N questions whose answers, given with --observed, would tell most",
    )
    parser.add_argument(
        "--ask_by",
        choices=("attribute", "property"),
        default="attribute",
        help="ask for yes or no, or for a property's value: then the likeliest are named (default: attribute)",
    )
    parser.add_argument("--output", metavar="OUT.csv|jsonl|parquet", help="a file instead of a table")
    parser.add_argument(
        "--format", choices=FORMATS, help="OUT.json is for another program: labels to import there, with their scores"
    )
    parser.add_argument(
        "--none_of_these",
        action="store_true",
        help="also say whether any of the classes fits: a label none of these, in a file a column fit, too",
    )
    parser.add_argument("--resume", action="store_true", help="go on with a file that was not finished")
    parser.add_argument(
        "--batch_size",
        type=_at_least_one,
        metavar="N",
        help=f"images at a time (default: {CPU_BATCH_SIZE}, on a GPU {BATCH_SIZE})",
    )
    parser.add_argument("--device", help="cpu, cuda, … (default: an accelerator if there is one)")
    args = parser.parse_intermixed_args(arguments)
    if args.resume and args.output is None:
        parser.error("--resume goes on with a file: name it with --output")
    if args.format and args.output is None:
        parser.error("--format is that of a file: name it with --output")
    if args.ask and args.output:
        parser.error("--ask is for somebody to answer: leave --output out")
    if args.ask_by != "attribute" and not args.ask:
        parser.error("--ask_by says how to ask: say how many questions with --ask")
    twice = [
        attribute for attribute, count in Counter(attribute for attribute, _ in args.observed).items() if count > 1
    ]
    if twice:
        parser.error(f"--observed answers {twice[0]!r} more than once")
    twice = [name for name, count in Counter(name for name, _ in args.describe).items() if count > 1]
    if twice:
        parser.error(f"--describe names {twice[0]!r} more than once")
    if args.attribute_scale is not None and args.classes is None:
        parser.error("--attribute_scale says how to read a table of classes: name it with --classes")
    if args.top_k is None:
        args.top_k = 1 if args.output else 3
    return args


def main(arguments: list[str]) -> int:
    args = parse_arguments(arguments)
    processes = Processes(args.device)
    images, file, width = ImageSearch(args.images), None, 0
    paths = iter(images)

    def check():
        nonlocal paths
        check_model(args.model)
        if args.output:
            PredictionFile.check(args.output, args.resume, args.format)
        table = None
        if args.classes:
            from ..data.class_table import load_class_table

            table = load_class_table(args.classes, args.attribute_scale)
        first = next(paths, None)
        if first is None:
            left_out = f"; {images.left_out()}" if images.num_left_out else ""
            raise ValueError(f"there are no images in {', '.join(args.images)}{left_out}")
        paths = itertools.chain([first], paths)
        return table

    table, classes = processes.on_main(check), None
    classifier = load_classifier(args.model, processes.device)
    config, num_attributes, names = classifier.model.config, args.attributes, None
    if args.attributes == "all":
        num_attributes, names = len(config.attribute_names), config.attribute_names
    if table:
        from ..names_dedn import NameMatcher

        table.match_attributes(NameMatcher(config.attribute_names))
        classes = table.descriptions()
        config.class_parents |= table.class_parents
        config.validate()
    if args.describe:
        classes = (dict.fromkeys(config.label2id) if classes is None else classes) | dict(args.describe)
    classify = classifier.prepare_call(
        candidate_labels=classes,
        top_k=args.top_k,
        top_attributes=num_attributes,
        attributes_by="score" if args.output else "contribution",
        observed=dict(args.observed) or None,
        ask=args.ask,
        ask_by=args.ask_by,
        none_of_these=args.none_of_these,
    )

    def open_file() -> tuple[int, int]:
        from ..pipeline_dedn import NONE_OF_THESE

        nonlocal file
        if args.format == "fiftyone" and args.attributes:
            check_fiftyone_names(config.attribute_names)
        file = PredictionFile(
            args.output,
            args.top_k,
            num_attributes if names is None else names,
            resume_labels=[*(classes or config.label2id), NONE_OF_THESE] if args.resume else None,
            format=args.format,
            model_version=name_of_model(args.model),
            with_ranks=bool(ranks_of(classes or config.label2id, config.class_parents)),
            with_fit=args.none_of_these,
        )
        return file.done.total(), file.failed

    def tell(answers: list[tuple[str, dict | str]]):
        nonlocal width
        if file:
            file.write(answers)
        else:
            width = width or max(len(path) for path, _ in answers)
            print_answers(answers, width, classifier.in_words)

    count, failed = processes.on_main(open_file) if args.output else (0, 0)
    # Not before all is well: an error is one line.
    if processes.is_main:
        from ..candidates_dedn import prose_of, read_candidates

        for line in table.understood if table else ():
            print(line, file=sys.stderr)
        for name, understood in prose_of(read_candidates(config, classes)).items() if classes else ():
            print(printable(summary(name, understood)), file=sys.stderr)
    watched = processes.is_main and sys.stderr.isatty() and not (file is None and sys.stdout.isatty())

    from tqdm.auto import tqdm

    total = sum(1 for _ in ImageSearch(args.images)) if watched and "-" not in args.images else None
    batch_size = args.batch_size or (CPU_BATCH_SIZE if classifier.device.type == "cpu" else BATCH_SIZE)
    batches = batches_to_do(paths, batch_size, file.done if file else None)
    run = closing(processes.predict(classifier, classify, batches))
    progress = tqdm(desc="Predicting", unit="image", total=total, initial=count, disable=not watched)
    with file.file if file else nullcontext(), progress, run as answers_of_batches:
        for answers in answers_of_batches:
            processes.on_main(partial(tell, answers))
            count += len(answers)
            failed += sum(isinstance(answer, str) for _, answer in answers)
            progress.update(len(answers))
    if args.output:
        processes.on_main(lambda: file.finish())
    if processes.is_main:
        if images.num_left_out:
            print(images.left_out(), file=sys.stderr)
        unread = f", {failed:,} could not be read" if failed else ""
        where = f": {args.output}" if file else ""
        print(f"{count:,} image{'s' * (count != 1)}{unread}{where}", file=sys.stderr)
    processes.leave()
    return 0 if failed < count else 1


class Processes:
    """
    The processes of `accelerate launch` or `torchrun`, or this one alone. The main one finds the images, deals them
    out and writes; the others compute and are silent.

    Args:
        device (`str`, *optional*):
            Where they compute, see [`load_classifier`]; of several GPUs each process takes its own, which `device`
            then is.
    """

    def __init__(self, device: str | None = None):
        num_processes = int(os.environ.get("WORLD_SIZE", "1"))
        self.several, self.is_main, self.device = num_processes > 1, True, device
        if self.several:
            import torch

            from ..features.store_writer import start_processes

            state = start_processes(cpu=device == "cpu" or not torch.accelerator.is_available())
            if state.num_processes != num_processes:
                raise ValueError(
                    f"{num_processes} processes were started that cannot share the work: try --device cpu"
                )
            self.is_main = state.is_main_process
            if device in (None, state.device.type):
                self.device = str(state.device)

    def on_main(self, function: Callable):
        """
        What a function gives on the main process, on every process. Where it raises an OSError or ValueError all of
        them end, and the main one says why.
        """
        if not self.several:
            return function()

        from ..training.run_folder import from_main

        try:
            return from_main(function)
        except (OSError, ValueError):
            self.leave()
            if self.is_main:
                raise
            sys.exit(2)

    def predict(self, classifier, classify: Callable, batches: Iterable) -> Iterator[list[tuple[str, dict | str]]]:
        """
        As [`predict`], by all processes; each of them gets all answers in the order of the batches. Those are asked
        for on the main process alone, [`BATCHES_OF_A_ROUND`] for each process at a time.
        """
        if not self.several:
            yield from predict(classifier, classify, batches)
            return

        from accelerate import PartialState
        from accelerate.utils import gather_object

        state, batches = PartialState(), iter(batches)
        while dealt := self.on_main(lambda: list(itertools.islice(batches, BATCHES_OF_A_ROUND * state.num_processes))):
            with state.split_between_processes(dealt) as own:
                answers = list(itertools.chain.from_iterable(predict(classifier, classify, own)))
            yield gather_object(answers)

    def leave(self):
        """The last thing to do."""
        if self.several:
            from ..training.run_folder import leave_process_group

            leave_process_group()


class ImageSearch:
    """
    The image files among paths, one after the other: files, and what folders hold, sorted by name and searched
    through once each. What is an image is as in a data set, see [`why_ignored`]; all else is left out, and so are
    names in a folder that begin with a dot.

    Args:
        paths (`Sequence[str]`):
            Files and folders; `-` stands for the lines of stdin. A path that does not exist is given, too. One that
            begins as a formula of a spreadsheet does is given as `./=…`, lest a table be read as one.
    """

    def __init__(self, paths: Sequence[str]):
        self.paths = paths
        self.num_left_out, self.num_raw, self.example = 0, 0, None

    def left_out(self) -> str:
        raw = f"; raw files of cameras: {self.num_raw:,}, save them as JPEG or PNG" if self.num_raw else ""
        if self.num_left_out == 1:
            return f"left out a file that is no image: {self.example}{raw}"
        return f"left out {self.num_left_out:,} files that are no images, such as {self.example}{raw}"

    def __iter__(self) -> Iterator[str]:
        for path in self.paths:
            if path == "-":
                lines = (os.fsdecode(line.rstrip(b"\r\n")) for line in sys.stdin.buffer)
                for line in filter(None, lines):
                    yield from self._search(_no_formula(line), set())
            else:
                yield from self._search(_no_formula(path), set())

    def _search(self, path: str, searched: set[str], within: bool = False) -> Iterator[str]:
        is_folder = os.path.isdir(path)
        reason = why_ignored(path) if os.path.lexists(path) else None
        if not within and (is_folder or reason == "hidden"):  # named by the user
            reason = None
        if reason:
            self.num_left_out += 1
            self.num_raw += reason == "raw"
            self.example = self.example or path
        elif not is_folder:
            yield path
        elif os.path.realpath(path) not in searched:
            searched.add(os.path.realpath(path))
            try:
                names = sorted(os.listdir(path))
            except OSError:  # reading it as an image will say why
                names = []
                yield path
            for name in names:
                yield from self._search(os.path.join(path, name), searched, within=True)


def _no_formula(path: str) -> str:
    return os.path.join(".", path) if is_formula(path) else path


def load_classifier(model: str, device: str | None = None):
    """
    The pipeline of a model, ready to classify images.

    Args:
        model (`str`):
            Folder or Hub id.
        device (`str`, *optional*, defaults to an accelerator if there is one):
            Where it computes.

    Returns:
        `ZeroShotAttributeClassificationPipeline`.

    Raises:
        ValueError: If it is another kind of model or has no backbone, or there is no such device.
        OSError: If there is no such model.
    """
    import torch
    from transformers import AutoImageProcessor, logging

    from ..pipeline_dedn import ZeroShotAttributeClassificationPipeline

    logging.set_verbosity_error()
    try:
        if device is not None:
            torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"--device {device} cannot be used: {str(error).splitlines()[0]}") from error
    return ZeroShotAttributeClassificationPipeline(
        model=load_model(model),
        image_processor=AutoImageProcessor.from_pretrained(model),
        device=device,
    )


def name_of_model(model: str) -> str:
    """What to call the model of `--model`: its Hub id, or the name of its folder."""
    if model == str(DEFAULT_MODEL):
        return "dedn-cub"
    return os.path.basename(os.path.realpath(model)) if os.path.isdir(model) else model


def batches_to_do(
    paths: Iterable[str], batch_size: int, done: Counter | None = None
) -> Iterator[list[tuple[str, bool]]]:
    """
    Cuts paths into batches, and leaves out those of which nothing is wanted.

    Args:
        paths (`Iterable[str]`):
            The images.
        batch_size (`int`):
            Images of a batch.
        done (`Counter`, *optional*):
            Images that need no answer, by what [`printable`] makes of their paths, and how often; it is used up.
            Others of their batch are answered beside them all the same: what a number is rounded to may depend on the
            batch.

    Yields:
        `list[tuple[str, bool]]`: of each image of a batch its path, and whether an answer is wanted.
    """
    done, paths = done or {}, iter(paths)
    while batch := list(itertools.islice(paths, batch_size)):
        wanted = []
        for path in batch:
            name = printable(path)
            left = done.pop(name, 0)
            if left > 1:
                done[name] = left - 1
            wanted.append(not left)
        if any(wanted):
            yield list(zip(batch, wanted))


def read_image(classifier, path: str) -> dict:
    """An image file as [`ZeroShotAttributeClassificationPipeline.preprocess`] makes it ready for the model."""
    from ..images_dedn import load_any_image

    return classifier.preprocess(load_any_image(Path(path)))


def predict(
    classifier, classify: Callable, batches: Iterable[list[tuple[str, bool]]], read: Callable = read_image
) -> Iterator[list[tuple[str, dict | str]]]:
    """
    What a model says of images, batch by batch in their order.

    There are as many threads as torch would take for a batch, and each of them reads and classifies whole batches on
    its own: while one decodes, others compute, and none waits for the others' share of a layer.

    Args:
        classifier ([`ZeroShotAttributeClassificationPipeline`]):
            What images are prepared with.
        classify (`Callable`):
            See [`ZeroShotAttributeClassificationPipeline.prepare_call`].
        batches (`Iterable[list[tuple[str, bool]]]`):
            Images that go through the model together, see [`batches_to_do`].
        read (`Callable`, *optional*, defaults to [`read_image`]):
            What makes an input of `classify` of the classifier and a path.

    Yields:
        `list[tuple[str, dict | str]]`: of each wanted image of a batch its path, and its answer or why it cannot be
        read.
    """
    import torch

    batches = iter(batches)
    num_cores = torch.get_num_threads()
    first = list(itertools.islice(batches, num_cores))
    num_threads = max(1, len(first))

    def answer(batch: list[tuple[str, bool]]) -> list[tuple[str, dict | str]]:
        answers, inputs = {}, {}
        for place, (path, _) in enumerate(batch):
            try:
                inputs[place] = read(classifier, path)
            except Exception as error:  # Pillow raises whatever a damaged byte leads to
                answers[place] = _reason(error)
        if inputs:
            answers.update(zip(inputs, classify(list(inputs.values()))))
        return [(path, answers[place]) for place, (path, wanted) in enumerate(batch) if wanted]

    pool = ThreadPoolExecutor(num_threads, initializer=torch.set_num_threads, initargs=[num_cores // num_threads])
    pending = deque()
    try:
        for batch in itertools.chain(first, batches):
            pending.append(pool.submit(answer, batch))
            if len(pending) > 2 * num_threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(num_cores)


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or re.sub(r" at 0x[0-9a-fA-F]+", "", str(error))
    return " ".join(text.split()) or type(error).__name__


def print_answers(answers: Sequence[tuple[str, dict | str]], width: int, describe: Callable[[dict], str]):
    """
    Prints answers for a person.

    Args:
        answers (`Sequence[tuple[str, dict | str]]`):
            As [`predict`] gives them.
        width (`int`):
            Columns for the paths.
        describe (`Callable`):
            See [`~ZeroShotAttributeClassificationPipeline.in_words`].
    """
    for path, answer in answers:
        if isinstance(answer, str):
            lines = [f"cannot be read: {answer}"]
        else:
            lines = [
                f"{100 * label['score']:5.1f} %  {'seen' if label['seen'] else 'unseen':6}  {label['label']}"
                for label in answer["labels"]
            ]
            first = answer["labels"][0]["label"]
            lines += [
                f"{100 * rank['score']:5.1f} %  {'rank':6}  {rank['label']}"
                for rank in answer.get("ranks", [])[:1]
                if rank["label"] != first
            ]
            reasons = {"because": [], "against it": [], "attributes": []}
            for attribute in answer["attributes"]:
                amount = attribute["contribution"]
                kind = "because" if amount > 0 else "against it" if amount < 0 else "attributes"
                reasons[kind].append(describe(attribute))
            lines += [f"{kind}: {', '.join(words)}" for kind, words in reasons.items() if words]
            for entry in answer.get("ask", []):
                values = [value["label"] for value in entry.get("answers", [])[:NUM_VALUES]]
                named = f" {', '.join(values)}" if len(values) > 1 else ""
                lines.append(f"ask: {entry['question']} ({entry['gain']:.2g} bits){named}")
        for line in lines:
            print(_printable(f"{path:{width}}  {line}"))
            path = ""
    sys.stdout.flush()


def _printable(text: str) -> str:
    """Text that a terminal can show: a file name may hold anything."""
    text = "".join(character if character.isprintable() else "�" for character in text)
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, errors="replace").decode(encoding)


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
    return int(text)


def _answer(text: str) -> tuple[str, bool | float]:
    attribute, _, answer = text.rpartition("=")
    words = {"yes": True, "no": False}
    try:
        answer = words[answer.strip().lower()] if answer.strip().lower() in words else float(answer)
    except ValueError:
        answer = None
    if not attribute.strip() or answer is None or not 0 <= answer <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no attribute with yes, no or a strength, as 'blue wing=yes'")
    return attribute.strip(), answer


def _named_text(text: str) -> tuple[str, dict[str, str]]:
    name, colon, prose = text.partition(":")
    if not colon or not name.strip() or not prose.strip():
        raise argparse.ArgumentTypeError(
            f"{text!r} is no name and text, as 'Painted Finch: a small bird with a blue head'"
        )
    return name.strip(), {"text": prose.strip()}


def _number_or_all(text: str) -> int | str:
    return text if text == "all" else _at_least_one(text)
