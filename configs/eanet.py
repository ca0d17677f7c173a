"""EANet on CIFAR-100 with the hyperparameters of the Keras example (external attention).

Source: keras.io, "Image classification with EANet"; arXiv 2105.02358.
Command: python main.py --config=configs/eanet.py
Expected: test top-1 / top-5 44.51% / 74.44%, n = 1 (seed 0), 6.1 hours on two x86-64 CPU cores at commit 3f72e28,
beside other work: docs/results/example. With patches of 4×4 45.44 ± 1.01% / 74.98 ± 1.05% (95% intervals, n = 5), on an
H100: docs/results/compact.
"""

from configs import default


def get_config():
    """Return the default, which is this arm."""
    return default.get_config()
