"""Weights of the Keras example's EANet and ViT, into this project's parameters and back.

Keras itself is not imported, and a file's model is never rebuilt: only its arrays are read, so that a Lambda
layer in a `.keras` file is data like the rest and cannot run. h5py is imported when a file is read.

A weights file names a layer by its class and its place among the layers of that class (`dense`, `dense_1`, …,
in the order of `model.layers`), whatever the layer's own name is. A model in memory is brought to the same
names, so one table serves both. What weights cannot tell (activations, epsilons, the order of norm and
attention) is taken to be the Keras example's. The state of random generators is passed over. The mean and variance
of the Normalization layer are not parameters here either: inputs are normalised before they come to the network, and
if that is done with other statistics, the difference is folded into the patch embedding (`from_keras`).
"""

import collections
import io
import os
import re
import zipfile
import zlib
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from eanet.errors import UserError
from eanet.model.input_normalization import renormalized

# Beyond any model of this kind; a small file can claim to unpack into very much.
_MAX_BYTES = 2**31

_MEMBER = "model.weights.h5"  # of a .keras file, which is a zip archive

# What zipfile, zlib and h5py raise for a file that is cut short or changed.
_DAMAGED = (OSError, KeyError, RuntimeError, ValueError, TypeError, EOFError, zlib.error, zipfile.BadZipFile)

_KINDS = {
    "Dense": "dense",
    "LayerNormalization": "layer_normalization",
    "MultiHeadAttention": "multi_head_attention",
}

# Where the mean and variance of the Normalization layer are kept among the layers.
_NORMALIZATION = "normalization"

_EPSILON = 1e-7  # keras.config.epsilon(), the least deviation by which its Normalization divides

# Keras's sublayers of MultiHeadAttention, ours, and the axes of their kernels.
_PROJECTIONS = (
    ("query_dense", "query", "D H K"),
    ("key_dense", "key", "D H K"),
    ("value_dense", "value", "D H K"),
    ("output_dense", "out", "H K D"),
)

Layers = dict[str, list[Any]]  # a layer's name in the file → its arrays (or Keras variables) in order
Layout = list[tuple[str, dict[str, str]]]  # a layer's name → our parameters in the same order, and their axes


def from_keras(
    model_or_path: Any, *, mean: Sequence[float] | None = None, deviation: Sequence[float] | None = None
) -> dict[str, Any]:
    """Read the parameters of the Keras example's EANet or ViT; attention, depth and sizes follow from the weights.

    model_or_path is a Keras model, or the path of a `.keras` or `.weights.h5` file. mean and deviation, a number per
    channel, are those with which the inputs will be normalised: the parameters then give the logits that Keras gives
    for the raw images. Without them the inputs must be what the model's own Normalization layer makes of the images.

    Returns the float32 tree that `VisionTransformer.apply({"params": …})` takes. Raises ValueError naming the first
    layer that does not fit, and UserError if a file cannot be read.
    """
    is_path = isinstance(model_or_path, (str, os.PathLike))
    layers = _read_file(os.fspath(model_or_path)) if is_path else _read_model(model_or_path)
    statistics = layers.pop(_NORMALIZATION, [])
    flat = {}
    for name, arrays in _fit(layers):
        flat |= {path: np.asarray(x) for path, x in zip(arrays, layers[name], strict=True)}
    if mean is not None and deviation is not None:
        flat |= _folded(flat, statistics, np.array(mean, np.float64), np.array(deviation, np.float64))
    elif mean is not None or deviation is not None:
        raise ValueError("mean and deviation belong together; one of them is missing")
    return traverse_util.unflatten_dict({path: jnp.asarray(x, jnp.float32) for path, x in flat.items()}, sep="/")


