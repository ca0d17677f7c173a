"""The same network with self-attention; 4 heads of width 64 as in the Keras example, or --config=configs/vit.py:4x32.

The argument is HEADSxWIDTH; width 0 stands for dim // heads. 4x32 has about EANet's parameters, 4x16 about its
multiplications: python -m eanet.cost --config=configs/vit.py --match=configs/eanet.py.

Source: keras.io, "Image classification with EANet", attention_type="self_attention".
Command: python main.py --config=configs/vit.py
Expected: with patches of 4×4, configs/vit.py:4x32 has a test top-1 / top-5 of 40.99 ± 1.48% / 70.47 ± 1.64% (95%
intervals, n = 5) after 50 epochs, on an H100: docs/results/compact. Not measured yet with patches of 2×2.
"""

import re

from configs import default
from eanet.errors import UserError


def get_config(heads: str = "4x64"):
    """Change the attention, and with it the dropout after its projection."""
    sizes = re.fullmatch(r"(\d+)x(\d+)", heads)
    if not sizes:
        raise UserError(f"--config=configs/vit.py:{heads}; accepted: HEADSxWIDTH, e.g. 4x64")
    config = default.get_config()
    config.model.attention = "self"
    config.model.num_heads, config.model.head_dim = int(sizes[1]), int(sizes[2])
    config.model.projection_dropout = 0.0  # the example's MultiHeadAttention has none
    return config
