"""
The command line: `dedn COMMAND …`, and the same as `python -m dedn_hf COMMAND …`.

A command is a file of this folder with a `main(arguments)` that gives the exit status (`None` is 0). It parses with a
[`CommandParser`] before it imports anything heavy, so that `--help` and a wrong argument are answered at once.
"""

import argparse
import ctypes
import difflib
import os
import sys
from importlib import import_module
from importlib.metadata import version

COMMANDS = {
    "predict": "name what photos show",
    "explain": "draw why: the attributes that speak for a name, and where they are",
    "describe": "show a class as a model understands words about it, or photos of it",
    "demo": "open a page for a browser: photos, questions, classes of your own",
    "train": "train on the built-in birds, a benchmark or your own folder",
    "evaluate": "read the test images once: figures and pictures",
    "features": "run a backbone over a data set, into a store to train on",
    "publish": "check a model folder and push it to the Hub",
    "export": "write a model as ONNX",
    "convert": "make a model of a checkpoint of the released program",
}


class CommandParser(argparse.ArgumentParser):
    """An [`argparse.ArgumentParser`] that says what is wrong in one line."""

    def __init__(self, prog: str = "dedn", **options):
        options = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False, **options}
        super().__init__(prog=prog, **options)

    def error(self, message: str):
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")


def read_bf16(text: str) -> bool | str:
    """What `--bf16` says: `auto`, or yes or no in the words that transformers takes for them."""
    values = dict.fromkeys(("yes", "true", "t", "y", "1"), True) | dict.fromkeys(("no", "false", "f", "n", "0"), False)
    value = (values | {"auto": "auto"}).get(text.lower())
    if value is None:
        raise argparse.ArgumentTypeError(f"it is auto, true or false, and not {text!r}")
    return value


def check_model(model: str):
    """A ValueError for what is neither a folder nor can be the id of a model on the Hub, before the Hub is asked."""
    namespace, slash, name = model.partition("/")
    if not os.path.isdir(model) and (not slash or "/" in name or not namespace or os.path.isdir(namespace)):
        raise ValueError(f"there is no model folder {model}; a model on the Hub is named NAMESPACE/NAME")


def load_model(model: str):
    """
    A model with all of its weights. A ValueError names those that its file lacks, since transformers draws them anew,
    or says that it is a model of another kind.
    """
    from transformers import AutoConfig

    from ..modeling_dedn import DednModel

    kind = AutoConfig.from_pretrained(model, trust_remote_code=False).model_type
    if kind != "dedn":
        raise ValueError(f"{model} is a model of type {kind!r}, but one of DEDN is needed")
    loaded, report = DednModel.from_pretrained(model, output_loading_info=True)
    missing = sorted(name for name in report["missing_keys"] if not name.endswith("num_batches_tracked"))
    if missing:
        raise ValueError(
            f"{model} lacks {len(missing)} of its weights, such as {missing[0]}, which would be random: save the "
            "model again, or download it anew"
        )
    return loaded


def keep_freed_memory():
    """
    Has the GNU allocator keep for the next layer what a layer gives back, in this process and from now on. By default
    it returns big activations to the system, and every page of the next one is asked for anew: a MobileNetV2 then
    takes half as long again, and a training step a tenth. Other allocators are left alone.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mmap_threshold, trim_threshold, arena_max = -3, -1, -8  # as malloc.h numbers them
    mallopt(mmap_threshold, 2**30)
    mallopt(trim_threshold, 2**31 - 1)
    mallopt(arena_max, 1)  # an arena of a thread's own has no room for big tensors


def main(arguments: list[str] | None = None) -> int:
    """
    Runs a command.

    Args:
        arguments (`list[str]`, *optional*):
            The command and its arguments; by default those of this process.

    Returns:
        `int`: the exit status; 2 for a wrong call or wrong data, with one line on stderr (`DEDN_DEBUG=1` shows where
        it comes from), 130 when interrupted.
    """
    command, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if not sys.stderr.isatty():
        # Nobody watches the bars of these libraries, which read this when they are imported.
        for variable in ("TQDM_DISABLE", "HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS"):
            os.environ.setdefault(variable, "1")
    try:
        try:
            if command not in COMMANDS:
                return _no_command(command)
            keep_freed_memory()
            return import_module(f".{command}", __name__).main(rest) or 0
        finally:  # help ends the program
            sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # What is left to print would fail again when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        # Of a killed process torch tells wherever the program just is.
        if isinstance(error, RuntimeError) and not str(error).startswith("DataLoader worker"):
            raise
        if os.environ.get("DEDN_DEBUG"):
            raise
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2


def _no_command(name: str) -> int:
    width = max(map(len, COMMANDS))
    parser = CommandParser(
        usage="dedn COMMAND …",
        description="Zero-shot recognition by attributes with DEDN.",
        epilog="commands:\n"
        + "\n".join(f"  {command:{width}}  {what}" for command, what in COMMANDS.items())
        + "\n\n`dedn COMMAND --help` says more.",
    )
    parser.add_argument("--version", action="version", version=version("dedn-hf"))
    parser.parse_args([name] if name.startswith("-") else [])
    closest = difflib.get_close_matches(name, COMMANDS, n=1)
    parser.error(
        f"there is no command {name!r}; "
        + (f"did you mean {closest[0]}?" if closest else f"choose {_any_of(COMMANDS)}")
    )


def _any_of(names) -> str:
    *names, last = names
    return f"{', '.join(names)} or {last}"
