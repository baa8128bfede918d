"""How an image tower is computed: what is chosen, what is kept, and that it agrees with torch in float32."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch

from command import fails, run
from conftest import PHOTOS
from crossalign.encoders import _openvino, _runtime, _torch, load_encoder
from crossalign.encoders._runtime import LEAST_COSINE, TORCH_HANDICAP, Tower, example_views, pick_runtime, reference
from crossalign.errors import InputError
from crossalign.features.pipeline import encode_views
from crossalign.images.crops import Preprocessing, ViewRecipe, cut_views
from crossalign.images.decoding import read_image

CPU = torch.device("cpu")
PLAIN = Preprocessing((16, 16), (0.5,) * 3, (0.25,) * 3)
CAT = PHOTOS / "chelsea.png"


class Small(torch.nn.Module):
    """A net that takes no time."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.conv = torch.nn.Conv2d(3, 8, 4, stride=4)
            self.linear = torch.nn.Linear(8 * 16, 12)

    def forward(self, pixels):
        return self.linear(torch.relu(self.conv(pixels)).flatten(1))


def small_tower():
    return Tower(Small().eval().requires_grad_(False), PLAIN)


def finish(outputs):
    return torch.nn.functional.normalize(outputs, dim=-1)


def pick(folder, engine="auto", precision=None, calibration=(), tower=None):
    tower = tower or small_tower()
    return pick_runtime(
        tower, finish, "digest", CPU, engine=engine, precision=precision, calibration=calibration, folder=folder
    )


def checks(folder):
    return {tuple(outcome["way"][:2]): file for file, outcome in _checks(folder)}


def _checks(folder):
    for file in (folder / "towers" / "digest").glob("check-*.json"):
        yield file, json.loads(file.read_text())


def rewrite(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def files(folder):
    return sorted(path.name for path in (folder / "towers" / "digest").iterdir())


def test_torch_in_float32_is_the_reference_and_needs_no_check(tmp_path):
    runtime = pick(tmp_path, "torch", "f32")
    assert (runtime.key, runtime.cosine, runtime.milliseconds) == ("", 1.0, None)
    assert not (tmp_path / "towers").exists()


def test_the_reference_is_the_plain_model():
    tower, pixels = small_tower(), example_views(PLAIN, 5)
    expected = tower.model((pixels.double() / 255 - 0.5).float() / 0.25)
    torch.testing.assert_close(reference(tower, CPU).run(pixels), expected, rtol=1e-5, atol=1e-5)


def test_openvino_computes_the_same_at_any_batch(tmp_path):
    tower = small_tower()
    runtime = pick(tmp_path, "openvino", "f32", tower=tower)
    assert runtime.key == "openvino-f32"
    pixels = example_views(PLAIN, 9)
    expected = reference(tower, CPU).run(pixels)
    for size in (1, 2, 9):
        found = torch.cat([runtime.run(part) for part in pixels.split(size)])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(runtime.run(pixels.float() / 255), expected, rtol=1e-4, atol=1e-5)


def test_auto_takes_the_fastest_that_agrees(tmp_path):
    runtime = pick(tmp_path)
    assert runtime.cosine >= LEAST_COSINE
    outcomes = [outcome for _, outcome in _checks(tmp_path)]
    assert {"torch", "openvino"} == {outcome["way"][0] for outcome in outcomes}
    assert ("torch", "bf16") not in checks(tmp_path)
    agreeing = [outcome for outcome in outcomes if outcome["lowest_cosine"] >= LEAST_COSINE]
    best = min(agreeing, key=lambda o: o["ms_per_view"] * (TORCH_HANDICAP if o["way"][0] == "torch" else 1))
    assert runtime.milliseconds == best["ms_per_view"]


def test_auto_refuses_what_does_not_agree(tmp_path):
    chosen = pick(tmp_path)
    for (engine, _), file in checks(tmp_path).items():
        if engine == "openvino":
            rewrite(file, lowest_cosine=0.99, ms_per_view=1e-6)
    assert pick(tmp_path).engine == "torch"
    assert chosen.cosine >= LEAST_COSINE


@pytest.mark.skipif(not _torch.cpu_has_bf16(), reason="this processor has no bfloat16")
@pytest.mark.parametrize("engine", ["torch", "auto"])
def test_where_openvino_is_not_in_play_torch_may_run_in_bfloat16(tmp_path, monkeypatch, engine):
    if engine == "auto":
        monkeypatch.setitem(sys.modules, "openvino", None)
    pick(tmp_path, engine)
    assert set(checks(tmp_path)) == {("torch", "f32"), ("torch", "bf16")}
    rewrite(checks(tmp_path)["torch", "bf16"], lowest_cosine=0.9999, ms_per_view=1e-6)
    assert pick(tmp_path, engine).key == "torch-bf16-weights"
    rewrite(checks(tmp_path)["torch", "bf16"], lowest_cosine=0.99)
    assert pick(tmp_path, engine).key == ""


def test_where_the_processor_has_no_bfloat16_torch_stays_with_float32(tmp_path, monkeypatch):
    monkeypatch.setattr(_torch, "cpu_has_bf16", lambda: False)
    assert pick(tmp_path, "torch").key == ""
    assert not (tmp_path / "towers").exists()


def test_who_names_a_precision_gets_it_even_if_it_does_not_agree(tmp_path):
    pick(tmp_path, "auto", "bf16")
    for file in checks(tmp_path).values():
        rewrite(file, lowest_cosine=0.9)
    assert (pick(tmp_path, "auto", "bf16").precision, pick(tmp_path, "auto", "bf16").cosine) == ("bf16", 0.9)


def test_export_and_outcome_are_made_once(tmp_path):
    pick(tmp_path, "openvino", "f32")
    made = files(tmp_path)
    assert {"float32.bin", "float32.xml"} < set(made)
    stamps = [(path, path.stat().st_mtime_ns) for path in (tmp_path / "towers" / "digest").iterdir()]

    class Broken(Tower):
        def forward(self, pixels):
            raise RuntimeError("was exported again")

    pick(tmp_path, "openvino", "f32", tower=Broken(Small(), PLAIN))
    assert files(tmp_path) == made
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps)


