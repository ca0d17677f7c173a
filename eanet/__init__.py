"""External attention against self-attention in a small vision transformer, in JAX and Flax."""

from eanet.attention import ExternalAttention, SelfAttention
from eanet.model import VisionTransformer, build_model

__all__ = ["ExternalAttention", "SelfAttention", "VisionTransformer", "build_model"]
