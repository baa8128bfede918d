"""Our scores against numbers that the authors' own programs gave on the same features; see tests/oracles/README.md."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from crossalign.errors import InputError
from crossalign.methods import METHODS, ScoreConfig, TextFeatures, alignment
from crossalign.methods.carprt import template_weights as carprt_weights
from crossalign.methods.entropy import text_weights, view_weights
from crossalign.methods.optimal_transport import candidates, mass_above_mean
from crossalign.methods.scoring import class_scores
from crossalign.methods.text_weighting import concept_scores, template_weights
from crossalign.methods.transclip import class_log_probabilities
from crossalign.methods.view_selection import confident_first, mta_mode, zero_votes

ORACLES = Path(__file__).parents[1] / "oracles"
SHARED = load_file(ORACLES / "cliplike" / "inputs.safetensors")
EQUAL = {"whole": SHARED["whole"], "texts": SHARED["texts_equal"]}
VIEWS = {"whole": SHARED["whole"], "views": SHARED["views"]}
OF_WCA = VIEWS | {name: SHARED[name] for name in ("texts", "counts", "prompts", "draws")}
OF_AWT = VIEWS | {"texts": torch.cat([SHARED["prompts"][:, None], SHARED["texts_equal"]], 1)}
OF_CLASSES = VIEWS | {"classes": SHARED["prompts"]}
OF_SET = {"whole": SHARED["whole"], "classes": SHARED["prompts"]}
MANY = {"whole": SHARED["whole_many"], "classes": SHARED["prompts"], "texts": SHARED["texts_equal"]}


def outputs(method, prefix=""):
    theirs = load_file(ORACLES / "cliplike" / f"{method}.safetensors")
    return {name.removeprefix(prefix): value for name, value in theirs.items() if name.startswith(prefix)}


def edge_cases(method):
    """Yield each small case: its name, settings, inputs and the program's outputs, none where it fails."""
    tensors = load_file(ORACLES / "edge" / f"{method}.safetensors")
    about = json.loads((ORACLES / "edge" / f"{method}.json").read_text(encoding="utf-8"))
    for case, what in about["cases"].items():
        of_case = {name.removeprefix(f"{case}/"): value for name, value in tensors.items() if name.startswith(f"{case}/")}
        theirs = {name.removeprefix("out/"): value for name, value in of_case.items() if name.startswith("out/")}
        yield pytest.param(what["settings"], of_case, theirs, id=f"{method}-{case}")


def only(method, *cases):
    return [param for param in edge_cases(method) if param.id.removeprefix(f"{method}-") in cases]


def but(method, *cases):
    return [param for param in edge_cases(method) if param.id.removeprefix(f"{method}-") not in cases]


def text_features(features, counts=None, weights=None):
    """Lay out (C, L, D), (C, D), or (K, D) and (C,) counts."""
    if counts is None:
        features = features[:, None] if features.dim() == 2 else features
        counts, features = torch.full((len(features),), features.shape[1]), features.flatten(0, 1)
    weights = alignment.uniform_text_weights(counts) if weights is None else weights
    return TextFeatures(("",) * len(features), features, counts, weights, alignment.pool_texts(features, weights, counts))


def scores_of(name, t, texts=None, config=None, run_counts=None, **options):
    """Score as released."""
    method = METHODS[name].as_released()
    method = replace(method, options={**method.options, **options})
    x0 = t["whole"]
    texts = text_features(t.get("texts", t.get("classes")), t.get("counts")) if texts is None else texts
    return class_scores(method, texts, x0, t.get("views", x0[:, None]), config or ScoreConfig(), run_counts)


def assert_same(ours, theirs, tolerance):
    torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=0)
    assert torch.equal(ours.argmax(-1), theirs.argmax(-1))


