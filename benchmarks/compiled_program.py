"""What a compiled program does, read from its HLO text: collectives, transfers to the host, buffers it reuses."""

import dataclasses
import math
import re

_COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "collective-permute",
    "collective-broadcast",
    "all-to-all",
    "ragged-all-to-all",
)
_COLLECTIVE = re.compile(rf" = (.*?) ({'|'.join(_COLLECTIVES)})(-start)?\(")
# Also the callbacks of jax.debug and jax.pure_callback, and memory spaces of the host (5 on TPUs).
_HOST = re.compile(r" (?:infeed|outfeed)\(|is_host_transfer=true|custom_call_target=\"[^\"]*callback|:[^}]*S\(5\)")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.-]+) \(.*\{$")
_CALLED = re.compile(r"(?:body|condition|calls|to_apply|\w*computations?)=(?:%?([\w.-]+)|\{([^}]*)\})")
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+\w*)\[([\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One exchange between devices."""

    kind: str  # all-reduce, …
    arrays: tuple[tuple[str, int], ...]  # type and bytes of each result, on one device
    in_loop: bool  # in the body of a loop, or in what the body calls

    @property
    def bytes(self) -> int:
        """Bytes of all results, on one device."""
        return sum(size for _, size in self.arrays)


class CompiledProgram:
    """The HLO text of a program, one computation after another."""

    def __init__(self, text: str):
        self._text = text
        self._lines: dict[str, list[str]] = {}
        for line in text.splitlines():
            if found := _COMPUTATION.match(line):
                self._lines[found[1]] = own = []
            elif line.startswith(" ") and self._lines:
                own.append(line)
        self._in_loop = self._reachable_from_loops()

    def _reachable_from_loops(self) -> set[str]:
        found: set[str] = set()
        waiting = re.findall(r" while\(.*\bbody=%?([\w.-]+)", self._text)
        while waiting:
            name = waiting.pop()
            if name in found or name not in self._lines:
                continue
            found.add(name)
            for one, several in (pair for line in self._lines[name] for pair in _CALLED.findall(line)):
                waiting += [one] if one else [part.strip(" %") for part in several.split(",")]
        return found

    def collectives(self) -> list[Collective]:
        """Return every exchange between devices."""
        return [
            Collective(found[2], _arrays(found[1]), name in self._in_loop)
            for name, lines in self._lines.items()
            for line in lines
            if (found := _COLLECTIVE.search(line))
        ]

    def host_transfers_in_loops(self) -> list[str]:
        """Return the instructions within loops that exchange something with the host."""
        return [line.strip() for name in self._in_loop for line in self._lines[name] if _HOST.search(line)]

    def reused_arguments(self) -> set[int]:
        """Return the numbers of the arguments whose memory a result takes over: those that were donated."""
        header = self._text.partition("\n")[0]
        return {int(number) for number in re.findall(r"\{[\d, ]*\}: \((\d+), \{\}, (?:may|must)-alias\)", header)}


def _arrays(shape: str) -> tuple[tuple[str, int], ...]:
    return tuple((kind, _bytes(kind, dimensions)) for kind, dimensions in _ARRAY.findall(shape))


def _bytes(kind: str, dimensions: str) -> int:
    bits = 8 if kind == "pred" else int(re.search(r"\d+", kind)[0])
    return math.prod(int(size) for size in dimensions.split(",") if size) * bits // 8
