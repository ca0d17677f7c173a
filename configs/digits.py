"""EANet on scikit-learn's handwritten digits: 1,797 real 8×8 images, no network, under a minute on a CPU.

Command: python main.py --config=configs/digits.py
"""

from configs import default


def get_config():
    """Shrink the default to 16 tokens and spare the digits the flip that would turn them into others."""
    config = default.get_config()
    config.data.name = "digits"
    config.model.dim = 32
    config.model.mlp_dim = 64
    config.model.depth = 4
    config.model.attention_dropout = 0.0
    config.model.projection_dropout = 0.1
    config.model.mlp_dropout = 0.1
    config.augment.flip = False
    config.augment.rotation = 0.03
    config.augment.zoom = 0.1
    config.optimizer.learning_rate = 3e-3
    config.optimizer.schedule = "cosine"
    config.train.batch_size = 64
    config.train.epochs = 40
    config.checkpoint.every_epochs = 10
    return config
