"""External attention against self-attention in a small vision transformer, in JAX and Flax."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eanet.attention import ExternalAttention, SelfAttention
    from eanet.model.vision_transformer import VisionTransformer, build_model
    from eanet.run.trained import load_run

__all__ = ["ExternalAttention", "SelfAttention", "VisionTransformer", "build_model", "load_run"]
_HOMES = {"ExternalAttention": "attention", "SelfAttention": "attention", "load_run": "run.trained"}


# Imported when they are first asked for: a command that listens for signals from its start cannot wait for Flax.
def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES.get(name, 'model.vision_transformer')}"), name)
