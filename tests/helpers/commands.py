"""Commands in a process each, started quickly: a helper imports everything once and forks a child for every command.

A child runs the program as Python itself would, as `__main__`, and ends with its exit code; JAX has not yet looked for
devices when it is forked. As a program this file is the helper: requests as JSON lines on stdin, answers on stdout.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import runpy
import signal
import subprocess
import sys
import time
import traceback

ROOT = pathlib.Path(__file__).parents[2]
_LIMIT = 60  # seconds after which a child is killed; what is allowed is the test's to say


@dataclasses.dataclass(frozen=True)
class Done:
    """What a command has left."""

    code: int
    stdout: str
    stderr: str
    seconds: float


class Commands:
    """Run commands one after the other; close when done."""

    def __init__(self, scratch: pathlib.Path):
        self._files = scratch / "stdout", scratch / "stderr"
        # A proxy that refuses stands for a network that is not there.
        own = {"PYTHONPATH": str(ROOT), "https_proxy": "http://127.0.0.1:9", "PYTHONDONTWRITEBYTECODE": "1"}
        self._helper = subprocess.Popen(
            [sys.executable, __file__],
            **{"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": os.environ | own},
        )

    def run(self, program: str, arguments: list[str], directory: pathlib.Path) -> Done:
        """Run main.py, or a module of this project, in a directory."""
        request = {"program": program, "arguments": arguments, "directory": str(directory)}
        request["files"] = list(map(str, self._files))
        print(json.dumps(request), file=self._helper.stdin, flush=True)
        answer = json.loads(self._helper.stdout.readline())
        stdout, stderr = (file.read_text(errors="replace") for file in self._files)
        return Done(answer["code"], stdout, stderr, answer["seconds"])

    def close(self) -> None:
        """End the helper."""
        self._helper.stdin.close()
        self._helper.wait(10)


def snapshot(directory: pathlib.Path) -> dict[str, bytes | None]:
    """Return everything below a directory with its bytes; None for directories."""
    return {str(p.relative_to(directory)): p.read_bytes() if p.is_file() else None for p in directory.rglob("*")}


def _execute(program: str, arguments: list[str]) -> int:
    """Run a program as `python PROGRAM` or `python -m PROGRAM` does; gives the exit code."""
    try:
        if program.endswith(".py"):
            sys.argv = [program, *arguments]
            runpy.run_path(str(ROOT / program), run_name="__main__")
        else:
            for name in (program, f"{program}.__main__"):  # runpy warns of a module that was imported before
                sys.modules.pop(name, None)
            sys.argv = [program, *arguments]
            runpy.run_module(program, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
    sys.stderr.flush()
    return code


def _fork(request: dict) -> int:
    """Start a command in a child with its own output, directory and process group; gives its process id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.setpgid(0, 0)
        for descriptor, file in zip((0, 1, 2), (os.devnull, *request["files"]), strict=True):
            os.dup2(
                os.open(file, os.O_RDWR | os.O_CREAT | os.O_TRUNC if descriptor else os.O_RDONLY, 0o600), descriptor
            )
        os.chdir(request["directory"])
        code = _execute(request["program"], request["arguments"])
    finally:
        os._exit(code)


def _wait(child: int) -> int:
    """Return a child's exit code, as the subprocess module does; kill it where it takes too long."""
    deadline = time.monotonic() + _LIMIT
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.killpg(child, signal.SIGKILL)
        time.sleep(0.002)


def _serve() -> None:
    import sklearn.datasets  # noqa: F401, imported here for all children, as the rest
    import tensorflow_datasets  # noqa: F401

    import eanet.compare.__main__
    import eanet.cost
    import eanet.dashboard
    import eanet.evaluate
    import eanet.sweep.__main__
    import eanet.train  # noqa: F401

    for line in sys.stdin:
        started = time.perf_counter()
        code = _wait(_fork(json.loads(line)))
        print(json.dumps({"code": code, "seconds": time.perf_counter() - started}), flush=True)


if __name__ == "__main__":
    _serve()
