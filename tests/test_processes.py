"""A classifier in other processes than its own: forked ones, and ones that it is sent to."""

import multiprocessing
import os
import pickle
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from conftest import PHOTOS
from crossalign import Classifier
from crossalign.encoders import _openvino, _processes
from crossalign.encoders._runtime import preferred_ways
from crossalign.errors import InputError

CAT = str(PHOTOS / "chelsea.png")
FORK = """
import os, sys
from crossalign import Classifier, InputError
image, runtime = sys.argv[1:]
classify = Classifier(["cat", "dog"], method="clip", runtime=runtime)
print(classify(image)[0].label, flush=True)
for make in (lambda: classify, lambda: Classifier(["cat", "dog"], method="clip", runtime=runtime)):
    child = os.fork()
    if not child:
        try:
            print("forked:", make()(image)[0].label, flush=True)
        except InputError as error:
            print("forked:", error, flush=True)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.slow
def test_a_forked_worker_labels_images_and_does_not_hang():
    # With two threads torch has a pool, which a forked process lacks.
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-c", FORK, CAT, "torch"], capture_output=True, text=True, timeout=120, env=environment
    )
    assert done.stdout.split() == ["cat", "forked:", "cat", "forked:", "cat"], done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.slow
def test_with_openvino_a_forked_worker_refuses_or_takes_torch():
    """A classifier that was made before the fork refuses; one that is made after it takes torch."""
    pytest.importorskip("openvino")
    done = subprocess.run([sys.executable, "-c", FORK, CAT, "auto"], capture_output=True, text=True, timeout=120)
    label, before, after = done.stdout.splitlines()
    assert (label, after) == ("cat", "forked: cat"), done.stderr
    assert "lite0 on openvino was loaded before this process was forked" in before


def test_openvino_is_not_there_in_a_process_that_is_forked_from_its_own(monkeypatch):
    pytest.importorskip("openvino")
    monkeypatch.setattr(_openvino, "_used_in", -1)
    assert preferred_ways(torch.device("cpu"), "auto", "f32") == [("torch", "f32")]
    with pytest.raises(
        InputError, match="openvino has none, since it is not installed, was started before this process was"
    ):
        preferred_ways(torch.device("cpu"), "openvino", "f32")


def test_what_stands_no_fork_refuses_in_a_sentence(builtin, monkeypatch):
    classify = Classifier(["cat", "dog"], encoder=builtin, method="clip")
    monkeypatch.setattr(_processes.os, "getpid", lambda: -1)
    fast = type("Runtime", (), {"engine": "openvino", "precision": "f32"})()
    monkeypatch.setattr(builtin, "runtime", fast, raising=False)
    with pytest.raises(InputError, match="lite0 on openvino was loaded before this process was forked"):
        classify(CAT)


def test_a_pickled_classifier_gives_the_same_labels(builtin):
    classify = Classifier(["cat", "dog", "cup of coffee"], encoder=builtin, views=3)
    content = pickle.dumps(classify)
    assert len(content) < 200_000  # The encoder's weights are not in it.
    (ours,), (theirs,) = classify(CAT), pickle.loads(content)(CAT)
    assert ours == theirs


@pytest.mark.slow
def test_a_classifier_is_sent_to_a_spawned_worker(builtin):
    classify = Classifier(["cat", "dog"], encoder=builtin, method="clip")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        ((found,),) = pool.map(classify, [CAT])
    assert found.label == "cat"


def test_other_weights_are_refused_where_it_is_unpickled(builtin):
    sent = _processes.SentEncoder.of(builtin)
    with pytest.raises(InputError, match="encoder builtin:lite0 has other weights here than where"):
        replace(sent, fingerprint="other").load()
