"""The attentions that can be compared. To add one, add a file and a line in ATTENTIONS: docs/your-own-attention.md.

An attention is a Linen module: module(x, deterministic=…) maps [batch, tokens, channels] to the same shape. A dataclass
field of the module with the name of a field of config.model gets the value of that field. The module raises ValueError
for a field that it cannot use, with a message that begins with field=value, and for an input that does not fit.
"""

import dataclasses

import flax.linen as nn

from eanet.attention.convolution import Convolution
from eanet.attention.external import ExternalAttention
from eanet.attention.induced import InducedAttention
from eanet.attention.linear import LinearAttention
from eanet.attention.random_mixing import RandomMixing
from eanet.attention.self_attention import SelfAttention

ATTENTIONS: dict[str, type[nn.Module] | None] = {
    "external": ExternalAttention,
    "self": SelfAttention,
    "induced": InducedAttention,
    "linear": LinearAttention,
    "random": RandomMixing,
    "conv": Convolution,
    "none": None,  # blocks without attention
}


def field_names(name: str) -> frozenset[str]:
    """Return the names of the dataclass fields of an attention; empty for none."""
    attention = ATTENTIONS[name]
    return frozenset(field.name for field in dataclasses.fields(attention)) if attention else frozenset()
