"""Real photos and the real built-in encoder, shared by all tests."""

import os
from pathlib import Path

import pytest
import skimage

PHOTOS = Path(skimage.__file__).parent / "data"
DATA = Path(os.environ.get("CROSSALIGN_DATA", Path(__file__).parents[2] / "shared" / "data"))


def pytest_collection_modifyitems(items):
    if not DATA.is_dir():
        for item in items:
            if "shared" in item.keywords:
                item.add_marker(pytest.mark.skip(reason=f"the measuring data is not at {DATA}"))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CROSSALIGN_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def builtin():
    from crossalign.encoders import load_encoder

    return load_encoder("builtin", "cpu")


@pytest.fixture(scope="session")
def untrained():
    """An untrained ViT-B/32: real architecture and preprocessing, random weights."""
    from crossalign.encoders import load_encoder

    with pytest.warns(UserWarning, match="untrained"):
        return load_encoder("open_clip:ViT-B-32/random", "cpu")
