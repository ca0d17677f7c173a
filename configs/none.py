"""The same network without attention: every token is on its own until the mean over all of them.

The lower end of the scale: what attention adds is what an arm has above this one.

Command: python main.py --config=configs/none.py
Expected: not measured yet at 50 epochs.
"""

from configs import default


def get_config():
    """Leave the attention out and nothing else."""
    config = default.get_config()
    config.model.attention = "none"
    return config
