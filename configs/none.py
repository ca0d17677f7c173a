"""The same network without attention: tokens do not interact until the mean over all of them.

The lower bound: what attention adds to an arm is the difference from this one.

Command: python main.py --config=configs/none.py
Expected: with patches of 4×4 a test top-1 / top-5 of 35.23 ± 0.76% / 65.95 ± 0.94% (95% intervals, n = 5) after 50
epochs, on an H100: docs/results/compact. Not measured yet with patches of 2×2.
"""

from configs import default


def get_config():
    """Leave the attention out and nothing else."""
    config = default.get_config()
    config.model.attention = "none"
    return config