def test_a_damaged_export_is_noticed(tmp_path):
    pick(tmp_path, "openvino", "f32")
    weights = tmp_path / "towers" / "digest" / "float32.bin"
    content = np.frombuffer(weights.read_bytes(), np.float32)
    weights.write_bytes(np.where(np.abs(content) > 1e-3, -3 * content, content).tobytes())
    with pytest.raises(InputError, match=r"gives other features than torch .* may be damaged: remove '.*digest'"):
        pick(tmp_path, "openvino", "f32")
    assert pick(tmp_path).engine == "torch"


def test_a_folder_that_cannot_be_written_keeps_nothing(tmp_path):
    (tmp_path / "file").write_text("no folder")
    runtime = pick(tmp_path / "file", "openvino", "f32")
    assert runtime.cosine >= LEAST_COSINE


def test_what_cannot_be_exported_leaves_torch(tmp_path):
    class Odd(torch.nn.Module):
        def forward(self, pixels):
            return torch.from_numpy(pixels.numpy().reshape(len(pixels), -1)[:, :8].copy())

    tower = Tower(Odd(), PLAIN)
    assert pick(tmp_path, tower=tower).engine == "torch"
    with pytest.raises(InputError, match=r"^runtime openvino with precision f32 cannot be used here \("):
        pick(tmp_path, "openvino", "f32", tower=tower)


def test_int8_is_calibrated_on_what_is_given(tmp_path):
    runtimes = [pick(tmp_path, "auto", "int8", calibration) for calibration in ((), [PHOTOS / "coffee.png"])]
    assert all(runtime.precision == "int8" and runtime.cosine > 0.95 for runtime in runtimes)
    assert len({runtime.key for runtime in runtimes}) == 2
    assert {f"int8-{runtime.calibration}.xml" for runtime in runtimes} < set(files(tmp_path))


