"""The same network with self-attention, 4 heads of width 64 as in the Keras example.

Source: keras.io, "Image classification with EANet", attention_type="self_attention".
Command: python main.py --config=configs/vit.py
Expected: not measured yet at 50 epochs.
"""

from configs import default


def get_config():
    """Exchange the attention and nothing else."""
    config = default.get_config()
    config.model.attention = "self"
    config.model.projection_dropout = 0.0  # the example's MultiHeadAttention has none
    return config
