"""What the HTML files have in common: one file without requests, pictures for light and dark, everything escaped."""

import base64
import dataclasses
import io
import os
import pathlib
from collections.abc import Callable

import jinja2
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from eanet.errors import UserError

_STYLES = {
    "light": {"figure.facecolor": "#ffffff"},
    "dark": {  # as the page's own colours
        "figure.facecolor": "#16191d",
        "axes.facecolor": "#16191d",
        "text.color": "#dde1e6",
        "axes.labelcolor": "#dde1e6",
        "axes.edgecolor": "#8a929c",
        "xtick.color": "#dde1e6",
        "ytick.color": "#dde1e6",
        "legend.facecolor": "#16191d",
        "legend.edgecolor": "#8a929c",
        "grid.color": "#8a929c",
    },
}


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture in the styles light and dark, and what it shows in words."""

    caption: str
    svg: dict[str, bytes]

    @property
    def uris(self) -> dict[str, str]:
        """Return the picture in each style as a URL that holds it."""
        return {style: data_uri(svg, "svg+xml") for style, svg in self.svg.items()}


def draw_in_styles(draw: Callable[[], dict[str, tuple[Figure, str]]]) -> dict[str, Picture]:
    """Return what a function draws, figures with captions by their names, as SVG in both styles."""
    drawn: dict[str, Picture] = {}
    for style, colors in _STYLES.items():
        # Text as text, not as outlines; the salt and the missing date make the same figures the same bytes.
        with plt.rc_context(colors | {"svg.hashsalt": "eanet", "svg.fonttype": "none"}):
            for name, (figure, caption) in draw().items():
                buffer = io.BytesIO()
                figure.savefig(buffer, format="svg", metadata={"Date": None})
                plt.close(figure)
                drawn.setdefault(name, Picture(caption, {})).svg[style] = buffer.getvalue()
    return drawn


def data_uri(content: bytes, kind: str) -> str:
    """Return an image of a kind, e.g. png, as a URL that holds it."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def write_files(out: pathlib.Path, files: dict[str, bytes]) -> None:
    """Write files, by their places in a directory, each whole or not at all; raise UserError if that fails."""
    try:
        for name, content in files.items():
            path = out / name
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f".{path.name}")
            partial.write_bytes(content)
            os.replace(partial, path)
    except OSError as error:
        raise UserError(f"--out={out} cannot be written: {error.strerror}") from error


def templates(*directories: pathlib.Path) -> jinja2.Environment:
    """Return the templates of this folder and of others; what is filled in is escaped: <script> stays text."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader([pathlib.Path(__file__).parent, *directories]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