@np.errstate(all="ignore")  # of a damaged file; the numbers show it
def _folded(
    flat: dict[str, np.ndarray], statistics: list[Any], mean: np.ndarray, deviation: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the patch embedding for inputs normalised with other statistics than the Normalization layer's.

    Raises ValueError if the layer's statistics are missing or cannot be those of the same images.
    """
    if len(statistics) != 2:
        found = (
            "are several Normalization layers" if statistics else "is no Normalization layer with adapted statistics"
        )
        raise ValueError(f"there {found}: what the network's inputs were is not known")
    theirs, variance = (np.asarray(x, np.float64) for x in statistics)
    if theirs.shape not in ((), mean.shape) or variance.shape != theirs.shape:
        shapes = _join([theirs.shape, variance.shape])
        raise ValueError(f"layer normalization has the shapes {shapes}; the images have {mean.size} channels")
    width = np.maximum(np.sqrt(variance), _EPSILON)
    if np.all(width <= 1) and np.any(deviation > 1):  # 0 and 1 before adapt(); or of images from 0 to 1, or -1 to 1
        raise ValueError(
            f"layer normalization has the mean {_numbers(theirs)} and the deviation {_numbers(width)}, the images have "
            f"{_numbers(mean)} and {_numbers(deviation)}: it was not adapted, or to images of another scale"
        )
    return renormalized(flat, (theirs, width), (mean, deviation))


def to_keras(params: dict[str, Any], model: Any) -> None:
    """Assign parameters to a Keras model of the same architecture, in place.

    Raises ValueError naming the first layer that does not fit; the model is then untouched.
    """
    layers = _read_model(model)
    layers.pop(_NORMALIZATION, None)
    flat = {path: np.asarray(value) for path, value in traverse_util.flatten_dict(params, sep="/").items()}
    assignments = []
    for name, arrays in _fit(layers):
        for path, variable in zip(arrays, layers[name], strict=True):
            if path not in flat:
                raise ValueError(f"layer {name}: the parameters have no {path}")
            value = flat.pop(path)
            if value.shape != tuple(variable.shape):
                raise ValueError(f"layer {name}: {path} is {value.shape}, the Keras model has {tuple(variable.shape)}")
            assignments.append((variable, value))
    if flat:
        raise ValueError(f"the Keras model has no layer for {next(iter(flat))}")
    for variable, value in assignments:
        variable.assign(value)


def _layout(self_attention: bool, depth: int) -> Layout:
    """List the Keras example's layers in the order of the data's way, with the axes of every array."""
    counts: collections.Counter[str] = collections.Counter()
    layout: Layout = []

    def numbered(kind: str) -> str:
        counts[kind] += 1
        return kind if counts[kind] == 1 else f"{kind}_{counts[kind] - 1}"

    def linear(layer: str, path: str, axes: str, out_axes: int = 1) -> None:
        bias = " ".join(axes.split()[-out_axes:])
        layout.append((layer, {f"{path}/kernel": axes, f"{path}/bias": bias}))

    def norm(path: str) -> None:
        layout.append((numbered("layer_normalization"), {f"{path}/scale": "D", f"{path}/bias": "D"}))

    linear("patch_embedding/proj", "patch_embedding", "P D")
    layout.append(("patch_embedding/pos_embed", {"position_embedding": "N D"}))
    for i in range(depth):
        block = f"block_{i}"
        norm(f"{block}/attention_norm")
        if self_attention:
            attention = numbered("multi_head_attention")
            for theirs, ours, axes in _PROJECTIONS:
                out_axes = 1 if ours == "out" else 2
                linear(f"{attention}/{theirs}", f"{block}/attention/{ours}", axes, out_axes)
        else:
            for ours, axes in (("expand", "D E"), ("memory_key", "K S"), ("memory_value", "S K"), ("project", "E D")):
                linear(numbered("dense"), f"{block}/attention/{ours}", axes)
        norm(f"{block}/mlp_norm")
        linear(numbered("dense"), f"{block}/mlp_in", "D M")
        linear(numbered("dense"), f"{block}/mlp_out", "M D")
    linear(numbered("dense"), "classifier", "D C")
    return layout


def _fit(layers: Layers) -> Layout:
    """Return the layout that these layers have.

    Raises ValueError naming the first layer that is missing, has other shapes, or is left over.
    """
    norms = sum(name.startswith("layer_normalization") for name in layers)
    self_attention = any(name.startswith("multi_head_attention") for name in layers)
    layout = _layout(self_attention, depth=(norms + 1) // 2)
    sizes: dict[str, int] = {}  # of each axis letter, as first seen
    for name, arrays in layout:
        where = f"layer {name} ({' and '.join(arrays)})"
        if name not in layers:
            raise ValueError(f"{where} is missing: this is not the Keras example's EANet or ViT")
        shapes = [tuple(array.shape) for array in layers[name]]
        expected = [axes.split() for axes in arrays.values()]
        fits = [len(shape) for shape in shapes] == [len(axes) for axes in expected]
        for axes, shape in zip(expected, shapes, strict=False):
            fits = fits and all(sizes.setdefault(axis, size) == size for axis, size in zip(axes, shape, strict=True))
        if not fits:
            wanted = [tuple(sizes.get(axis, axis) for axis in axes) for axes in expected]
            raise ValueError(f"{where} has the shapes {_join(shapes)}; expected {_join(wanted)}")
    known = {name for name, _ in layout}
    for name in layers:
        if name not in known:
            raise ValueError(f"layer {name} is not part of the Keras example's EANet or ViT")
    return layout


def _join(shapes: list[tuple[Any, ...]]) -> str:
    return " and ".join(f"({', '.join(map(str, shape))})" for shape in shapes)


def _numbers(values: np.ndarray) -> str:
    return ", ".join(f"{value:.4g}" for value in np.ravel(values))


def _read_model(model: Any) -> Layers:
    """Return the variables of a Keras model by the names that its weights file would use."""
    if not hasattr(model, "layers"):
        raise ValueError(f"{type(model).__name__} is no Keras model: it has no layers")
    counts: collections.Counter[str] = collections.Counter()
    layers: Layers = {}
    for layer in model.layers:
        kind = _KINDS.get(type(layer).__name__)
        if hasattr(layer, "proj") and hasattr(layer, "pos_embed"):
            layers["patch_embedding/proj"] = layer.proj.weights
            layers["patch_embedding/pos_embed"] = layer.pos_embed.weights
        elif kind:
            name = f"{kind}_{counts[kind]}" if counts[kind] else kind
            counts[kind] += 1
            if kind == "multi_head_attention":
                layers |= {f"{name}/{theirs}": getattr(layer, f"_{theirs}").weights for theirs, _, _ in _PROJECTIONS}
            else:
                layers[name] = layer.weights
        else:
            # Normalization's are the only weights beyond the parameters, also within a Sequential.
            statistics = [v for v in layer.weights if v.name in ("mean", "variance")]
            if statistics:
                layers.setdefault(_NORMALIZATION, []).extend(statistics)
            others = [v for v in layer.weights if v.name not in ("mean", "variance", "count")]
            if others:
                layers[layer.name] = others
    return layers


def _read_file(path: str) -> Layers:
    """Read the arrays of a `.keras` or `.weights.h5` file, and nothing else of it."""
    try:
        import h5py
    except ImportError as error:
        raise UserError(f"{path}: reading Keras weights needs h5py; pip install h5py") from error
    if not path.endswith((".keras", ".h5")):
        raise UserError(f"{path}: accepted are .keras and .weights.h5 files")
    try:
        with h5py.File(_unzip(path) if path.endswith(".keras") else path, "r") as file:
            if not isinstance(file.get("layers", getlink=True), h5py.HardLink):
                raise UserError(f"{path}: no group `layers`; accepted are files saved by Keras 3")
            return _read_group(file["layers"], h5py)
    except _DAMAGED as error:
        raise UserError(f"{path}: not a readable Keras weights file ({error})") from error


def _unzip(path: str) -> io.BytesIO:
    with zipfile.ZipFile(path) as archive:
        size = archive.getinfo(_MEMBER).file_size
        if size > _MAX_BYTES:
            raise UserError(f"{path}: {_MEMBER} claims {size:,} bytes; accepted: at most {_MAX_BYTES:,}")
        return io.BytesIO(archive.read(_MEMBER))


def _read_group(root: Any, h5py: Any) -> Layers:
    """Collect the float arrays below a group by layer.

    Raises OSError for a link or storage outside the file: HDF5 would follow it to any file of the reader.
    """
    layers: Layers = {}
    budget = _MAX_BYTES

    def visit(group: Any, path: str) -> None:
        nonlocal budget
        # Keras numbers a layer's arrays; sorted as text, the eleventh would come third.
        for name in sorted(group, key=lambda n: (len(n), n)):
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise OSError(f"{group.name}/{name} is a link, which Keras never writes")
            item = group[name]
            if isinstance(item, h5py.Group):
                # Older Keras files have the attribute's own name, with its underscore.
                visit(item, path if name == "vars" else f"{path}/{name.lstrip('_')}")
                continue
            if not isinstance(item, h5py.Dataset):
                raise OSError(f"{item.name} is not an array")
            budget -= item.nbytes
            if item.external or item.is_virtual or budget < 0:
                raise OSError(f"{item.name} lies outside the file or is too large")
            if item.dtype.kind == "f":
                layers.setdefault(_canonical(path), []).append(item[()])

    visit(root, "")
    return layers


def _canonical(path: str) -> str:
    """Name a layer as a model in memory has it named, wherever it lies.

    The class of the layer that holds `proj` and `pos_embed` is the user's, and Normalization is in a Sequential.
    """
    if re.search(r"/normalization(_\d+)?$", path):
        return _NORMALIZATION
    return re.sub(r"^/[^/]+/(proj|pos_embed)$", r"/patch_embedding/\1", path)[1:]
