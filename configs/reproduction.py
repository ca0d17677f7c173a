"""The Keras example's two published results, and the same arms with self-attention, which has none.

keras2021  tf.keras and TensorFlow Addons: 43.91% top-1, 74.71% top-5 published.
keras3     Keras 3 as printed on the page: 17.26% top-1, 38.94% top-5 published.
vit2021, vit3  the same with self-attention; the page claims about 41% / 73% without a log.

Command: python main.py --config=configs/reproduction.py:keras3, or all of them: sweeps/reproduction.yaml
Explained in docs/reproduction.md. Expected at 50 epochs: the published results; not measured yet.
"""

from configs import default, vit

ARMS = ("keras2021", "keras3", "vit2021", "vit3")


def get_config(arm: str = "keras3"):
    """Return one of ARMS."""
    if arm not in ARMS:
        raise ValueError(f"arm {arm!r}; accepted: {', '.join(ARMS)}")
    config = vit.get_config() if arm.startswith("vit") else default.get_config()
    config.optimizer.variant = "keras"
    if arm.endswith("2021"):
        config.model.gelu = "erf"
        config.augment.contrast_per_batch = True
        # TensorFlow Addons did not multiply the decay by the learning rate: 1e-4 = 0.1 × 1e-3.
        config.optimizer.weight_decay = 0.1
    else:
        config.augment.contrast_upward = True
        config.augment.contrast_clip = True
        # The clip is the point of this arm, so the guard against it only warns.
        config.guard.input_difference = 1e9
    return config
