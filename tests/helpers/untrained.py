"""A loaded run with other networks than it trained: what is tested of every attention needs no training of each."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from eanet.model.vision_transformer import build_model
from helpers.tiny import tiny_config


def with_attention(run, attention):
    """Return the run with one network of random parameters that has another attention."""
    config = tiny_config(model__attention=attention)
    model = build_model(config.model, len(run.class_names))
    image = jnp.zeros((1, *run.experiment.image_shape))
    params = jax.tree.map(lambda x: np.asarray(x)[None], jax.jit(model.init)(jax.random.key(0), image)["params"])
    experiment = dataclasses.replace(run.experiment, model=model)
    return dataclasses.replace(run, config=config, experiment=experiment, params=params)
