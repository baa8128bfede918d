"""Wilson's interval against scipy's, paired differences, and the laws they obey."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, norm

from crossalign.statistics import paired_interval, wilson_interval

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
    first, second = rights(0, 0.5), rights(1, 0.6)
    difference, low, high = paired_interval(first, second, resamples=2000)
    assert paired_interval(second, first, resamples=2000) == pytest.approx((-difference, -high, -low))
    assert paired_interval(first, second, resamples=2000) == (difference, low, high)
    assert paired_interval(first, second, resamples=2000, seed=1) != (difference, low, high)


@pytest.mark.parametrize("numbers", [(3, 2), (0, 0)])
def test_other_pictures_cannot_be_paired(numbers):
    with pytest.raises(ValueError, match=f"the same pictures, but there are {numbers[0]} and {numbers[1]}"):
        paired_interval(*map(np.ones, numbers))
