"""What the command lines share: flags that fail in one line, exit codes, and the default directory of a run."""

import argparse
import atexit
import contextlib
import difflib
import math
import os
import pathlib
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TextIO

import jax
import ml_collections
from absl import flags
from ml_collections import config_flags
from rich.console import Console

from eanet.config import hints, rules, stored
from eanet.errors import UserError, printable
from eanet.training import processes

_OVERRIDE = re.compile(r"--?(no)?config\.([^=]*)(?:=(.*))?", re.DOTALL)
_WIDE = 320  # columns
_LONGEST = 1000  # characters of a complaint; of a longer one the middle is left out


def run(function: Callable[[], Any]) -> int:
    """Call a function; a UserError becomes one line on stderr. Returns the exit code.

    If the run has several processes, a failure ends this one without returning, so that the others notice.
    """
    try:
        function()
    except UserError as error:
        print(f"error: {_one_line(str(error))}", file=sys.stderr)
        processes.leave(error.exit_code)
        return error.exit_code
    except KeyboardInterrupt:
        processes.leave(130)
        return 130
    except BrokenPipeError:  # `… | head`: nobody reads on, and that is no fault
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception:
        if jax.distributed.is_initialized():
            traceback.print_exc()
            processes.leave(1)
        raise
    return 0


class _LastingOutput:
    """Standard output that may go away: a reader that leaves, a full disk. What cannot be written is dropped."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()

    def close_quietly(self) -> None:
        """Drop what is still left, which Python would complain of at its end."""
        try:
            self._stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def keep_going_without_output() -> None:
    """From now on, ignore errors in writing to standard output, and flush it after each line."""
    sys.stdout.reconfigure(line_buffering=True)
    sys.stdout = _LastingOutput(sys.stdout)
    atexit.register(sys.stdout.close_quietly)


def _one_line(text: str) -> str:
    """Return a text as one line without control characters, with the middle left out if it is very long."""
    line = " ".join(text.split())
    if len(line) > _LONGEST:
        line = f"{line[: _LONGEST // 2]} … {line[-_LONGEST // 2 :]}"
    return printable(line)


class Parser(argparse.ArgumentParser):
    """A parser that reports errors in one line. --help shows the module's docstring without its first paragraph."""

    def __init__(self, prog: str, doc: str, hint: str = ""):
        description = doc.partition("\n\n")[2]
        layout = argparse.RawDescriptionHelpFormatter
        super().__init__(prog=prog, description=description, formatter_class=layout, allow_abbrev=False)
        self._hint = hint

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; --help lists what is accepted{self._hint}")


def console() -> Console:
    """Return the console for tables; in a file, which has no edge to fold at, it is wide."""
    made = Console(highlight=False)
    if not made.is_terminal:
        made.width = _WIDE
    return made


def check_directory(flag: str, path: str | pathlib.Path, new: bool = True) -> None:
    """Raise UserError unless a path is a directory or, if new is True, can be created as one.

    flag is the name of the flag that the path comes from, for the message.
    """
    path = pathlib.Path(path)
    accepted = f"accepted: a directory{', existing or new' if new else ''}"
    if not rules.is_text(str(path)):
        raise UserError(f"{flag}={str(path)!r} holds control characters or bytes that are not text; {accepted}")
    try:
        existing = next(part for part in (path.absolute(), *path.absolute().parents) if part.exists())
    except OSError as error:  # e.g. a name that is too long
        raise UserError(f"{flag}={path}: {error.strerror}; {accepted}") from error
    if not existing.is_dir():
        what = "is a file" if existing == path.absolute() else f"lies below {existing}, which is a file"
        raise UserError(f"{flag}={path} {what}; {accepted}")
    if existing != path.absolute() and not new:
        raise UserError(f"{flag}={path} does not exist; {accepted}")


