"""Intervals, tests, corrections and calibration against scipy's, plain loops and textbook values, and the laws they obey."""

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import binom, binomtest, norm

from crossalign.evaluation.statistics import (
    FACTORS,
    calibrate,
    compare,
    expected_calibration_error,
    holm,
    mcnemar,
    paired_interval,
    paper_pairs,
    per_class_accuracy,
    split_sigma,
    two_level_interval,
    wilson_interval,
)

counts = st.integers(1, 5000).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total)))


@given(counts)
def test_equals_scipys(count):
    correct, total = count
    theirs = binomtest(correct, total).proportion_ci(confidence_level=0.95, method="wilson")
    assert wilson_interval(correct, total) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


@given(counts, st.sampled_from([0.5, 0.9, 0.99]))
def test_other_coverages_equal_scipys(count, level):
    correct, total = count
    theirs = binomtest(correct, total).proportion_ci(confidence_level=level, method="wilson")
    ours = wilson_interval(correct, total, z=norm.ppf((1 + level) / 2))
    assert ours == pytest.approx((theirs.low, theirs.high), abs=1e-9)


@given(counts)
def test_holds_the_share_and_stays_within_0_and_1(count):
    correct, total = count
    low, high = wilson_interval(correct, total)
    assert 0 <= low < high <= 1
    assert low - 1e-12 <= correct / total <= high + 1e-12


@given(counts)
def test_wrong_answers_mirror_right_ones(count):
    correct, total = count
    low, high = wilson_interval(correct, total)
    assert wilson_interval(total - correct, total) == pytest.approx((1 - high, 1 - low), abs=1e-12)


@given(counts, st.integers(2, 50))
def test_more_pictures_make_it_narrower(count, times):
    correct, total = count
    low, high = wilson_interval(correct, total)
    narrow_low, narrow_high = wilson_interval(correct * times, total * times)
    assert narrow_high - narrow_low < high - low


@given(counts, st.floats(0.01, 0.99))
def test_a_mean_over_runs_lies_between_its_neighbours(count, part):
    correct, total = count
    if correct < total:
        below, between, above = (wilson_interval(k, total) for k in (correct, correct + part, correct + 1))
        assert below[0] < between[0] < above[0]
        assert below[1] < between[1] <= above[1]


@pytest.mark.parametrize("total", [20, 370, 1020])
def test_covers_the_truth_19_times_of_20(total):
    bounds = np.array([wilson_interval(correct, total) for correct in range(total + 1)])
    shares = np.linspace(0.05, 0.95, 91)[:, None]
    held = (bounds[:, 0] <= shares) & (shares <= bounds[:, 1])
    coverage = (held * binom.pmf(np.arange(total + 1), total, shares)).sum(1)
    assert coverage.mean() == pytest.approx(0.95, abs=0.01)


def rights(seed, share, number=400):
    return (np.random.default_rng(seed).random(number) < share).astype(float)


def test_a_paired_interval_is_the_mean_difference_and_its_bootstrap():
    first, second = rights(0, 0.5), rights(1, 0.65)
    difference, low, high = paired_interval(first, second)
    assert difference == pytest.approx((second - first).mean())
    error = (second - first).std() / np.sqrt(len(first))
    assert (low, high) == pytest.approx((difference - 1.96 * error, difference + 1.96 * error), abs=0.1 * error + 1 / 400)


def test_a_paired_interval_knows_that_the_pictures_are_the_same():
    first = rights(0, 0.5)
    second = first.copy()
    second[first.argmin()] = 1
    difference, low, high = paired_interval(first, second)
    assert difference == pytest.approx(1 / 400)
    assert 0 <= low <= difference <= high < 0.02
    assert paired_interval(first, first) == (0, 0, 0)


def test_a_paired_interval_turns_with_its_methods_and_repeats_with_its_seed():
    # Of a mean over few pictures' right and wrong, quantiles fall on a coarse grid: how sure they were does not.
    first, second = rights(0, 0.5) * 0.37 + rights(2, 0.5) * 0.21, rights(1, 0.7) * 0.59
    difference, low, high = paired_interval(first, second, resamples=2000)
    assert paired_interval(second, first, resamples=2000) == pytest.approx((-difference, -high, -low))
    assert paired_interval(first, second, resamples=2000) == (difference, low, high)
    assert paired_interval(first, second, resamples=2000, seed=1) != (difference, low, high)


