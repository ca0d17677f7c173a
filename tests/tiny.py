"""The smallest run that still has every part: two epochs on digits, the last batch of each ragged."""

from configs import digits


def tiny_config(**overrides):
    """Give digits at toy size; keys are dotted fields with __ for the dot, train__epochs=1 say."""
    config = digits.get_config()
    fields = {
        "data__train_limit": 100,
        "model__dim": 16,
        "model__mlp_dim": 16,
        "model__depth": 1,
        "model__patch_size": 4,
        "train__batch_size": 32,
        "train__epochs": 2,
        "checkpoint__every_epochs": 1,
        "wandb__mode": "disabled",
    }
    for name, value in (fields | overrides).items():
        *path, leaf = name.split("__")
        node = config
        for part in path:
            node = node[part]
        node[leaf] = value
    return config
