"""Encode texts without waste: each distinct text once, in batches of like length, cut to the longest of the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def encode_distinct(
    texts: Sequence[str],
    tokenize: Callable[[list[str]], tuple[Tensor, Tensor]],
    encode: Callable[[Tensor, Tensor], Tensor],
    batch_size: int = 128,
) -> Tensor:
    """Encode texts to (K, D).

    Args:
        texts: K texts; repeats are encoded once.
        tokenize: distinct texts to (tokens (k, L) padded at the right, lengths (k,)).
        encode: tokens (b, l) and lengths (b,), l the longest of the batch, to (b, D).
        batch_size: the most texts in a batch.
    """
    distinct = list(dict.fromkeys(texts))
    if not distinct:
        raise ValueError("no texts to encode")
    place = {text: row for row, text in enumerate(distinct)}
    tokens, lengths = tokenize(distinct)
    order = torch.argsort(lengths, stable=True)
    parts = [encode(tokens[rows][:, : int(lengths[rows[-1]])], lengths[rows]) for rows in order.split(batch_size)]
    features = torch.cat(parts)[torch.argsort(order)]
    return features[torch.tensor([place[text] for text in texts])]