def test_bfloat16_runs_in_both_engines(tmp_path):
    pixels = example_views(PLAIN, 4)
    exact = finish(reference(small_tower(), CPU).run(pixels))
    engines = ["torch", "openvino"] if "bf16" in _openvino.precisions() else ["torch"]
    for engine in engines:
        found = pick(tmp_path, engine, "bf16")
        assert (found.engine, found.precision) == (engine, "bf16")
        features = finish(found.run(pixels))
        assert features.dtype == torch.float32
        assert 0.99 < torch.nn.functional.cosine_similarity(features, exact).min() <= 1


@pytest.mark.parametrize(
    ("engine", "precision", "message"),
    [
        ("tensorflow", None, "runtime is 'tensorflow', but must be auto, torch, openvino or torch-compile"),
        ("auto", "f16", "precision is 'f16', but must be f32, bf16 or int8"),
        ("torch", "int8", "runtime torch with precision int8 is not there on cpu; torch has f32 and bf16, openvino has f32"),
        ("torch-compile", None, "runtime torch-compile with precision auto is not there on cpu; .*torch-compile has none"),
    ],
)
def test_what_is_not_there_is_named(tmp_path, engine, precision, message):
    with pytest.raises(InputError, match=f"^{message}"):
        pick(tmp_path, engine, precision)


def test_what_a_gpu_computes_in_agrees_with_the_reference():
    """Nothing of it needs the GPU: weights in bfloat16, channels last."""
    tower, pixels = small_tower(), example_views(PLAIN, 8)
    fast = tower.in_bfloat16(torch.device("cuda"))
    assert fast.model.conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert {weight.dtype for weight in fast.parameters()} == {torch.bfloat16}
    assert {weight.dtype for weight in tower.parameters()} == {torch.float32}
    with torch.inference_mode():
        features, expected = finish(fast(pixels).float()), finish(tower(pixels))
        last = Tower(small_tower().model, PLAIN, channels_last=True)(pixels)
    assert (features * expected).sum(1).min() > LEAST_COSINE
    torch.testing.assert_close(last, tower(pixels), rtol=1e-5, atol=1e-5)


def test_compiled_passes_have_one_size_and_are_cut_back(monkeypatch):
    sizes = []

    def backend(graph, inputs):
        def compute(*arguments):
            sizes.append({len(argument) for argument in arguments if argument.dtype == torch.uint8})
            return graph(*arguments)

        sizes.append("compiled")
        return compute

    pixels = example_views(PLAIN, 11)
    run = _torch.compiled(small_tower(), CPU, views=4, backend=backend)
    whole = run(pixels)
    assert whole.shape == (11, 12)
    assert whole.dtype == torch.float32
    exact = finish(reference(small_tower(), CPU).run(pixels))
    assert (finish(whole) * exact).sum(1).min() > LEAST_COSINE
    for count in (1, 3, 4, 5, 8):
        assert torch.equal(run(pixels[:count]), whole[:count])
    assert torch.equal(run(pixels[6:7]), run(pixels[6:7].float() / 255))
    assert sizes[0] == "compiled"
    assert all(size == {4} for size in sizes[1:])


def test_threads_share_a_compiled_tower():
    pixels = example_views(PLAIN, 32)
    run = _torch.compiled(small_tower(), CPU, views=4, backend="eager")
    expected = run(pixels)
    with ThreadPoolExecutor(8) as pool:
        for start, found in enumerate(pool.map(lambda start: run(pixels[start : start + 4]), range(28))):
            torch.testing.assert_close(found, expected[start : start + 4], rtol=1e-2, atol=1e-2)


def test_compiling_must_be_asked_for_and_needs_a_gpu():
    gpu = torch.device("cuda")
    assert _runtime._ways(gpu, "auto", None) == [("torch", "f32"), ("torch", "bf16")]
    assert _runtime._ways(gpu, "torch-compile", None) == [("torch", "f32"), ("torch", "bf16"), ("torch-compile", "bf16")]
    with pytest.raises(InputError, match="runtime torch-compile with precision f32 is not there"):
        _runtime._ways(gpu, "torch-compile", "f32")