@pytest.mark.parametrize(
    ("settings", "t", "theirs"), [pytest.param({}, OF_WCA, outputs("wca"), id="wca"), *edge_cases("wca")]
)
def test_wca(settings, t, theirs):
    config = ScoreConfig(settings.get("image_scale", 4.0), settings.get("text_scale", 2.0))
    weights = alignment.text_weights(t["texts"], t["prompts"], t["counts"], config.text_scale)
    texts = text_features(t["texts"], t["counts"], weights)
    torch.testing.assert_close(weights, theirs["text_weights"], atol=1e-6, rtol=0)
    torch.testing.assert_close(F.normalize(texts.pooled, dim=1), theirs["class_features"], atol=1e-6, rtol=0)
    of_views = METHODS["wca"].score.weights(t["whole"], t["views"], config)
    torch.testing.assert_close(of_views, theirs["view_weights"], atol=4e-6, rtol=0)
    assert_same(scores_of("wca", t, texts, config), theirs["scores"], 1e-6)
    assert_same(scores_of("cupl", t), theirs["scores_cupl"], 1e-6)
    if "draws" in t:
        run_counts = torch.stack([run.bincount(minlength=t["views"].shape[1]) for run in t["draws"]])
        assert_same(scores_of("wca", t, texts, config, run_counts).transpose(0, 1), theirs["scores_draws"], 1e-6)


@pytest.mark.parametrize(
    ("settings", "t", "theirs"),
    [pytest.param({}, EQUAL, outputs("autoclip"), id="autoclip"), *but("autoclip", "one_template", "flat")],
)
def test_autoclip(settings, t, theirs):
    beta = settings.get("beta", 0.85)
    cosines = torch.einsum("nd,cld->ncl", t["whole"].double(), t["texts"].double())
    torch.testing.assert_close(template_weights(cosines, beta).float(), theirs["weights"], atol=1e-6, rtol=0)
    assert_same(scores_of("autoclip", t, beta=beta), theirs["scores"], 1e-6)
    # The exact step differs by the program's tolerance.
    torch.testing.assert_close(theirs["scores"], theirs["scores_exact"], atol=2e-3, rtol=0)


@pytest.mark.parametrize(("settings", "t", "theirs"), only("autoclip", "one_template", "flat"))
def test_autoclip_where_its_program_fails(settings, t, theirs):
    """The program's bisection fails. One template is refused in words; templates that are alike get equal weights."""
    assert not theirs
    if t["texts"].shape[1] == 1:
        with pytest.raises(InputError, match="each class has one prompt"):
            scores_of("autoclip", t)
    else:
        torch.testing.assert_close(scores_of("autoclip", t), t["whole"] @ t["texts"].mean(1).T, atol=1e-6, rtol=0)


NARROW = {**OF_CLASSES, "classes": outputs("zero", "narrow/")["classes"]}


@pytest.mark.parametrize(
    ("settings", "t", "theirs"),
    [
        pytest.param({}, OF_CLASSES, outputs("zero"), id="zero"),
        pytest.param({}, NARROW, outputs("zero", "narrow/"), id="zero-narrow"),
        *but("zero", "all_vote", "underflow"),
    ],
)
def test_zero(settings, t, theirs):
    """Votes are exact, but where two views' entropies differ by a rounding."""
    votes, scores = votes_of(t, settings)
    clear = theirs.get("entropy_gap", torch.ones(len(votes))) >= 1e-5
    assert clear.float().mean() > 0.9
    assert torch.equal(votes[clear], theirs["scores"][clear])
    # Where classes share the maximum, the program may take any of them.
    best = theirs["scores"].gather(1, scores.argmax(1, keepdim=True))[:, 0]
    assert torch.equal(best[clear], theirs["scores"].amax(1)[clear])


def votes_of(t, settings):
    gamma = settings.get("gamma", 0.3)
    cosines = torch.cat([t["whole"][:, None], t["views"]], 1) @ t["classes"].T
    votes = zero_votes(cosines, confident_first(cosines, 100.0), int(gamma * cosines.shape[1]))
    return votes, scores_of("zero", t, gamma=gamma)


@pytest.mark.parametrize(("settings", "t", "theirs"), only("zero", "all_vote"))
def test_zero_where_all_views_have_voted(settings, t, theirs):
    """The program fails in a tie, since no view is left to ask; here the mean similarity of the views decides."""
    assert not theirs
    votes, scores = votes_of(t, settings)
    assert (votes == votes.amax()).sum() > 1
    mean = torch.cat([t["whole"][:, None], t["views"]], 1).mean(1) @ t["classes"].T
    assert scores.argmax() == mean.masked_fill(votes < votes.amax(), -1).argmax()


