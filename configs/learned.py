"""Self-attention, 4 heads of width 32, with learned keys or values: --config=configs/learned.py:key, :value or :both.

The steps from self-attention (configs/vit.py:4x32) to external attention: keys or values that are parameters, one for
each token position and head, instead of computed from the input. With patches of 4×4 (64 tokens, 64 channels) they have
as many parameters as the kernel they replace; with 2×2, four times as many.

Source: "Static Key Attention in Vision" (arXiv 2412.07049), for the keys.
Command: python main.py --config=configs/learned.py:key
Expected: not measured yet at 50 epochs. After 5, with patches of 4×4, a test top-1 in % of
key 28.96 ± 3.19, value 27.45 ± 0.93, both 20.88 ± 1.80 (95% intervals, n = 3; docs/results).
"""

from configs import vit
from eanet.errors import UserError

ARMS = {"key": ("learned", "input"), "value": ("input", "learned"), "both": ("learned", "learned")}


def get_config(learned: str = "both"):
    """Change what keys and values are made of, and nothing else."""
    if learned not in ARMS:
        raise UserError(f"--config=configs/learned.py:{learned}; accepted: {', '.join(ARMS)}")
    config = vit.get_config("4x32")
    config.model.key_source, config.model.value_source = ARMS[learned]
    return config