def test_a_compiled_tower_is_checked_and_one_that_cannot_be_compiled_leaves_torch(tmp_path, monkeypatch, caplog):
    ways = [("torch", "f32"), ("torch-compile", "bf16")]
    monkeypatch.setattr(_runtime, "_ways", lambda *_: ways)
    compiled = _torch.compiled
    monkeypatch.setattr(_torch, "compiled", partial(compiled, views=16, backend="eager"))
    pick(tmp_path, "torch-compile")
    rewrite(checks(tmp_path)["torch-compile", "bf16"], ms_per_view=1e-6)
    runtime = pick(tmp_path, "torch-compile")
    assert runtime.key == "torch-compile-bf16"
    assert LEAST_COSINE <= runtime.cosine < 1

    def fails(graph, inputs):
        raise OSError("no C compiler")

    monkeypatch.setattr(_torch, "compiled", partial(compiled, views=16, backend=fails))
    torch.compiler.reset()
    assert pick(tmp_path, "torch-compile").key == ""
    assert [record.levelname for record in caplog.records if "no C compiler" in record.getMessage()] == ["WARNING"]


def test_example_views_are_whole_photos_and_crops():
    views = example_views(PLAIN, 16)
    assert views.shape == (16, 3, 16, 16)
    first = cut_views(read_image(PHOTOS / "astronaut.png"), ViewRecipe(3, (0.1, 0.9), 0), PLAIN)
    assert torch.equal(views[:4], first)
    assert len(example_views(PLAIN, 10, [CAT])) == 10


def test_the_builtin_encoder_is_the_same_on_openvino(builtin):
    fast = load_encoder("builtin", "cpu", runtime="openvino")
    assert fast.fingerprint == builtin.fingerprint
    views = cut_views(read_image(CAT), ViewRecipe(20, (0.1, 0.9), 0), builtin.preprocessing)[None]
    (ours,), (expected,) = encode_views(fast, views), encode_views(builtin, views)
    assert (ours * expected).sum(1).min() > 0.99999
    assert torch.equal(ours, list(encode_views(fast, views.repeat(3, 1, 1, 1, 1)))[2])


def test_int8_stays_close_to_the_builtin_encoder(builtin):
    """A range for all channels of depthwise kernels leaves a mean of 0.97."""
    fast = load_encoder("builtin", "cpu", runtime="openvino", precision="int8")
    views = cut_views(read_image(PHOTOS / "motorcycle_left.png"), ViewRecipe(20, (0.1, 0.9), 0), builtin.preprocessing)[None]
    (ours,), (expected,) = encode_views(fast, views), encode_views(builtin, views)
    assert (ours * expected).sum(-1).mean() > 0.99


def test_nothing_is_reported_over_the_network(tmp_path):
    """What exports and quantises is watched in test_security.py."""
    code = """
import sys
from crossalign.encoders import load_encoder
assert load_encoder("builtin", "cpu", runtime="openvino").runtime.engine == "openvino"
assert sys.modules["openvino_telemetry"] is None
"""
    environment = {"HOME": str(tmp_path), "CROSSALIGN_CACHE": os.environ["CROSSALIGN_CACHE"], "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "intel").exists()


def test_evaluate_writes_down_its_runtime(tmp_path):
    for place in ("cat/chelsea.png", "coffee/coffee.png"):
        (tmp_path / "tree" / place).parent.mkdir(parents=True)
        (tmp_path / "tree" / place).symlink_to(PHOTOS / place.split("/")[1])
    command = ["evaluate", "--dataset", "folder", "--data-path", tmp_path / "tree", "--methods", "clip", "--views", 1]
    for options, engine in (((), None), (("--runtime", "torch", "--precision", "f32"), "torch")):
        done = run(*command, *options, "--output", tmp_path / "results.json")
        assert done.returncode == 0, done.stderr
        runtime = json.loads((tmp_path / "results.json").read_text())["encoder"]["runtime"]
        assert runtime["self_check"]["lowest_cosine"] >= LEAST_COSINE
        assert engine is None or runtime["engine"] == engine
        assert (f"runs on {runtime['engine']}" in done.stderr) == (runtime["engine"] != "torch")


def test_calibrate_belongs_to_int8():
    said = fails("classify", CAT, "--labels", "cat,dog", "--calibrate", PHOTOS)
    assert "is of use with --precision int8 alone" in said