@pytest.mark.parametrize(("settings", "t", "theirs"), only("zero", "underflow"))
def test_zero_where_a_probability_underflows(settings, t, theirs):
    """The program's p log p is no number then, and it takes its most certain views for the least certain; ours is zero."""
    votes, _ = votes_of(t, settings)
    assert theirs["scores"].tolist() == [[0, 3, 0]]
    assert votes.tolist() == [[3, 0, 0]]


NO_BANDWIDTH = ("one_view", "three_views", "four_views", "twin_of_whole")


@pytest.mark.parametrize(
    ("settings", "t", "theirs"), [pytest.param({}, OF_CLASSES, outputs("mta"), id="mta"), *but("mta", *NO_BANDWIDTH)]
)
def test_mta(settings, t, theirs):
    views = torch.cat([t["whole"][:, None], t["views"]], 1)
    _, inlierness = mta_mode(views, t["classes"], 100.0)
    torch.testing.assert_close(inlierness, theirs["inlierness"], atol=1e-4, rtol=0)
    assert_same(100 * scores_of("mta", t), theirs["scores"], 1e-3)


@pytest.mark.parametrize(("settings", "t", "theirs"), only("mta", *NO_BANDWIDTH))
def test_mta_where_its_program_gives_no_number(settings, t, theirs):
    """With fewer than five views there is no neighbour, so the program's bandwidth is a mean of nothing: ours has one.

    The mode of a single view is that view. A twin of the global view has bandwidth zero, where the program divides zero by
    zero; here it is 1e-12, so both twins lose all density once the mode has moved.
    """
    assert theirs["scores"].isnan().all()
    ours = {
        0: [0.516814, 0.379658, 0.427585],
        2: [0.535196, 0.585994, 0.361159],
        3: [0.534822, 0.586071, 0.360273],
        4: [0.519079, 0.556089, 0.204311],
    }
    scores, count = scores_of("mta", t), t["views"].shape[1]
    assert scores[0].tolist() == pytest.approx(ours[count], abs=2e-6)
    assert scores.isfinite().all()
    if count == 0:
        torch.testing.assert_close(scores, t["whole"] @ t["classes"].T, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("settings", "t", "theirs"), [pytest.param({}, OF_AWT, outputs("awt"), id="awt"), *edge_cases("awt")]
)
def test_awt(settings, t, theirs):
    texts, x0, views = text_features(t["texts"]), t["whole"], torch.cat([t["whole"][:, None], t["views"]], 1)
    torch.testing.assert_close(view_weights(views, texts.pooled, 100.0), theirs["view_weights"], atol=1e-6, rtol=0)
    every = candidates(texts, x0, views, x0 @ texts.pooled.T, len(texts.counts))
    of_texts = text_weights(100 * x0 @ texts.pooled.T, every.classes, 100 * every.x0, every.present)
    torch.testing.assert_close(of_texts, theirs["text_weights"], atol=5e-6, rtol=0)
    assert_same(100 * scores_of("awt", t, texts), theirs["scores"], 5e-5)


@pytest.mark.parametrize(
    ("settings", "t", "theirs"), [pytest.param({}, OF_WCA, outputs("lazsl"), id="lazsl"), *edge_cases("lazsl")]
)
def test_lazsl(settings, t, theirs):
    """Where equal views fall below their own mean by a rounding, the program gives no number; here all of them count."""
    scores, mass = scores_of("lazsl", t), mass_above_mean(t["views"], t["whole"])
    given = theirs["scores"].isfinite().all(1)
    torch.testing.assert_close(mass[given], theirs["view_weights"][given], atol=1e-6, rtol=0)
    assert_same(scores[given], theirs["scores"][given], 1e-6)
    if not given.all():
        same = t["views"][~given]
        torch.testing.assert_close(mass[~given], torch.full(same.shape[:2], 1 / same.shape[1]))
        x0, view = t["whole"][~given], same[:, 0]
        pooled = text_features(t["texts"], t["counts"]).pooled
        torch.testing.assert_close(scores[~given], (0.2 * x0 + 0.8 * view) @ pooled.T, atol=1e-6, rtol=0)


OF_ABS = VIEWS | {"texts": SHARED["texts_equal"].flatten(0, 1), "counts": torch.full((20,), 12)}


