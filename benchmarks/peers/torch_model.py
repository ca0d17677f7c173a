"""The same two networks in PyTorch, in our own words, to be timed against; shapes as in eanet.attention."""

import torch
from torch import nn
from torch.nn import functional

from benchmarks.sizes import CHANNELS, Sizes


class ExternalAttention(nn.Module):
    """Attend to two learned memories, layer by layer as the example has it."""

    def __init__(self, dim: int, heads: int, coefficient: int, dropout: float):
        super().__init__()
        self.heads = heads * coefficient
        head_dim, slots = dim // heads, dim // coefficient
        self.expand, self.project = nn.Linear(dim, dim * coefficient), nn.Linear(dim * coefficient, dim)
        self.memory_key, self.memory_value = nn.Linear(head_dim, slots), nn.Linear(slots, head_dim)
        self.map_dropout, self.out_dropout = nn.Dropout(dropout), nn.Dropout(dropout)

    def forward(self, x_BND: torch.Tensor) -> torch.Tensor:
        logits_BHNS = self.memory_key(self.expand(x_BND).unflatten(-1, (self.heads, -1)).transpose(1, 2))
        map_BHNS = logits_BHNS.softmax(dim=2)
        map_BHNS = self.map_dropout(map_BHNS / (1e-9 + map_BHNS.sum(dim=-1, keepdim=True)))
        return self.out_dropout(self.project(self.memory_value(map_BHNS).transpose(1, 2).flatten(2)))


class SelfAttention(nn.Module):
    """Attend to the other tokens, by PyTorch's own fused product."""

    def __init__(self, dim: int, heads: int, head_dim: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query, self.key, self.value = (nn.Linear(dim, heads * head_dim) for _ in range(3))
        self.out = nn.Linear(heads * head_dim, dim)

    def forward(self, x_BND: torch.Tensor) -> torch.Tensor:
        query, key, value = (
            layer(x_BND).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        dropout = self.dropout if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
        return self.out(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """One pre-norm block."""

    def __init__(self, attention: nn.Module, dim: int, hidden: int, dropout: float):
        super().__init__()
        self.attention_norm, self.mlp_norm = nn.LayerNorm(dim, 1e-5), nn.LayerNorm(dim, 1e-5)
        self.attention = attention
        gelu = nn.GELU(approximate="tanh")
        layers = (nn.Linear(dim, hidden), gelu, nn.Dropout(dropout), nn.Linear(hidden, dim), nn.Dropout(dropout))
        self.mlp = nn.Sequential(*layers)

    def forward(self, x_BND: torch.Tensor) -> torch.Tensor:
        x_BND = x_BND + self.attention(self.attention_norm(x_BND))
        return x_BND + self.mlp(self.mlp_norm(x_BND))


class VisionTransformer(nn.Module):
    """Classify [batch, height, width, channels]; sizes are the example's constants."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        width = sizes.width
        self.patch = sizes.patch
        self.embedding = nn.Linear(CHANNELS * sizes.patch**2, width)
        self.position = nn.Parameter(torch.empty(sizes.tokens, width).uniform_(-0.05, 0.05))
        self.blocks = nn.Sequential(
            *(Block(self._attention(sizes), width, sizes.hidden, sizes.dropout) for _ in range(sizes.depth))
        )
        self.classifier = nn.Linear(width, sizes.classes)

    @staticmethod
    def _attention(sizes: Sizes) -> nn.Module:
        if sizes.attention == "external":
            return ExternalAttention(sizes.width, sizes.heads, sizes.coefficient, sizes.dropout)
        return SelfAttention(sizes.width, sizes.heads, sizes.width, sizes.dropout)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        patch = self.patch
        grid = images.unflatten(2, (-1, patch)).unflatten(1, (-1, patch)).transpose(2, 3)  # rows, columns, patch
        x_BND = self.embedding(grid.flatten(3).flatten(1, 2)) + self.position
        return self.classifier(self.blocks(x_BND).mean(dim=1))
