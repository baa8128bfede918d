"""From photos to results with the real built-in encoder, and the laws of draws and ranks."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from conftest import PHOTOS
from crossalign.datasets import ImageDataset
from crossalign.datasets.configs import load_config
from crossalign.errors import InputError
from crossalign.evaluation.evaluate import evaluate
from crossalign.evaluation.protocols import plan
from crossalign.evaluation.ranks import IMAGES_AT_ONCE, Scorer, calibration_sketch, resampled_runs, score_shards, true_ranks
from crossalign.evaluation.results import MethodResult
from crossalign.evaluation.statistics import FACTORS, expected_calibration_error, two_level_interval, wilson_interval
from crossalign.evaluation.tables import results_table
from crossalign.images.crops import ViewRecipe, crop_views
from crossalign.images.decoding import read_image
from crossalign.methods.method import ScoreConfig
from crossalign.methods.registry import METHODS, pick_methods
from crossalign.methods.scoring import class_scores, text_features_of
from crossalign.store.shards import Store
from crossalign.text.descriptions import Descriptions, bundled_descriptions
from crossalign.text.prompts import PromptInputs, prompt_inputs

DEMO = bundled_descriptions("demo")
SHOWN = {
    "chelsea.png": "cat",
    "coffee.png": "cup of coffee",
    "rocket.jpg": "rocket",
    "astronaut.png": "astronaut",
    "gravel.png": "gravel",
}
LABELS = ("dog", *SHOWN.values(), "page of text")
CONFIG = replace(load_config("folder"), views=3, sampled_views=4, runs=3)


def photos(labels):
    return ImageDataset(
        name="photos",
        root=PHOTOS,
        paths=tuple(PHOTOS / name for name in SHOWN),
        labels=tuple(labels),
        class_names=LABELS,
        aliases=((),) * len(LABELS),
        indices=tuple(range(len(SHOWN))),
    )


TRUE = photos(LABELS.index(label) for label in SHOWN.values())
# Other labels than the true ones: their ranks lie in the midst, where the least change of a score shows.
ODD = photos((3 * place + 3) % len(LABELS) for place in range(len(SHOWN)))


SIX = ("clip", "clip-e", "clip-d", "waffle", "cupl", "wca")


def run(builtin, folder, dataset=ODD, config=CONFIG, methods=SIX, **options):
    options = {"descriptions": [DEMO], "num_workers": 1} | options
    return evaluate(dataset, builtin, config, pick_methods(methods), store=Store(folder), **options)


def ranks(done):
    return {result.method: result.ranks.tolist() for result in done.results}


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A store that tests share, for what depends on no encoding of its own."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def first(builtin, kept):
    return run(builtin, kept)


@pytest.mark.parametrize("num_workers", [0, 3])
@pytest.mark.slow
def test_features_and_ranks_depend_on_no_worker_count(builtin, first, kept, tmp_path, num_workers):
    again = run(builtin, tmp_path, methods=["wca", "clip"], num_workers=num_workers)
    assert again.encoded == len(SHOWN)
    assert ranks(again) == {name: ranks(first)[name] for name in ("wca", "clip")}
    (shard,) = (tmp_path / "views").rglob("*.safetensors")
    ours, theirs = load_file(shard), load_file(kept / shard.relative_to(tmp_path))
    assert all(torch.equal(ours[name], theirs[name]) for name in ("global_view", "views"))


def test_ranks_depend_on_no_order_of_methods(builtin, first, kept):
    again = run(builtin, kept, methods=SIX[::-1])
    assert [result.method for result in again.results] == list(SIX)[::-1]
    assert ranks(again) == ranks(first)


def test_pictures_are_encoded_once(builtin, first, kept):
    assert first.encoded == len(SHOWN)
    assert run(builtin, kept).encoded == 0
    assert run(builtin, kept, config=replace(CONFIG, image_scale=1.0), dataset=TRUE, form="paper").encoded == 0
    assert run(builtin, kept, config=replace(CONFIG, views=1), methods=["wca"]).encoded == len(SHOWN)


def test_draws_depend_on_seed_and_run_alone(builtin, first, kept):
    more = run(builtin, kept, config=replace(CONFIG, runs=5), methods=["wca"])
    assert (more.results[0].ranks[:, :3] == first.results[-1].ranks).all()
    assert more.results[0].ranks.shape == (len(SHOWN), 5)


def test_a_part_of_a_dataset_has_the_same_ranks(builtin, first, tmp_path):
    part = run(builtin, tmp_path, ODD.limit(2), methods=["clip", "wca"])
    for result, whole in zip(part.results, (first.results[0], first.results[-1]), strict=True):
        assert (result.ranks == whole.ranks[[0, 2]]).all()


@pytest.mark.slow
def test_the_seed_moves_views_and_noise_only(builtin, first, tmp_path):
    config = replace(CONFIG, views=1, sampled_views=1)
    scored = [run(builtin, tmp_path, config=config, methods=["clip", "wca"], seed=seed) for seed in (0, 1)]
    assert [done.encoded for done in scored] == [len(SHOWN)] * 2
    one, other = map(ranks, scored)
    assert one["clip"] == other["clip"]
    assert one["wca"] != other["wca"]


@pytest.mark.slow
def test_ranks_come_from_the_methods_scores(builtin, first):
    """Again from the pictures, one at a time, without the store."""
    inputs = prompt_inputs(LABELS, descriptions=[DEMO], templates=CONFIG.templates)
    recipe = ViewRecipe(CONFIG.views, CONFIG.crop_scale, seed=0)
    chosen = [result for result in first.results if result.method in ("clip", "clip-d", "wca")]
    texts = {r.method: text_features_of(METHODS[r.method], inputs, builtin.encode_texts) for r in chosen}
    for row, (path, label) in enumerate(zip(ODD.paths, ODD.labels, strict=True)):
        pixels = crop_views(read_image(path), recipe, builtin.preprocessing, index=row)
        features = builtin.encode_images(pixels).half()
        for result in chosen:
            scores = class_scores(
                METHODS[result.method],
                texts[result.method],
                features[:1],
                features[None, 1:],
                run_counts=resampled_runs(CONFIG.views, CONFIG.runs, CONFIG.sampled_views, 0),
            )
            for of_run, rank in zip(scores.view(-1, len(LABELS)), result.ranks[row], strict=True):
                assert (of_run > of_run[label]).sum() == rank


def test_the_photos_are_recognised(builtin, kept):
    done = run(builtin, kept, TRUE)
    assert min(np.mean(result.accuracies(1)) for result in done.results) >= 50
    assert min(np.mean(result.accuracies(5)) for result in done.results) >= 80


def test_results_have_their_schema(builtin, first, kept):
    content = json.loads(json.dumps(first.to_dict(), allow_nan=False))
    assert content["schema"] == 1
    assert content["dataset"] == {
        "name": "photos",
        "root": str(PHOTOS),
        "images": len(SHOWN),
        "classes": len(LABELS),
        "fingerprint": ODD.fingerprint,
    }
    assert content["encoder"].items() >= {"name": builtin.name, "width": 384, "logit_scale": builtin.logit_scale}.items()
    assert content["views"] == {"count": 3, "crop_scale": [0.1, 0.9], "sampled": 4, "runs": 3}
    assert content["seed"] == 0
    assert content["descriptions"] == ["bundled:demo"]
    assert set(content["timing"]) >= {"texts", "views", "scoring"}
    assert all(seconds >= 0 for seconds in content["timing"].values())
    assert set(content["versions"]) >= {"python", "crossalign", "torch"}
    assert content["command"]
    assert [row["method"] for row in content["results"]] == list(SIX)
    for row, result in zip(content["results"], first.results, strict=True):
        assert row["n"] == len(SHOWN)
        assert row["top1"] == pytest.approx(100 * (result.ranks == 0).mean())
        assert row["top5"] == pytest.approx(100 * (result.ranks < 5).mean())
        by_class = [(result.ranks[row] == 0).mean() for row in range(len(SHOWN))]  # no class has two pictures
        assert row["per_class"] == pytest.approx(100 * np.mean(by_class))
        assert row["ci95"][0] <= row["top1"] <= row["ci95"][1]
        assert ("std" in row, "runs" in row) == (row["method"] == "wca",) * 2
    wca = content["results"][-1]
    assert wca["form"] == "released"
    assert len(wca["runs"]) == 3
    assert wca["top1"] == pytest.approx(np.mean(wca["runs"]))
    assert wca["std"] == pytest.approx(np.std(wca["runs"], ddof=1))
    assert not any("seeds" in row or "ece" in row for row in content["results"])
    assert content["comparisons"] == [asdict(comparison) for comparison in first.comparisons]
    assert {c["first"] for c in content["comparisons"][:5]} == {"clip"}
    assert [c["second"] for c in content["comparisons"][:5]] == list(SIX[1:])
    assert results_table([content]).count("photos") == len(SIX)


def test_the_paper_form_is_said(builtin, kept):
    done = run(builtin, kept, TRUE, methods=["wca"], form="paper")
    assert done.to_dict()["results"][0]["form"] == "paper"
    assert "wca (paper)" in results_table([done.to_dict()])


def test_accuracies_count_ranks():
    result = MethodResult("wca", "released", np.array([[0, 1], [4, 0], [5, 0], [9, 4]]))
    assert result.accuracies(1) == [25, 50]
    assert result.accuracies(5) == [50, 100]
    row = result.to_dict()
    assert (row["top1"], row["top5"], row["n"], row["runs"]) == (37.5, 75, 4, [25, 50])
    assert row["std"] == pytest.approx(17.6777, abs=1e-4)
    assert row["ci95"] == pytest.approx([100 * bound for bound in wilson_interval(1.5, 4)])


def test_what_cannot_be_measured_says_why(builtin, tmp_path):
    (tmp_path / "broken.jpg").write_bytes((PHOTOS / "rocket.jpg").read_bytes()[:5000])
    broken = replace(ODD, paths=(*ODD.paths[:2], tmp_path / "broken.jpg", *ODD.paths[3:]))
    with pytest.raises(InputError, match=r"broken\.jpg.*cannot be read"):
        run(builtin, tmp_path, broken, methods=["clip"])
    missing = replace(ODD, paths=(*ODD.paths[:4], tmp_path / "missing.jpg"))
    with pytest.raises(InputError, match=r"missing\.jpg.*cannot be read"):
        run(builtin, tmp_path, missing, methods=["clip"])
    with pytest.raises(InputError, match="need descriptions of the classes"):
        run(builtin, tmp_path, methods=["wca"], descriptions=[])
    cats = Descriptions("cats.json", "descriptors", {"cat": ("has a tail",)})
    with pytest.raises(InputError, match=r"cats\.json has no descriptions for 6 of 7 classes: dog, "):
        run(builtin, tmp_path, methods=["wca"], descriptions=[cats])
    for methods in (["clip"], ["waffle"]):
        with pytest.raises(InputError, match="the seed is -1, but must not be negative"):
            run(builtin, tmp_path, methods=methods, seed=-1)


def test_missing_descriptions_may_be_allowed(builtin, kept):
    cats = Descriptions("cats.json", "descriptors", {"cat": ("has a tail",)})
    with pytest.warns(UserWarning, match="6 of 7 classes"):
        done = run(builtin, kept, TRUE, methods=["clip-d"], descriptions=[cats], allow_missing=True)
    assert done.results[0].ranks.shape == (len(SHOWN), 1)


@given(st.integers(1, 30), st.integers(1, 80), st.integers(1, 8), st.integers(0, 2**40))
def test_each_run_draws_its_number_of_views(views, sampled, runs, seed):
    draws = resampled_runs(views, runs, sampled, seed)
    assert draws.shape == (runs, views)
    assert (draws.sum(1) == sampled).all()
    assert (draws >= 0).all()
    assert (draws == draws.round()).all()
    assert torch.equal(resampled_runs(views, runs + 3, sampled, seed)[:runs], draws)


def test_draws_are_uniform_with_replacement():
    draws = resampled_runs(6, 4000, 9, 0)
    assert draws.mean(0).tolist() == pytest.approx([9 / 6] * 6, abs=0.08)
    assert draws.var(0).tolist() == pytest.approx([9 * 1 / 6 * 5 / 6] * 6, rel=0.12)
    # With replacement, one view may be all that a run sees.
    assert (draws == 0).any()
    assert draws.max() > 4


def test_runs_and_seeds_draw_differently():
    every = torch.cat([resampled_runs(60, 20, 60, seed) for seed in range(3)])
    assert len(every.unique(dim=0)) == 60


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 7), st.data())
def test_a_rank_is_the_place_in_a_stable_order(images, runs, classes, data):
    level = st.sampled_from([-1.0, 0.0, 0.5, 2.0])
    numbers = data.draw(st.lists(level, min_size=images * runs * classes, max_size=images * runs * classes))
    scores = torch.tensor(numbers).view(images, runs, classes)
    labels = data.draw(st.lists(st.integers(0, classes - 1), min_size=images, max_size=images))
    expected = [
        [sorted(range(classes), key=lambda c: -row[c]).index(label) for row in of_image]
        for of_image, label in zip(scores.tolist(), labels, strict=True)
    ]
    assert true_ranks(scores, torch.tensor(labels)).tolist() == expected


def test_equal_scores_favour_the_earlier_class():
    assert true_ranks(torch.ones(3, 1, 3), torch.tensor([0, 1, 2])).tolist() == [[0], [1], [2]]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_scores_that_are_not_finite_are_refused(bad):
    scores = torch.zeros(2, 1, 3)
    scores[1, 0, 2] = bad
    with pytest.raises(InputError, match="not finite"):
        true_ranks(scores, torch.tensor([0, 0]))


@pytest.fixture(scope="module")
def fresh(builtin, kept):
    return run(builtin, kept, methods=["clip", "wca", "max-views"], fresh_seeds=2, calibration=True)


def test_fresh_seeds_are_those_of_runs_of_their_own(builtin, first, fresh, kept):
    second = run(builtin, kept, methods=["clip", "wca", "max-views"], seed=1)
    clip, wca, most = fresh.results
    assert (clip.seeds, wca.seeds, most.seeds) == ((0,), (0, 1), (0, 1))
    assert ranks(second)["clip"] == clip.ranks.tolist() == ranks(first)["clip"]
    assert wca.ranks.tolist() == np.hstack([first.results[-1].ranks, second.results[1].ranks]).tolist()
    assert wca.right.shape == (len(SHOWN), 2, CONFIG.runs)
    assert most.right.shape == (len(SHOWN), 2, 1)
    assert (wca.right[:, 1] == (second.results[1].ranks == 0)).all()
    assert fresh.encoded + fresh.cached == 2 * len(SHOWN)


def test_results_tell_both_kinds_of_noise(fresh):
    content = json.loads(json.dumps(fresh.to_dict(), allow_nan=False))
    clip, wca, most = content["results"]
    assert not {"seeds", "fresh_std", "std", "runs"} & set(clip)
    assert not {"std", "runs"} & set(most)
    by_seed = fresh.results[1].right.mean(axis=0) * 100
    assert [entry["seed"] for entry in wca["seeds"]] == [0, 1]
    assert [entry["runs"] for entry in wca["seeds"]] == pytest.approx(by_seed)
    assert [entry["top1"] for entry in wca["seeds"]] == pytest.approx(by_seed.mean(axis=1))
    assert wca["runs"] == pytest.approx(by_seed[0])
    assert wca["top1"] == pytest.approx(by_seed.mean())
    assert wca["std"] == pytest.approx(np.sqrt(by_seed.var(axis=1, ddof=1).mean()))
    assert wca["fresh_std"] == pytest.approx(by_seed.mean(axis=1).std(ddof=1))
    interval = two_level_interval(fresh.results[1].right.mean(axis=2))[1:]
    assert wca["ci95"] == pytest.approx([100 * bound for bound in interval])
    pairs = [("clip", "wca"), ("clip", "max-views")]
    assert [(c["first"], c["second"]) for c in content["comparisons"][:2]] == pairs
    assert all(c["p_holm"] >= c["p"] and c["low"] <= c["difference"] <= c["high"] for c in content["comparisons"])


def test_calibration_is_that_of_all_scores(builtin, fresh):
    """Again from all scores of the first run, which the evaluation does not keep."""
    inputs = prompt_inputs(LABELS, descriptions=[DEMO], templates=CONFIG.templates)
    pixels = [crop_views(read_image(path), ViewRecipe(0, (0.1, 0.9), 0), builtin.preprocessing) for path in ODD.paths]
    whole = builtin.encode_images(torch.cat(pixels)).half()
    texts = text_features_of(METHODS["clip"], inputs, builtin.encode_texts)
    scores = class_scores(METHODS["clip"], texts, whole, whole[:, None])
    sure, label = (scores * builtin.logit_scale).double().softmax(1).max(1)
    expected = expected_calibration_error(sure.numpy(), (label == torch.tensor(ODD.labels)).numpy())
    row = fresh.to_dict()["results"][0]
    assert row["ece"] == pytest.approx(100 * expected, abs=1e-2)
    assert set(row["calibration"]) == {"temperature", "ece_before", "ece_after", "fitted_on", "measured_on"}
    assert row["calibration"]["fitted_on"] == "images with even index"


def test_fresh_seeds_and_calibration_need_something_to_work_on(builtin, tmp_path):
    with pytest.raises(InputError, match="no method of clip, waffle looks at crops, so fresh seeds change nothing"):
        run(builtin, tmp_path, methods=["clip", "waffle"], fresh_seeds=3)
    with pytest.raises(InputError, match="give two or more images"):
        run(builtin, tmp_path, ODD.limit(1), methods=["clip"], calibration=True)


def plain_ranks(scores, labels):
    """The definition, one class at a time."""
    return [
        [sum(row[c] > row[label] or (row[c] == row[label] and c < label) for c in range(len(row))) for row in of_image]
        for of_image, label in zip(scores.tolist(), labels.tolist(), strict=True)
    ]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_shards_are_scored_by_the_plain_definition(num_workers):
    generator = torch.Generator().manual_seed(0)

    def unit(*shape):
        return torch.nn.functional.normalize(torch.randn(*shape, generator=generator), dim=-1).half()

    sizes, classes, config = [70, 70, 5], 9, replace(CONFIG, views=4)
    shards = [(slice(70 * i, 70 * i + n), unit(n, 16), unit(n, 4, 16)) for i, n in enumerate(sizes)]
    labels = torch.randint(classes, (sum(sizes),), generator=generator)
    inputs = PromptInputs(tuple("abcdefgha"), ("a {}.", "the {}."))  # the last class's texts are the first's: ties
    texts = {}
    chosen = [METHODS["clip"], METHODS["clip-e"], replace(METHODS["wca"], prompts="templates")]
    banks = [
        text_features_of(m, inputs, lambda ts: torch.stack([texts.setdefault(t, unit(16)).float() for t in ts]))
        for m in chosen
    ]
    run_counts = resampled_runs(config.views, config.runs, config.sampled_views, 0)
    counts = []
    rows = plan(chosen, config, "shared", 0)
    scorer = Scorer(list(zip(rows, banks, strict=True)), ScoreConfig(), 0, labels, range(sum(sizes)))
    found = score_shards(shards, scorer, num_workers=num_workers, update=counts.append)
    assert counts == sizes
    for method, bank, scored in zip(chosen, banks, found, strict=True):
        expected = []
        for rows, whole, views in shards:
            for start in range(0, len(whole), IMAGES_AT_ONCE):
                part = slice(start, start + IMAGES_AT_ONCE)
                scores = class_scores(method, bank, whole[part], views[part], ScoreConfig(), run_counts)
                expected += plain_ranks(scores.view(len(scores), -1, classes), labels[rows][part])
        assert scored.ranks.tolist() == expected
        assert scored.sketch is None


def test_a_sketch_holds_the_softmax():
    logits, labels = torch.randn(6, 5, dtype=torch.float64) * 20, torch.tensor([0, 1, 2, 3, 4, 0])
    sketch = calibration_sketch(logits, labels)
    for factor, sums in zip(FACTORS, sketch[:, 1:].T, strict=True):
        assert torch.allclose((-sums).exp(), (logits * factor).softmax(1).amax(1))
        assert torch.allclose(-sums - factor * sketch[:, 0], (logits * factor).log_softmax(1)[range(6), labels])


def test_finite_scores_may_overflow_a_sum():
    scores = torch.full((2, 1, 3), 3e38)
    scores[0, 0, 2] = 3.1e38
    assert true_ranks(scores, torch.tensor([1, 1])).tolist() == [[2], [1]]
