"""An encoder: the feature of an image is its mean colour, that of a text the mean of the colours that it names."""

import hashlib

import torch
import torch.nn.functional as F
from matplotlib.colors import CSS4_COLORS, to_rgb

from crossalign.views import Preprocessing


class Paint:
    name = "paint"
    width = 4
    logit_scale = 20.0
    fingerprint = hashlib.blake2b(b"paint, version 1").hexdigest()
    preprocessing = Preprocessing(size=(32, 32), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

    def __init__(self, device):
        self.device = device

    def encode_images(self, pixels):
        colours = self.preprocessing.normalise(pixels.to(self.device)).mean(dim=(2, 3)).cpu()
        return self._normalised(colours)

    def encode_texts(self, texts):
        words = [text.lower().strip(".").split() for text in texts]
        named = [[to_rgb(word) for word in text if word in CSS4_COLORS] for text in words]
        colours = [torch.tensor(rgb or [(0.5, 0.5, 0.5)]).mean(0) for rgb in named]
        return self._normalised(2 * torch.stack(colours) - 1)

    def _normalised(self, colours):
        return F.normalize(F.pad(colours, (0, 1), value=0.1), dim=-1)  # the fourth number: grey is not the zero vector


def load(spec, device):
    """Mean colours and the names of colours."""
    return Paint(device)
