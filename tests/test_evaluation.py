"""From photos to results with the real built-in encoder, and the laws of draws and ranks."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from conftest import PHOTOS
from crossalign.configs import load_config
from crossalign.datasets import ImageDataset
from crossalign.descriptions import Descriptions, bundled_descriptions
from crossalign.errors import InputError
from crossalign.evaluation import MethodResult, evaluate, true_ranks, view_draws
from crossalign.methods import METHODS, class_scores, pick_methods, text_bank
from crossalign.prompts import prompt_inputs
from crossalign.statistics import wilson_interval
from crossalign.store import Store
from crossalign.tables import results_table
from crossalign.views import ViewRecipe, cut_views, read_image

DEMO = bundled_descriptions("demo")
SHOWN = {
    "chelsea.png": "cat",
    "coffee.png": "cup of coffee",
    "rocket.jpg": "rocket",
    "astronaut.png": "astronaut",
    "gravel.png": "gravel",
}
LABELS = ("dog", *SHOWN.values(), "page of text")
CONFIG = replace(load_config("folder"), views=3, sampled_views=4, runs=3, batch_size=4)


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


def run(builtin, folder, dataset=ODD, config=CONFIG, methods=("all",), **options):
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


@pytest.mark.parametrize(("batch_size", "num_workers"), [(1, 0), (3, 3), (64, 2)])
def test_features_and_ranks_depend_on_no_batch_size_or_worker_count(builtin, first, kept, tmp_path, batch_size, num_workers):
    config = replace(CONFIG, batch_size=batch_size)
    again = run(builtin, tmp_path, config=config, methods=["wca", "clip"], num_workers=num_workers)
    assert again.encoded == len(SHOWN)
    assert ranks(again) == {name: ranks(first)[name] for name in ("wca", "clip")}
    (shard,) = (tmp_path / "views").rglob("*.safetensors")
    ours, theirs = load_file(shard), load_file(kept / shard.relative_to(tmp_path))
    assert all(torch.equal(ours[name], theirs[name]) for name in ("whole", "views"))


def test_ranks_depend_on_no_order_of_methods(builtin, first, kept):
    again = run(builtin, kept, methods=list(METHODS)[::-1])
    assert [result.method for result in again.results] == list(METHODS)[::-1]
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


def test_the_seed_moves_views_and_noise_only(builtin, first, tmp_path):
    config = replace(CONFIG, views=1, sampled_views=1)
    scored = [run(builtin, tmp_path, config=config, methods=["clip", "wca"], seed=seed) for seed in (0, 1)]
    assert [done.encoded for done in scored] == [len(SHOWN)] * 2
    one, other = map(ranks, scored)
    assert one["clip"] == other["clip"]
    assert one["wca"] != other["wca"]


def test_ranks_come_from_the_methods_scores(builtin, first):
    """Again from the pictures, one at a time, without the store."""
    inputs = prompt_inputs(LABELS, descriptions=[DEMO], templates=CONFIG.templates)
    recipe = ViewRecipe(CONFIG.views, CONFIG.crop_scale, seed=0)
    chosen = [result for result in first.results if result.method in ("clip", "clip-d", "wca")]
    banks = {r.method: text_bank(METHODS[r.method], inputs, builtin.encode_texts, CONFIG.text_scale) for r in chosen}
    for row, (path, label) in enumerate(zip(ODD.paths, ODD.labels, strict=True)):
        pixels = cut_views(read_image(path), recipe, builtin.preprocessing, index=row)
        features = builtin.encode_images(pixels).half()
        for result in chosen:
            scores = class_scores(
                METHODS[result.method],
                banks[result.method],
                features[:1],
                features[None, 1:],
                image_scale=CONFIG.image_scale,
                draws=view_draws(CONFIG, seed=0),
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
    assert [row["method"] for row in content["results"]] == list(METHODS)
    for row, result in zip(content["results"], first.results, strict=True):
        assert row["n"] == len(SHOWN)
        assert row["top1"] == pytest.approx(100 * (result.ranks == 0).mean())
        assert row["top5"] == pytest.approx(100 * (result.ranks < 5).mean())
        assert row["ci95"][0] <= row["top1"] <= row["ci95"][1]
        assert ("std" in row, "runs" in row) == (row["method"] == "wca",) * 2
    wca = content["results"][-1]
    assert wca["form"] == "released"
    assert len(wca["runs"]) == 3
    assert wca["top1"] == pytest.approx(np.mean(wca["runs"]))
    assert wca["std"] == pytest.approx(np.std(wca["runs"], ddof=1))
    assert results_table([content]).count("photos") == len(METHODS)


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
    config = replace(CONFIG, views=views, sampled_views=sampled, runs=runs)
    draws = view_draws(config, seed)
    assert draws.shape == (runs, views)
    assert (draws.sum(1) == sampled).all()
    assert (draws >= 0).all()
    assert (draws == draws.round()).all()
    assert torch.equal(view_draws(replace(config, runs=runs + 3), seed)[:runs], draws)


def test_draws_are_uniform_with_replacement():
    config = replace(CONFIG, views=6, sampled_views=9, runs=4000)
    draws = view_draws(config, seed=0)
    assert draws.mean(0).tolist() == pytest.approx([9 / 6] * 6, abs=0.08)
    assert draws.var(0).tolist() == pytest.approx([9 * 1 / 6 * 5 / 6] * 6, rel=0.12)
    # With replacement, one view may be all that a run sees.
    assert (draws == 0).any()
    assert draws.max() > 4


def test_runs_and_seeds_draw_differently():
    config = replace(CONFIG, views=60, sampled_views=60, runs=20)
    every = torch.cat([view_draws(config, seed) for seed in range(3)])
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
