"""Encode texts without waste: each distinct text once, in batches of similar length, each as long as its longest text."""

from __future__ import annotations

import warnings
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


class TruncatedTexts:
    """Counts the texts that an encoder truncates, and warns of the first ones."""

    def __init__(self, name: str, context: int):
        """Take the encoder's name and the most tokens that a text may have."""
        self._name, self._context = name, context
        self.total = 0

    def count(self, truncated: Sequence[bool]) -> None:
        """Count which of the distinct texts that were just tokenized were truncated."""
        number = sum(truncated)
        if number and not self.total:
            warnings.warn(
                f"{number} of {len(truncated)} distinct prompts exceed the {self._context} tokens of {self._name} and were "
                "truncated; this is said once",
                stacklevel=2,
            )
        self.total += number