def positive_number(flag: str, text: str, high: float) -> float:
    """Return the number that a flag was given; raise UserError if it is not above 0 and at most high."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number <= high:
        raise UserError(f"{flag}={text}; accepted: a number above 0, at most {high:g}")
    return number


def parse_flags(argv: list[str]) -> list[str]:
    """Parse absl flags; raise UserError that names the field where a --config override is wrong."""
    if {"-h", "--h", "-help", "--help", "--helpshort", "--helpfull"} & set(argv):
        print(_help())
        sys.exit(0)
    sys.argv = _config_first(argv)  # ml_collections looks there for what stands after --config
    rest = _parse(flags.FLAGS, sys.argv)
    if flags.FLAGS["verbosity"].using_default_value:
        flags.FLAGS.verbosity = -1  # warnings; Orbax says every step of a checkpoint at the level of information
    return rest


def read_config(arguments: Sequence[str]) -> tuple[str, ml_collections.ConfigDict]:
    """Read --config and its fields as main.py does, apart from the flags of this process.

    Returns the configuration's file and the configuration, validated. Raises UserError.
    """
    argv = _config_first(["main.py", *arguments])
    own = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, "", lock_config=True, flag_values=own, sys_argv=argv)
    flags.DEFINE_string("workdir", "", "", flag_values=own)
    check_no_rest(_parse(own, argv))
    rules.validate(own.config)
    return config_flags.get_config_filename(own["config"]), own.config


def check_no_rest(rest: Sequence[str]) -> None:
    """Raise UserError if something but flags stands on the command line, as in a sweep rendered wrongly."""
    if len(rest) > 1:
        raise UserError(f"unexpected {rest[1]!r}; every argument has the form --flag=value")


def _parse(flag_values: flags.FlagValues, argv: list[str]) -> list[str]:
    overrides = [match for match in map(_OVERRIDE.fullmatch, argv) if match]
    for match in overrides:
        _check_override(match)
    file = ""
    for flag, value in zip(argv, [*argv[1:], ""], strict=True):
        if re.match("--?config(=|$)", flag):
            file = value if flag in ("-config", "--config") else flag.partition("config=")[2]
            if not pathlib.Path(file.partition(":")[0]).is_file():
                raise UserError(f"--config={file}: no such file; accepted: a configuration file, e.g. configs/eanet.py")
    path = pathlib.Path(file.partition(":")[0])
    sys.modules.pop("config_config", None)  # the name under which ml_collections loads every file
    try:
        rest = flag_values(argv)
        if flag_values.config is not None:
            fields = flag_values.config.to_dict()  # a file that failed to load says so only when it is used
    except UserError:  # a configuration file's own, about its argument
        raise
    except flags.Error as error:
        if "Error whilst parsing config file:" not in str(error):
            raise UserError(_complaint(error)) from error
        raise UserError(f"--config={file} cannot be read: {hints.explain_failure(path, error)}") from error
    except Exception as error:  # whatever a configuration file, or ml_collections on top of it, raises
        given = " ".join([f"--config={file}", *(match[0] for match in overrides)])
        raise UserError(f"{given} cannot be read: {hints.explain_failure(path, error)}") from error
    if flag_values.config is None:
        raise UserError("--config is missing; accepted: a configuration file, e.g. configs/eanet.py")
    for field, value in rules.flatten(fields).items():
        if field not in rules.RULES:
            place = hints.find_line(path, field)
            raise UserError(f"{place}: config.{field}={value!r}: no such field{hints.meant(field)}")
    return rest


def _check_override(match: re.Match) -> None:
    """Raise UserError if an override names no field, or negates one that is not True or False."""
    negated, field, value = match.groups()
    if field not in rules.RULES:
        raise UserError(f"--config.{field}: no such field{hints.meant(field)}")
    accepted = rules.RULES[field][1]
    if negated and (value is not None or accepted != "True or False"):
        what = "sets a field that is True or False to False, and takes no value"
        raise UserError(f"{match[0]}: --noconfig.FIELD {what}; accepted of config.{field}: {accepted}")


def _complaint(error: flags.Error) -> str:
    """Say what absl and ml_collections found wrong with the command line, in the words of all other complaints."""
    if isinstance(error, flags.UnrecognizedFlagError):
        near = difflib.get_close_matches(error.flagname, ("config", "workdir"), n=1)
        hint = f"did you mean --{near[0]}? " if near else ""
        return f"--{error.flagname}: no such flag; {hint}--help lists the flags"
    flag = re.match(r"flag (--([\w.-]+)=)|Missing value for flag (--([\w.-]+))", str(error))
    if not flag:
        return f"{error}; --help lists the flags"
    rule = rules.RULES.get((flag[2] or flag[4]).removeprefix("config."))
    accepted = f"accepted: {rule[1]}" if rule else "--help lists the flags"
    if flag[3]:
        return f"{flag[3]} has no value; {accepted}"
    # The reason behind the value is the parser's own, e.g. "invalid literal for int() with base 10".
    return f"{str(error).removeprefix('flag ').removesuffix(f': {error.__context__}')}; {accepted}"


def _config_first(argv: list[str]) -> list[str]:
    """Put --config=FILE before its fields, where ml_collections wants it; a sweep over files may have it anywhere."""
    first = [argument for argument in argv if re.match("--?config=", argument)]
    return [argv[0], *first, *(argument for argument in argv[1:] if argument not in first)]


def default_workdir(config_file: str, config: ml_collections.ConfigDict) -> pathlib.Path:
    """Return runs/<config file>-<hash>: the same command finds its run again, another one never does.

    Under a W&B agent it is runs/<sweep>/<config file>-<hash>-<run>, as W&B may ask for a point twice.
    """
    name = f"{config_name(config_file)}-{stored.fingerprint(config.to_dict())}"
    sweep, run_id = (os.environ.get(f"WANDB_{part}_ID", "") for part in ("SWEEP", "RUN"))
    if sweep:
        return pathlib.Path("runs", sweep, f"{name}-{run_id}" if run_id else name)
    return pathlib.Path("runs", name)


def config_name(config_file: str) -> str:
    """Return a configuration file and its argument as part of a directory's name: vit-4x32 for configs/vit.py:4x32."""
    path, _, argument = config_file.partition(":")
    return "-".join(part for part in (pathlib.Path(path).stem, re.sub(r"\W+", "_", argument)) if part)


def _help() -> str:
    """Describe the command line and every field of the configuration."""
    width = max(map(len, rules.RULES))
    fields = "\n".join(f"  --config.{name:<{width}}  {accepted}" for name, (_, accepted) in rules.RULES.items())
    return f"""{sys.modules["__main__"].__doc__}
flags:
  --config=FILE    configuration file, configs/eanet.py say (required, before its fields)
  --workdir=DIR    directory of the run (default: runs/<config file>-<8 digits of the configuration's hash>)

fields of the configuration, with what each accepts (configs/default.py has defaults and meanings):
{fields}"""
