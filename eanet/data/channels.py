"""Mean and deviation of the channels of images."""

import numpy as np


def describe_channels(train_images: np.ndarray) -> dict[str, list[float]]:
    """Return mean and deviation per channel, in float64 and in pieces: the images as floats would fill the memory."""
    total = np.zeros((2, train_images.shape[-1]))
    for start in range(0, len(train_images), 1000):
        piece = train_images[start : start + 1000].astype(np.float64)
        total += [piece.sum((0, 1, 2)), np.square(piece).sum((0, 1, 2))]
    mean, square = total / (train_images.size / train_images.shape[-1])
    # A channel that never changes is divided by 1, not by 0.
    deviation = np.where(square > mean**2, np.sqrt(np.maximum(square - mean**2, 0)), 1.0)
    return {"mean": mean.tolist(), "deviation": deviation.tolist()}