@pytest.mark.parametrize(
    ("settings", "t", "theirs"), [pytest.param({}, OF_ABS, outputs("abs"), id="abs"), *edge_cases("abs")]
)
def test_soft_matching(settings, t, theirs):
    """The program sums over views and leaves the temperature in; it keeps 50 texts per class, as our prompts for it do.

    It cannot stack classes with different numbers of texts; ours scores them.
    """
    first = torch.cat([features[:50] for features in t["texts"].split(t["counts"].tolist())])
    scores = scores_of("soft-matching", t, text_features(first, t["counts"].clamp(max=50))) * t["views"].shape[1] / 0.03
    if theirs:
        assert_same(scores, theirs["scores"], 5e-4)
    else:
        assert len(set(t["counts"].tolist())) > 1
        similarity = t["views"] @ t["texts"].T / 0.03
        terms = (similarity.softmax(2) * similarity).sum(1).split(t["counts"].tolist(), dim=1)
        torch.testing.assert_close(scores, torch.stack([part.sum(1) for part in terms], 1), atol=5e-4, rtol=0)


@pytest.mark.parametrize(
    ("settings", "t", "theirs"), [pytest.param({}, EQUAL, outputs("cgbc"), id="cgbc"), *edge_cases("cgbc")]
)
def test_cgbc(settings, t, theirs):
    logits = 100 * torch.einsum("nd,cld->ncl", t["whole"], t["texts"])
    _, outliers = concept_scores(logits, torch.ones(logits.shape[1:], dtype=torch.bool))
    torch.testing.assert_close(outliers, theirs["outliers"], atol=1e-6, rtol=0)
    assert_same(100 * scores_of("cgbc", t), theirs["scores"], 1e-4)


TRANSCLIP_FAILS = ("seven", "class_without_picture")


@pytest.mark.parametrize(
    ("settings", "t", "theirs"),
    [
        pytest.param({}, OF_SET, outputs("transclip"), id="transclip"),
        pytest.param(
            {}, {"whole": MANY["whole"], "classes": MANY["classes"]}, outputs("transclip", "many/"), id="transclip-many"
        ),
        *but("transclip", *TRANSCLIP_FAILS),
    ],
)
def test_transclip(settings, t, theirs):
    assert_same(scores_of("transclip", t), theirs["scores"], 1e-4)


@pytest.mark.parametrize(("settings", "t", "theirs"), only("transclip", *TRANSCLIP_FAILS))
def test_transclip_where_its_program_fails(settings, t, theirs):
    """Fewer images than eight all start a class; the classes are those of the texts, whatever labels the images have."""
    assert not theirs
    z = scores_of("transclip", t)
    torch.testing.assert_close(z.sum(1), torch.ones(len(z)))


@pytest.mark.parametrize(
    ("settings", "t", "theirs"),
    [
        pytest.param({}, OF_SET, outputs("stata"), id="stata"),
        pytest.param({}, {"whole": MANY["whole"], "classes": MANY["classes"]}, outputs("stata", "many/"), id="stata-many"),
        *edge_cases("stata"),
    ],
)
def test_stata(settings, t, theirs):
    log_y = class_log_probabilities(text_features(t["classes"]), t["whole"], 100.0)
    torch.testing.assert_close(log_y.exp(), theirs["zero_shot"], atol=1e-5, rtol=0)
    assert_same(scores_of("stata", t, **{name: float(value) for name, value in settings.items()}), theirs["scores"], 1e-4)


@pytest.mark.parametrize(
    ("settings", "t", "theirs"),
    [
        pytest.param({}, EQUAL, outputs("carprt"), id="carprt"),
        pytest.param({}, {"whole": MANY["whole"], "texts": MANY["texts"]}, outputs("carprt", "many/"), id="carprt-many"),
        *edge_cases("carprt"),
    ],
)
def test_carprt(settings, t, theirs):
    temperature = settings.get("temp", 1.0)
    weights = carprt_weights(t["whole"], t["texts"], 100.0, temperature)
    torch.testing.assert_close(weights, theirs["weights"], atol=1e-5, rtol=0)
    assert_same(100 * scores_of("carprt", t, temperature=temperature), theirs["scores"], 2e-4)
