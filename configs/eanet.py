"""EANet on CIFAR-100 with the hyperparameters of the Keras example (external attention).

Source: keras.io, "Image classification with EANet"; arXiv 2105.02358.
Command: python main.py --config=configs/eanet.py
Expected: not measured yet at 50 epochs.
"""

from configs import default


def get_config():
    """Return the default, which is this arm."""
    return default.get_config()
