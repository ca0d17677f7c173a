"""The same network with a depthwise 3×3 convolution of the token grid: is mixing neighbours enough?

With 241 channels it has 0.2% fewer parameters than configs/eanet.py.

Source: Yu et al., "MetaFormer Baselines for Vision" (arXiv 2210.13452), ConvFormer.
Command: python main.py --config=configs/conv.py
Expected: not measured yet at 50 epochs. After 5, with patches of 4×4, a test top-1 of 26.02 ± 6.16%
(95% interval, n = 2; docs/results).
"""

from configs import default


def get_config():
    """Change only the attention."""
    config = default.get_config()
    config.model.attention = "conv"
    config.model.conv_dim = 241
    return config
