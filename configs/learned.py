"""Self-attention, 4 heads of width 32, with learned keys or values: --config=configs/learned.py:key, :value or :both.

The steps from self-attention (configs/vit.py:4x32) to external attention: keys or values that are parameters, one for
each token position and head, instead of computed from the input. They are as many parameters as the kernel that they
replace where there are as many tokens as channels (patches of 4×4), and four times as many with patches of 2×2.

Source: "Static Key Attention in Vision" (arXiv 2412.07049), for the keys.
Command: python main.py --config=configs/learned.py:key
Expected: not measured yet at 50 epochs.
"""

from configs import vit
from eanet.errors import UserError

_SOURCES = {"key": ("learned", "input"), "value": ("input", "learned"), "both": ("learned", "learned")}


def get_config(learned: str = "both"):
    """Exchange what keys and values are made of, and nothing else."""
    if learned not in _SOURCES:
        raise UserError(f"--config=configs/learned.py:{learned}; accepted: {', '.join(_SOURCES)}")
    config = vit.get_config("4x32")
    config.model.key_source, config.model.value_source = _SOURCES[learned]
    return config
