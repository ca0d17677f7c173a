"""What the parity tests need beside the Keras networks themselves, which are in benchmarks.peers.keras_model."""

import jax
import keras
import numpy as np
import pytest

from benchmarks.sizes import Sizes
from configs import default
from eanet.model.vision_transformer import VisionTransformer, build_model


def randomize(model: keras.Model, seed: int = 0, scale: float = 0.1) -> keras.Model:
    """Overwrite every trainable weight, biases too, with normal numbers; layer norms' scales lie about 1."""
    generator = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        values = generator.normal(scale=scale, size=variable.shape).astype(np.float32)
        variable.assign(values + 1 if variable.name == "gamma" else values)
    return model


def block_outputs(model: keras.Model) -> keras.Model:
    """Return the sub-model whose outputs are the residual stream after every block."""
    sums = [layer.output for layer in model.layers if isinstance(layer, keras.layers.Add)]
    return keras.Model(model.inputs, sums[1::2])


def counterpart(sizes: Sizes) -> VisionTransformer:
    """Build this project's network of the same sizes."""
    config = default.get_config().model
    fields = {"attention": sizes.attention, "patch_size": sizes.patch, "dim": sizes.width, "mlp_dim": sizes.hidden}
    fields |= {"num_heads": sizes.heads, "head_dim": sizes.width, "dim_coefficient": sizes.coefficient}
    fields |= {f"{place}_dropout": sizes.dropout for place in ("attention", "projection", "mlp")}
    config.update(fields | {"depth": sizes.depth})
    return build_model(config, sizes.classes)


@pytest.fixture
def keras_ranks():
    """Let Keras broadcast over ranks, which this project's own tests forbid."""
    with jax.numpy_rank_promotion("allow"):
        yield