@pytest.mark.parametrize("numbers", [(3, 2), (0, 0)])
def test_other_pictures_cannot_be_paired(numbers):
    with pytest.raises(ValueError, match=f"the same images, but their numbers are {numbers[0]} and {numbers[1]}"):
        paired_interval(*map(np.ones, numbers))


matrices = st.tuples(st.integers(1, 12), st.integers(1, 4)).flatmap(
    lambda shape: st.lists(st.sampled_from([0, 0.25, 0.5, 1]), min_size=math.prod(shape), max_size=math.prod(shape)).map(
        lambda values: np.array(values).reshape(shape)
    )
)


def bootstrap_loop(values, resamples):
    """The definition: draw rows, draw columns, take the mean."""
    generator = np.random.default_rng(7)
    images, seeds = values.shape
    means = []
    for _ in range(resamples):
        rows, columns = generator.integers(images, size=images), generator.integers(seeds, size=seeds)
        means.append(values[rows][:, columns].mean())
    return np.quantile(means, [0.025, 0.975])


@pytest.mark.parametrize(("images", "seeds", "spread"), [(80, 1, 0.0), (80, 4, 0.0), (80, 4, 0.3), (300, 6, 0.2)])
def test_the_two_level_bootstrap_equals_its_definition(images, seeds, spread):
    generator = np.random.default_rng(images + seeds)
    share = generator.random((images, 1)) * 0.6 + 0.2 + generator.uniform(-spread, spread, seeds)
    values = generator.binomial(5, share.clip(0, 1)) / 5
    mean, low, high = two_level_interval(values, resamples=20_000)
    assert mean == pytest.approx(values.mean())
    assert (low, high) == pytest.approx(bootstrap_loop(values, 8000), abs=0.06 * (high - low))


def test_noise_of_seeds_widens_the_interval():
    same = np.repeat(rights(0, 0.5)[:, None], 4, axis=1)
    moved = same + np.array([-0.3, -0.1, 0.1, 0.3])
    width = {name: np.ptp(two_level_interval(values)[1:]) for name, values in {"same": same, "moved": moved}.items()}
    assert width["moved"] > 2 * width["same"]
    assert two_level_interval(same)[1:] == pytest.approx(two_level_interval(same[:, 0])[1:], abs=0.006)


@given(matrices, st.randoms(use_true_random=False))
@settings(deadline=None)
def test_a_bootstrap_holds_the_mean_and_knows_no_order_of_pictures(values, random):
    mean, low, high = two_level_interval(values, resamples=300)
    assert low - 1e-12 <= mean <= high + 1e-12
    order = list(range(len(values)))
    random.shuffle(order)
    assert two_level_interval(values[order], resamples=300) == pytest.approx((mean, low, high), abs=1e-12)
    assert two_level_interval(1 - values, resamples=300)[0] == pytest.approx(1 - mean)


def test_seeds_are_paired_with_seeds_and_one_column_with_all():
    one, three = rights(0, 0.5)[:, None], np.stack([rights(seed, 0.6) for seed in (1, 2, 3)], axis=1)
    assert paired_interval(one, three) == two_level_interval(three - one)
    assert paired_interval(one[:, 0], three[:, 0]) == paired_interval(one, three[:, :1])


def test_fifty_thousand_pictures_take_no_time():
    generator = np.random.default_rng(0)
    first, second = (generator.binomial(20, share, size=50_000) / 20 for share in (0.6, 0.61))
    start = time.process_time()
    difference, low, high = paired_interval(first, second)
    assert time.process_time() - start < 2
    error = (second - first).std() / math.sqrt(50_000)
    assert (low, high) == pytest.approx((difference - 1.96 * error, difference + 1.96 * error), abs=0.05 * error)


def test_a_bootstrap_needs_values():
    with pytest.raises(ValueError, match="at least one value"):
        two_level_interval(np.empty((0, 3)))


answers = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)


