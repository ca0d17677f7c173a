"""Hints in error messages: the field that was probably meant, and the line in the configuration file."""

import difflib
import linecache
import pathlib
import re
import traceback
from collections.abc import Iterator

from eanet.config.rules import RULES

# Names in common use for fields that are spelled differently here.
_ALSO_CALLED = {
    "lr": "learning_rate",
    "wd": "weight_decay",
    "bs": "batch_size",
    "batch": "batch_size",
    "seeds": "num_seeds",
    "layers": "depth",
    "num_layers": "depth",
    "blocks": "depth",
    "width": "dim",
    "embed_dim": "dim",
    "hidden_dim": "mlp_dim",
    "attn": "attention",
    "memory": "memory_size",
    "slots": "memory_size",
    "num_epochs": "epochs",
    "warmup_steps": "warmup_epochs",
    "clip": "clip_norm",
    "grad_clip": "clip_norm",
    "dataset": "data.name",
    "precision": "dtype",
}
_NEAR, _NEAR_IN_GROUP = 0.75, 0.65  # similarity of names from which a field is suggested; the same group's need less
_SAME_WORDS, _SOME_WORDS = 1.0, 0.9


def meant(name: str) -> str:
    """Return the end of a message about a field that does not exist: what was probably meant, or how to find it."""
    groups = {field.partition(".")[0] for field in RULES if "." in field}
    if "." not in name and not any(field.endswith(f".{name}") for field in RULES):
        near = difflib.get_close_matches(name, groups, n=1, cutoff=_NEAR)
        if near:
            return f"; did you mean one of config.{near[0]}.*? --help lists them"
    fields = [f"config.{field}" for field in nearest_fields(name)]
    if not fields:
        return "; --help lists the fields"
    *others, last = fields
    return f"; did you mean {', '.join(others)}{' or ' * bool(others)}{last}?"


def nearest_fields(name: str) -> list[str]:
    """Return the fields, mostly one, that a mistyped name is nearest to; three at most, and none if none is near.

    The last part of a name decides, as it is what people remember; its group only decides between fields alike.
    """
    group, _, last = name.lower().rpartition(".")
    wanted = _ALSO_CALLED.get(last, last)
    if "." in wanted:
        return [wanted]
    scores = {field: _score(group, wanted, *field.rpartition(".")[::2]) for field in RULES}
    best = max(scores.values())
    return [field for field, score in scores.items() if score == best][:3] if best else []


def _score(group: str, name: str, field_group: str, field_name: str) -> float:
    words, field_words = set(name.split("_")), set(field_name.split("_"))
    letters = difflib.SequenceMatcher(None, name, field_name).ratio()
    near_group = difflib.SequenceMatcher(None, group, field_group).ratio() if group else 0.0
    if name == "name" and group and near_group < _NEAR:  # many things have a name
        return 0.0
    if name == field_name or {*re.split("[._]", group), *words} - {""} == {*field_group.split("_"), *field_words}:
        score = _SAME_WORDS
    elif words < field_words or (name[0], sorted(name)) == (field_name[0], sorted(field_name)):
        score = _SOME_WORDS
    elif letters >= (_NEAR_IN_GROUP if group and group == field_group else _NEAR):
        score = letters * _SOME_WORDS
    else:
        return 0.0
    unasked_grid = field_group == "vary" and near_group < _NEAR
    return score + 0.05 * near_group - 0.1 * unasked_grid


def explain_failure(file: pathlib.Path, error: BaseException) -> str:
    """Return what went wrong while a configuration file was executed, with the line of the file if one was reached."""
    chain = list(_chain(error))
    root = chain[-1]
    if isinstance(root, SyntaxError):
        return f"{root.filename}, line {root.lineno}: {type(root).__name__}: {root.msg}"
    lines = [(one, _line_reached(file, one)) for one in chain]
    error, number = next((pair for pair in reversed(lines) if pair[1]), (root, 0))
    if not number:
        return f"{type(error).__name__}: {error}"
    text = linecache.getline(str(file), number).strip()
    return f"{file}, line {number}, {text}: {_reason(root, error, text)}"


def _reason(root: BaseException, error: BaseException, text: str) -> str:
    """Return what an error says, or in our own words what ml_collections complains of in a line."""
    in_library = "ml_collections" in traceback.extract_tb(root.__traceback__)[-1].filename
    written = re.search(r"config\.([\w.]+)", text)
    field = written[1] if written else ""
    missing = re.fullmatch(r'(\w+)|Key "(\w+)" does not exist.*', str(root.args[0]), re.DOTALL) if root.args else None
    if in_library and isinstance(root, KeyError) and missing:
        name = missing[1] or missing[2]
        return f"no such field{meant(field if name in field.split('.') else name)}"
    if in_library and isinstance(root, TypeError) and field in RULES:
        return f"accepted: {RULES[field][1]}"
    return f"{type(error).__name__}: {error}"


def find_line(file: pathlib.Path, field: str) -> str:
    """Return where a configuration file names a field, as text for a message; the file alone if it does not."""
    name = re.compile(rf"\b{re.escape(field.rpartition('.')[2])}\b")
    numbers = [number for number, line in enumerate(linecache.getlines(str(file)), start=1) if name.search(line)]
    return f"{file}, line {numbers[0]}" if numbers else str(file)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those that it was raised for: the libraries in between replace each other's."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _line_reached(file: pathlib.Path, error: BaseException) -> int:
    """Return the line of a file that was being executed when an error was raised; 0 if none was."""
    frames = traceback.extract_tb(error.__traceback__)
    numbers = [frame.lineno for frame in frames if pathlib.Path(frame.filename).absolute() == file.absolute()]
    return numbers[-1] or 0 if numbers else 0
