"""The same network without attention: tokens do not interact until the mean over all of them.

The lower bound: what attention adds to an arm is the difference from this one.

Command: python main.py --config=configs/none.py
Expected: not measured yet at 50 epochs.
"""

from configs import default


def get_config():
    """Leave the attention out and nothing else."""
    config = default.get_config()
    config.model.attention = "none"
    return config