@given(answers)
def test_mcnemar_is_a_binomial_test_of_the_discordant_pairs(pairs):
    first, second = np.array(pairs).T
    only_first = sum(a and not b for a, b in pairs)
    discordant = sum(a != b for a, b in pairs)
    expected = binomtest(only_first, discordant).pvalue if discordant else 1
    assert mcnemar(first, second) == pytest.approx(expected)
    assert mcnemar(second, first) == mcnemar(first, second)
    assert mcnemar(first[::-1], second[::-1]) == mcnemar(first, second)


def test_mcnemar_of_one_and_nine_by_hand():
    first, second = np.repeat([True, False, True], [1, 9, 30]), np.repeat([False, True, True], [1, 9, 30])
    assert mcnemar(first, second) == pytest.approx(2 * (1 + 10) / 2**10)


def test_holm_of_a_textbook():
    """Four hypotheses, p 0.01, 0.04, 0.03, 0.005: times 4, 3, 2, 1 from the least on, never falling."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0.001, 0.5))
def test_holm_rejects_what_its_steps_reject(p_values, alpha):
    corrected = holm(p_values)
    assert all(raw <= p <= 1 for raw, p in zip(p_values, corrected, strict=True))
    assert [p for _, p in sorted(zip(p_values, corrected, strict=True))] == sorted(corrected)
    assert max(corrected) >= max(p_values)
    rejected = set()
    for step, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        if p_values[place] * (len(p_values) - step) >= alpha:
            break
        rejected.add(place)
    assert {place for place, p in enumerate(corrected) if p < alpha} == rejected


def test_a_comparison_takes_the_mean_over_runs_and_the_majority():
    plain = np.array([1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], dtype=bool)[:, None, None]
    runs = np.zeros((12, 1, 4), dtype=bool)
    runs[:, 0, :2] = True  # half of the runs is no majority
    runs[2:11, 0, 2] = True
    (found,) = compare({"clip": plain, "wca": runs}, [("clip", "wca")])
    assert (found.first, found.second) == ("clip", "wca")
    assert found.difference == pytest.approx(100 * (0.5 + 9 / 12 / 4 - 2 / 12))
    assert found.p == found.p_holm == pytest.approx(binomtest(2, 11).pvalue)
    assert found.low < found.difference < found.high
    assert not found.significant


@given(st.integers(0, 2**32), st.integers(2, 5))
@settings(max_examples=10, deadline=None)
def test_comparisons_agree_with_themselves(seed, methods):
    generator = np.random.default_rng(seed)
    right = {str(m): generator.random((200, 1, 1)) < generator.uniform(0.3, 0.7) for m in range(methods)}
    pairs = [("0", str(m)) for m in range(1, methods)]
    found = compare(right, pairs)
    assert [c.p_holm for c in found] == holm([c.p for c in found])
    for c in found:
        assert c.difference == pytest.approx(100 * (right[c.second].mean() - right[c.first].mean()))
        assert c.significant == (c.p_holm < 0.05 and not c.low <= 0 <= c.high)
    turned = compare(right, [(second, first) for first, second in pairs])
    assert [c.p for c in turned] == [c.p for c in found]


def test_two_runs_of_the_same_noise_are_seldom_significant():
    generator = np.random.default_rng(0)
    found = [
        compare({"a": generator.random((300, 1, 1)) < 0.5, "b": generator.random((300, 1, 1)) < 0.5}, [("a", "b")])[0]
        for _ in range(150)
    ]
    assert sum(c.significant for c in found) / 150 < 0.08


@pytest.mark.parametrize(
    ("top1", "pairs"),
    [
        ({"clip": 50, "cupl": 52, "wca": 55}, [("clip", "cupl"), ("clip", "wca"), ("cupl", "wca")]),
        ({"wca": 50, "clip": 52, "cupl": 49}, [("clip", "wca"), ("clip", "cupl")]),
        ({"clip": 50, "cupl": 40, "wca": 55}, [("clip", "cupl"), ("clip", "wca")]),
        ({"cupl": 52, "wca": 50, "waffle": 40}, [("wca", "cupl")]),
        ({"clip": 50}, []),
        ({"wca": 50}, []),
    ],
)
def test_pairs_of_a_paper(top1, pairs):
    assert paper_pairs(top1) == pairs


def test_sigma_splits_into_its_parts():
    generator = np.random.default_rng(0)
    accuracies = 60 + generator.normal(0, 2, (400, 1)) + generator.normal(0, 0.5, (400, 20))
    redraw, fresh = split_sigma(accuracies)
    assert redraw == pytest.approx(0.5, rel=0.05)
    assert fresh == pytest.approx(2, rel=0.1)
    assert split_sigma(accuracies[:1]) == (pytest.approx(accuracies[0].std(ddof=1)), None)
    assert split_sigma(accuracies[:, :1]) == (None, pytest.approx(accuracies[:, 0].std(ddof=1)))
    assert split_sigma(accuracies[:1, :1]) == (None, None)


@given(st.lists(st.tuples(st.sampled_from([0, 0.5, 1]), st.sampled_from([2, 3, 9])), min_size=1, max_size=30))
def test_per_class_accuracy_is_a_mean_of_means(pictures):
    by_class = {}
    for right, label in pictures:
        by_class.setdefault(label, []).append(right)
    expected = sum(sum(rights) / len(rights) for rights in by_class.values()) / len(by_class)
    assert per_class_accuracy(*map(np.array, zip(*pictures, strict=True))) == pytest.approx(expected)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40), st.integers(1, 20))
def test_calibration_error_equals_its_definition(pictures, bins):
    total = 0.0
    for number in range(1, bins + 1):
        inside = [(c, r) for c, r in pictures if max(1, math.ceil(c * bins)) == number]
        if inside:
            gap = sum(r for _, r in inside) / len(inside) - sum(c for c, _ in inside) / len(inside)
            total += len(inside) / len(pictures) * abs(gap)
    ours = expected_calibration_error(*map(np.array, zip(*pictures, strict=True)), bins=bins)
    assert ours == pytest.approx(total, abs=1e-12)


def test_calibration_error_of_known_cases():
    assert expected_calibration_error(np.ones(4), np.array([True, True, True, False])) == pytest.approx(0.25)
    assert expected_calibration_error(np.full(4, 0.75), np.array([True, True, True, False])) == 0


@pytest.mark.parametrize("temperature", [0.2, 1.0, 7.3])
def test_the_fitted_temperature_is_that_of_all_scores(temperature):
    generator = np.random.default_rng(3)
    logits = generator.normal(0, 3, (600, 12))
    labels = (logits + generator.gumbel(size=logits.shape)).argmax(1)
    logits = (logits * temperature).round(1)
    right = logits.argmax(1) == labels
    below = logits - logits.max(1, keepdims=True)
    sums = np.log(np.exp(below[:, :, None] * FACTORS).sum(1))
    found = calibrate(sums, -below[np.arange(600), labels], right)

    def loss(log_t, half=slice(0, None, 2)):
        scaled = logits[half] / math.exp(log_t)
        return np.mean(np.log(np.exp(scaled).sum(1)) - scaled[np.arange(len(scaled)), labels[half]])

    best = math.exp(minimize_scalar(loss, bounds=(-4, 4), method="bounded").x)
    assert found.temperature == pytest.approx(best, rel=2e-3)
    assert found.temperature == pytest.approx(temperature, rel=0.15)
    for value, t, half in ((found.ece, 1, slice(None)), (found.ece_before, 1, slice(1, None, 2))):
        powers = np.exp(below[half] / t)
        assert value == pytest.approx(expected_calibration_error((powers / powers.sum(1)[:, None]).max(1), right[half]))
    powers = np.exp(below[1::2] / found.temperature)
    after = expected_calibration_error((powers / powers.sum(1)[:, None]).max(1), right[1::2])
    assert found.ece_after == pytest.approx(after, abs=2e-3)
    if temperature == 7.3:
        assert found.ece_after < found.ece_before / 2


def test_a_held_out_half_needs_a_picture():
    with pytest.raises(ValueError, match="two or more images, but there are 1"):
        calibrate(np.zeros((1, len(FACTORS))), np.zeros(1), np.ones(1, dtype=bool))
