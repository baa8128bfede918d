"""What the library does to the process that it is used in: nothing; and what the command line does to its own."""

import os
import subprocess
import sys

import pytest


def in_a_process(code, tmp_path, **environment):
    kept = {"HOME": str(tmp_path), "CROSSALIGN_CACHE": os.environ["CROSSALIGN_CACHE"], "OMP_NUM_THREADS": "1"}
    kept["PYTHONPATH"] = os.environ.get("PYTHONPATH", "")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], env=kept | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_nothing_is_reported_over_the_network(tmp_path):
    """What exports and quantises is watched in test_security.py."""
    code = """
import sys
from crossalign.encoders import load_encoder
assert load_encoder("builtin", "cpu", runtime="openvino").runtime.engine == "openvino"
assert "openvino_telemetry" not in sys.modules
"""
    in_a_process(code, tmp_path)
    assert not (tmp_path / "intel").exists()


@pytest.mark.slow
def test_importing_and_loading_change_nothing_in_the_process(tmp_path):
    """Neither environment, warning filters, logging nor stand-ins for modules; and the level that the user has set stays."""
    code = """
import logging, os, sys, warnings
import torch, PIL.Image
before = dict(os.environ), list(warnings.filters)
logging.disable(logging.INFO)
import crossalign.encoders._runtime, crossalign.encoders._openvino, crossalign.encoders._hub
from crossalign.encoders._openvino import _quiet
from crossalign.encoders import load_encoder
assert dict(os.environ) == before[0]
with _quiet():
    pass
load_encoder("builtin", "cpu", runtime="openvino", precision="f32")
assert dict(os.environ) == before[0]
assert logging.root.manager.disable == logging.INFO
assert logging.root.handlers == []
assert not [name for name, module in sys.modules.items() if module is None]
"""
    in_a_process(code, tmp_path)


@pytest.mark.slow
def test_importing_the_cluster_changes_nothing_beyond_what_ray_does(tmp_path):
    pytest.importorskip("ray.data")
    code = """
import logging, os
import ray, ray.data
before = dict(os.environ), logging.getLogger("ray").level
import crossalign.distributed
assert (dict(os.environ), logging.getLogger("ray").level) == before
"""
    in_a_process(code, tmp_path)


@pytest.mark.slow
def test_the_command_line_sets_its_process_up(tmp_path):
    code = """
import os
from crossalign.cli import main
assert "OMP_WAIT_POLICY" not in os.environ
main(["methods"], standalone_mode=False)
assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
"""
    in_a_process(code, tmp_path)
    in_a_process(
        code.replace("PASSIVE", "ACTIVE").replace('assert "OMP_WAIT_POLICY" not in os.environ', ""),
        tmp_path,
        OMP_WAIT_POLICY="ACTIVE",
    )
