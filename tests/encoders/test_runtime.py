"""How an image tower is computed: what is chosen, what is kept, and that it agrees with torch in float32."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from test_open_clip_models import a_folder

from command import fails, run
from conftest import PHOTOS
from crossalign.cli import main
from crossalign.encoders import _openvino, _torch, load_encoder, measured_choice, time_runtimes
from crossalign.encoders._choice import choice_file
from crossalign.encoders._runtime import LEAST_COSINE, Subject, example_views, pick_runtime, preferred_ways, reference
from crossalign.encoders._timing import time_runtimes as time_subject
from crossalign.encoders._tower import Tower
from crossalign.errors import InputError
from crossalign.features.pipeline import encode_views
from crossalign.images.crops import Preprocessing, ViewRecipe, crop_views
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


def subject(folder, tower=None):
    return Subject(tower or small_tower(), finish, CPU, folder / "towers" / "digest")


def pick(folder, engine="auto", precision=None, calibration=(), tower=None):
    return pick_runtime(subject(folder, tower), engine, precision, calibration)


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
    assert (runtime.key, runtime.cosine) == ("", 1.0)
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


AMD = {"architecture": "x86_64", "cpu_name": "AMD EPYC", "avx512_bf16": True, "amx_bf16": False}
INTEL = AMD | {"cpu_name": "Intel(R) Xeon(R)"}


@pytest.mark.parametrize(
    ("capabilities", "gains"),
    [
        (AMD, True),
        # A flag alone does not tell: this one has the instructions, and multiplies no faster.
        (INTEL, False),
        (INTEL | {"amx_bf16": True}, True),
        (AMD | {"avx512_bf16": False}, False),
        ({"architecture": "aarch64", "arm_bf16": True, "cpu_name": "Neoverse"}, True),
        ({"architecture": "aarch64", "arm_bf16": False}, False),
        ({}, False),
    ],
)
def test_bf16_is_taken_where_the_processor_gains_from_it(monkeypatch, capabilities, gains):
    monkeypatch.setattr(_torch, "_capabilities", lambda: capabilities)
    assert _torch.gains_from_bf16(CPU) is gains
    assert preferred_ways(CPU, "torch", None) == [("torch", "bf16")] * gains + [("torch", "f32")]


def test_auto_prefers_by_capability(monkeypatch):
    monkeypatch.setattr(_openvino, "precisions", lambda: ["f32", "bf16", "int8"])
    monkeypatch.setattr(_torch, "gains_from_bf16", lambda _: True)
    assert preferred_ways(CPU, "auto", None) == [("openvino", "bf16"), ("openvino", "f32"), ("torch", "f32")]
    monkeypatch.setattr(_torch, "gains_from_bf16", lambda _: False)
    assert preferred_ways(CPU, "auto", None) == [("openvino", "f32"), ("torch", "f32")]
    assert preferred_ways(CPU, "auto", "bf16") == [("openvino", "bf16"), ("torch", "bf16")]
    assert preferred_ways(CPU, "auto", "int8") == [("openvino", "int8")]
    monkeypatch.setattr(_openvino, "precisions", lambda: [])
    assert preferred_ways(CPU, "auto", None) == [("torch", "f32")]


def test_a_gpu_has_torch_alone(monkeypatch):
    gpu = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    assert preferred_ways(gpu, "auto", None) == [("torch", "bf16"), ("torch", "f32")]
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    assert preferred_ways(gpu, "auto", None) == [("torch", "f32")]


def test_auto_takes_what_agrees_and_time_plays_no_part(tmp_path, monkeypatch):
    monkeypatch.setattr(_torch, "gains_from_bf16", lambda _: False)
    first = pick(tmp_path)
    assert (first.engine, first.precision) == ("openvino", "f32")
    assert first.cosine >= LEAST_COSINE
    ((way, file),) = checks(tmp_path).items()
    assert way == ("openvino", "f32")
    assert json.loads(file.read_text()).keys() == {"way", "machine", "lowest_cosine"}
    rewrite(file, lowest_cosine=0.99)
    assert pick(tmp_path).key == ""


def test_bf16_that_does_not_agree_is_not_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(_torch, "gains_from_bf16", lambda _: True)
    monkeypatch.setattr(_openvino, "precisions", lambda: [])
    assert pick(tmp_path).key == "torch-bf16-weights"
    rewrite(checks(tmp_path)["torch", "bf16"], lowest_cosine=0.99)
    assert pick(tmp_path).key == pick(tmp_path, "torch").key == ""


def test_times_are_measured_on_request_and_stored(tmp_path, monkeypatch):
    monkeypatch.setattr(_torch, "gains_from_bf16", lambda _: False)
    timings, file = time_subject(subject(tmp_path))
    assert file == choice_file(tmp_path / "towers" / "digest")
    assert {("torch", "f32"), ("openvino", "f32"), ("torch", "bf16")} <= {(t.engine, t.precision) for t in timings}
    agreeing = [t.milliseconds for t in timings if t.cosine >= LEAST_COSINE]
    assert agreeing == sorted(agreeing)
    assert all(t.milliseconds > 0 for t in timings)
    stored = json.loads(file.read_text())
    assert stored["fastest"] == stored["timings"][0]
    for engine, precision in (("torch", "f32"), ("torch", "bf16"), ("openvino", "f32")):
        rewrite(file, fastest={"engine": engine, "precision": precision})
        runtime = pick(tmp_path)
        assert (runtime.engine, runtime.precision) == (engine, precision)
    rewrite(file, fastest={"engine": "torch", "precision": "bf16"})
    # What is named is not overruled; nor does a choice count that was measured on another machine, or that is gone.
    assert pick(tmp_path, "auto", "f32").engine == "openvino"
    rewrite(file, machine=["another"])
    assert pick(tmp_path).engine == "openvino"
    file.unlink()
    assert pick(tmp_path).engine == "openvino"


@pytest.mark.slow
def test_encoders_time_prints_and_stores(tmp_path, monkeypatch):
    monkeypatch.setenv("CROSSALIGN_CACHE", str(tmp_path))
    spec = f"open_clip:local-dir:{a_folder(tmp_path / 'tiny')}"
    encoder = load_encoder(spec, "cpu", runtime="torch", precision="f32")
    assert measured_choice(encoder) is None
    done = CliRunner().invoke(main, ["encoders", spec, "--time"])
    assert done.exit_code == 0, done.output
    file = tmp_path / "towers" / encoder.fingerprint / "measured.json"
    assert measured_choice(encoder) == file
    fastest = json.loads(file.read_text())["fastest"]
    assert (
        f"Stored in {file}. From now on --runtime auto takes {fastest['engine']} in {fastest['precision']} here"
        in done.output
    )
    assert "torch in f32" in done.output
    again = CliRunner().invoke(main, ["encoders", spec])
    assert f"measured     auto takes the fastest of {file}; remove that file" in again.output
    assert f"runtime      {fastest['engine']} in {fastest['precision']}" in again.output
    refused = CliRunner().invoke(main, ["encoders", "ViT-B", "--time"])
    assert refused.exit_code == 2
    assert "--time measures one encoder, but 'ViT-B' names none; give a SPEC, such as builtin" in refused.output


def test_what_has_no_tower_has_no_times():
    class Plain:
        name = "point"

    with pytest.raises(InputError, match="encoder point has no tower, so there is one way to compute it"):
        time_runtimes(Plain())


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


@pytest.mark.slow
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
        ("tensorflow", None, "runtime is 'tensorflow', but must be auto, torch or openvino"),
        ("auto", "f16", "precision is 'f16', but must be f32, bf16 or int8"),
        ("torch", "int8", "runtime torch .* int8 is not available on cpu; torch has f32 and bf16, openvino has f32"),
        ("torch-compile", None, "runtime is 'torch-compile', but must be auto, torch or openvino"),
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


def test_example_views_are_whole_photos_and_crops():
    views = example_views(PLAIN, 16)
    assert views.shape == (16, 3, 16, 16)
    first = crop_views(read_image(PHOTOS / "astronaut.png"), ViewRecipe(3, (0.1, 0.9), 0), PLAIN)
    assert torch.equal(views[:4], first)
    assert len(example_views(PLAIN, 10, [CAT])) == 10


@pytest.mark.slow
def test_the_builtin_encoder_is_the_same_on_openvino(builtin):
    fast = load_encoder("builtin", "cpu", runtime="openvino", precision="f32")
    assert fast.fingerprint == builtin.fingerprint
    views = crop_views(read_image(CAT), ViewRecipe(20, (0.1, 0.9), 0), builtin.preprocessing)[None]
    (ours,), (expected,) = encode_views(fast, views), encode_views(builtin, views)
    assert (ours * expected).sum(1).min() > 0.99999
    assert torch.equal(ours, list(encode_views(fast, views.repeat(3, 1, 1, 1, 1)))[2])


@pytest.mark.slow
def test_int8_stays_close_to_the_builtin_encoder(builtin):
    """A range for all channels of depthwise kernels leaves a mean of 0.97."""
    fast = load_encoder("builtin", "cpu", runtime="openvino", precision="int8")
    image = read_image(PHOTOS / "motorcycle_left.png")
    views = crop_views(image, ViewRecipe(20, (0.1, 0.9), 0), builtin.preprocessing)[None]
    (ours,), (expected,) = encode_views(fast, views), encode_views(builtin, views)
    assert (ours * expected).sum(-1).mean() > 0.99


def test_one_default_everywhere():
    """The library, the classifier and the commands take the same runtime unless they are told."""
    import inspect

    from crossalign import Classifier

    for function in (load_encoder, Classifier.__init__):
        defaults = {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()}
        assert (defaults["runtime"], defaults["precision"]) == ("auto", None)
    for name in ("classify", "evaluate", "features", "ablate", "serve", "encoders"):
        options = main.get_command(None, name).make_context(name, [], resilient_parsing=True).params
        assert (options["runtime"], options["precision"]) == ("auto", None)


@pytest.mark.slow
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
    assert "works with --precision int8 only" in said
