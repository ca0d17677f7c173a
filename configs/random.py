"""The same network with self-attention whose maps are random and frozen: is any mixing of the tokens enough?

Heads of width 64 give it 1.2% fewer parameters than configs/eanet.py. The maps are not parameters: all
seeds share those of model.mixing_seed. Their rows are nearly flat, so that each token receives almost the mean of all.

Source: Yu et al., "MetaFormer Baselines for Vision" (arXiv 2210.13452), RandFormer.
Command: python main.py --config=configs/random.py
Expected: not measured yet at 50 epochs. After 5, with patches of 4×4, a test top-1 of 21.25 ± 8.58%
(95% interval, n = 2; docs/results).
"""

from configs import default


def get_config():
    """Change only the attention."""
    config = default.get_config()
    config.model.attention = "random"
    return config
