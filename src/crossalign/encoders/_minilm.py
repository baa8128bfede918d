"""all-MiniLM-L6-v2's transformer in torch's own layers.

The `transformers` package has the same model; importing it alone takes longer than classifying an image.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

LAYERS, HEADS, WIDTH, INNER, EPSILON = 6, 12, 384, 1536, 1e-12


class MiniLM(nn.Module):
    """BERT (Devlin et al., NAACL 2019) with 6 layers of width 384, without its pooler."""

    def __init__(self, weights: Mapping[str, Tensor]):
        """Take the weights under the names that `transformers` gives them."""
        super().__init__()
        self.words = nn.Embedding.from_pretrained(weights["embeddings.word_embeddings.weight"])
        # All texts are of the first of two types, so its embedding is the same as a shift of all positions.
        shift = weights["embeddings.token_type_embeddings.weight"][0]
        self.positions = nn.Embedding.from_pretrained(weights["embeddings.position_embeddings.weight"] + shift)
        self.norm = nn.LayerNorm(WIDTH, EPSILON)
        self.norm.load_state_dict(_part(weights, "embeddings.LayerNorm."))
        self.layers = nn.ModuleList(_layer(_part(weights, f"encoder.layer.{number}.")) for number in range(LAYERS))

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Encode tokens (B, L), of which mask (B, L) marks the real ones, to states (B, L, 384)."""
        places = torch.arange(tokens.shape[1], device=tokens.device)
        states: Tensor = self.norm(self.words(tokens) + self.positions(places))
        for layer in self.layers:
            states = layer(states, src_key_padding_mask=~mask)
        return states


def _layer(weights: Mapping[str, Tensor]) -> nn.Module:
    layer = nn.TransformerEncoderLayer(
        WIDTH, HEADS, INNER, dropout=0.0, activation="gelu", layer_norm_eps=EPSILON, batch_first=True
    )
    names = {
        "self_attn.out_proj": "attention.output.dense",
        "norm1": "attention.output.LayerNorm",
        "linear1": "intermediate.dense",
        "linear2": "output.dense",
        "norm2": "output.LayerNorm",
    }
    state = {f"{ours}.{kind}": weights[f"{theirs}.{kind}"] for ours, theirs in names.items() for kind in ("weight", "bias")}
    for kind in ("weight", "bias"):
        parts = [weights[f"attention.self.{part}.{kind}"] for part in ("query", "key", "value")]
        state[f"self_attn.in_proj_{kind}"] = torch.cat(parts)
    layer.load_state_dict(state)
    return layer


def _part(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
