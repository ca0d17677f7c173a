"""External attention equals the paper's equations and the official PyTorch code's formulation.

Guo et al., "Beyond Self-attention" (arXiv 2105.02358): sections 3.2 and 3.3; the official classification
network sets S = 256 // coef slots and widens the tokens coef times before it splits them into heads · coef.
Shape suffixes: B batch, N tokens, D channels, H heads, K channels of one head, S memory slots.
"""

import jax
import numpy as np
import pytest

from eanet.attention.external import ExternalAttention

pytestmark = pytest.mark.parity

torch = pytest.importorskip("torch")

BATCH, TOKENS = 2, 12


class OfficialExternalAttention(torch.nn.Module):
    """Multi-head external attention as the authors' classification network defines it."""

    def __init__(self, dim: int, heads: int, coefficient: int):
        super().__init__()
        wide, self.heads = dim * coefficient, heads * coefficient
        slots, head_dim = 256 // coefficient, wide // self.heads
        self.widen = torch.nn.Linear(dim, wide)
        self.memory_key = torch.nn.Linear(head_dim, slots)
        self.memory_value = torch.nn.Linear(slots, head_dim)
        self.narrow = torch.nn.Linear(wide, dim)

    def forward(self, x_BND: torch.Tensor) -> torch.Tensor:
        batch, tokens, _ = x_BND.shape
        x_BHNK = self.widen(x_BND).unflatten(-1, (self.heads, -1)).movedim(2, 1)
        map_BHNS = torch.nn.functional.softmax(self.memory_key(x_BHNK), dim=2)  # over the tokens
        map_BHNS = map_BHNS / (map_BHNS.sum(dim=3, keepdim=True) + 1e-9)  # l1 over the slots
        return self.narrow(self.memory_value(map_BHNS).movedim(1, 2).reshape(batch, tokens, -1))


def parameters(module: OfficialExternalAttention) -> dict:
    """Return the torch module's weights as this project's tree."""
    names = {"expand": "widen", "memory_key": "memory_key", "memory_value": "memory_value", "project": "narrow"}
    layers = {ours: getattr(module, theirs) for ours, theirs in names.items()}
    return {
        ours: {"kernel": layer.weight.detach().numpy().T, "bias": layer.bias.detach().numpy()}
        for ours, layer in layers.items()
    }


@pytest.mark.parametrize("merge_linear", [False, True], ids=["stepwise", "merged"])
@pytest.mark.parametrize(("dim", "heads", "coefficient"), [(64, 4, 4), (48, 6, 2), (32, 2, 1)])
def test_multi_head_equals_the_official_code(dim, heads, coefficient, merge_linear):
    torch.manual_seed(0)
    theirs = OfficialExternalAttention(dim, heads, coefficient)
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ours = ExternalAttention(heads, coefficient, memory_size=256 // coefficient, merge_linear=merge_linear)
    x_BND = np.random.default_rng(0).normal(size=(BATCH, TOKENS, dim)).astype(np.float32)
    expected = theirs(torch.from_numpy(x_BND)).detach().numpy()
    assert expected.std() > 0.1
    out = jax.jit(ours.apply)({"params": parameters(theirs)}, x_BND)
    # The heads sum up to 256 products of which single ones are a hundred times the tolerance.
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_single_head_equals_the_equations_of_the_paper():
    generator = np.random.default_rng(1)
    tokens, channels, slots = 10, 6, 7
    F, M_k, M_v = (generator.normal(size=shape) for shape in ((tokens, channels), (slots, channels), (slots, channels)))
    hat = np.exp(F @ M_k.T)
    for j in range(slots):
        hat[:, j] = hat[:, j] / sum(hat[k, j] for k in range(tokens))
    alpha = np.stack([hat[i] / sum(hat[i, k] for k in range(slots)) for i in range(tokens)])
    expected = alpha @ M_v

    # The paper's single head has no maps around the memories and no biases.
    identity = {"kernel": np.eye(channels, dtype=np.float32), "bias": np.zeros(channels, np.float32)}
    params = {
        "expand": identity,
        "memory_key": {"kernel": M_k.T.astype(np.float32)},
        "memory_value": {"kernel": M_v.astype(np.float32)},
        "project": identity,
    }
    module = ExternalAttention(num_heads=1, dim_coefficient=1, memory_size=slots, memory_bias=False)
    x = F[None].astype(np.float32)
    out, state = module.apply({"params": params}, x, mutable="intermediates")
    np.testing.assert_allclose(state["intermediates"]["attention_map"][0][0, :, 0], alpha, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(out[0], expected, rtol=1e-5, atol=1e-5)
