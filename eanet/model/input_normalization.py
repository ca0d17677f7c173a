"""Parameters for inputs that are normalised with other statistics than those a network was trained with."""

from typing import Any

import numpy as np

Statistics = tuple[Any, Any]  # mean and deviation of the images, each a number per channel or one for all


def renormalized(flat: dict[str, Any], before: Statistics, after: Statistics) -> dict[str, np.ndarray]:
    """Return a patch embedding that maps inputs normalised with `after` as the one in `flat` maps those with `before`.

    flat maps paths to parameters. The networks are equivalent in training, too: flip, bilinear rotation and zoom, and
    contrast about each channel's mean commute with a change of the statistics (augment.contrast_clip, which clips
    normalised values, does not). Raises ValueError if the number of channels does not fit.
    """
    (old_mean, old_deviation), (mean, deviation) = (
        tuple(np.asarray(x, np.float64) for x in statistics) for statistics in (before, after)
    )
    kernel = np.asarray(flat["patch_embedding/kernel"], np.float64)
    channels = mean.size
    if len(kernel) % channels:
        raise ValueError(f"patch_embedding/kernel has {len(kernel)} rows, the images have {channels} channels")
    per_pixel = kernel.reshape(-1, channels, kernel.shape[1])  # a patch is in the order row, column, channel
    shift = np.broadcast_to((mean - old_mean) / old_deviation, (channels,))
    scale = np.broadcast_to(deviation / old_deviation, (channels,))
    bias = flat["patch_embedding/bias"] + np.einsum("pcd,c->d", per_pixel, shift)
    return {
        "patch_embedding/kernel": (per_pixel * scale[:, None]).reshape(kernel.shape).astype(np.float32),
        "patch_embedding/bias": bias.astype(np.float32),
    }
