"""Real photos and the real built-in encoder, shared by all tests."""

import os
from contextlib import suppress
from pathlib import Path

# A hub that cannot be reached is asked again and again for most of a minute; libraries read this when they are imported.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import skimage
from hypothesis import settings

settings.register_profile("whatever the load", deadline=None, max_examples=50)
settings.load_profile("whatever the load")

PHOTOS = Path(skimage.__file__).parent / "data"
DATA = Path(os.environ.get("CROSSALIGN_DATA", Path(__file__).parents[2] / "shared" / "data"))

LONGEST = ("test_distributed", "test_cli", "test_web", "test_faults", "test_classify_output", "test_docs")
"""Files that are begun first, so that no worker ends with one of them while the other has nothing left to do."""


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))
    if not DATA.is_dir():
        for item in items:
            if "shared" in item.keywords:
                item.add_marker(pytest.mark.skip(reason=f"the measuring data is not at {DATA}"))


@pytest.fixture(scope="session", autouse=True)
def shared_cache(tmp_path_factory):
    """A cache for what is made once for all tests and workers, and for fixtures that live longer than a test."""
    base = tmp_path_factory.getbasetemp()
    cache = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared-cache"
    cache.mkdir(exist_ok=True)
    os.environ["CROSSALIGN_CACHE"] = str(cache)
    return cache


@pytest.fixture(autouse=True)
def _own_cache(shared_cache, tmp_path_factory, monkeypatch):
    """Give each test features of its own; what depends on the encoder alone is shared."""
    cache = tmp_path_factory.mktemp("cache")
    for name in ("anchors", "towers"):
        (shared_cache / name).mkdir(exist_ok=True)
        with suppress(OSError):  # Windows may not allow it; then each test makes its own.
            (cache / name).symlink_to(shared_cache / name)
    monkeypatch.setenv("CROSSALIGN_CACHE", str(cache))


@pytest.fixture(scope="session")
def builtin():
    from crossalign.encoders import load_encoder

    return load_encoder("builtin", "cpu", runtime="torch", precision="f32")


@pytest.fixture(scope="session")
def untrained():
    """An untrained ViT-B/32: real architecture and preprocessing, random weights."""
    from crossalign.encoders import load_encoder

    with pytest.warns(UserWarning, match="untrained"):
        return load_encoder("open_clip:ViT-B-32/random", "cpu", runtime="torch", precision="f32")
