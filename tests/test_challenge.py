"Challenges of several images: what must hold for any accuracy, the published figures, and formulas against rules played out"
import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import betabinom, binom

from captcha_lab.challenge import (Gate, cost_per_thousand, partial_credit_rate, pass_all, pass_rate, passes_a_challenge, passes_a_day,
                                   session_pass, simulate_rate, simulate_session, token_bucket_rate, within_tries)
from captcha_lab.challenge_fit import (abstention_curve, all_right, fit_beta_binomial, group_counts, plot_abstention,
                                       real_pass_rate)
from captcha_lab.challenge_report import (PEOPLE, best_defence, challenge_report, compare, defence_table, defences, plot_defences,
                                          plot_gap)
from captcha_lab.core import InputError

chances = st.one_of(st.floats(0, 1), st.sampled_from([0., 1e-300, 1e-17, .5, 1 - 2**-53, 1.]))
sizes, few = st.integers(1, 40), st.integers(1, 12)
settings_of = st.fixed_dictionaries({'partial_credit': st.booleans(), 'token_bucket': st.integers(0, 6), 'tries': few,
                                     'per_session': st.integers(0, 5)})
EPS = 1e-12
pytestmark = pytest.mark.filterwarnings('error')
BOTH = {'partial_credit': True, 'token_bucket': 3}


# ---- what must hold for any accuracy

@given(chances, sizes, settings_of)
def test_a_rate_is_a_chance(p, n, defence):
    assert 0 <= pass_rate(p, n, **defence) <= 1
    assert 0 <= passes_a_challenge(p, n, **{k: v for k, v in defence.items() if k != 'tries'}) <= 1


@given(chances, chances, sizes, settings_of)
def test_who_sees_better_passes_more(p, q, n, defence):
    low, high = sorted((p, q))
    assert pass_rate(low, n, **defence) <= pass_rate(high, n, **defence) + EPS


@given(chances, st.integers(2, 40), settings_of)
def test_more_images_are_harder(p, n, defence):
    assert pass_rate(p, n + 1, **defence) <= pass_rate(p, n, **defence) + EPS


@given(chances, sizes, settings_of)
def test_more_tries_are_easier(p, n, defence):
    assert pass_rate(p, n, **defence) <= pass_rate(p, n, **defence | {'tries': defence['tries'] + 1}) + EPS


@given(chances, sizes, few)
def test_credit_helps_and_a_bucket_hinders(p, n, refill):
    plain, credit = pass_all(p, n), partial_credit_rate(p, n)
    assert credit >= plain
    assert token_bucket_rate(plain, refill) <= token_bucket_rate(plain, refill + 1) + EPS <= plain + 2*EPS
    assert plain - EPS <= partial_credit_rate(p, n, per_session=2) <= partial_credit_rate(p, n, per_session=200) + EPS <= credit + p + EPS


@given(chances, st.integers(1, 15), st.integers(1, 8), st.integers(0, 4), st.integers(0, 5), st.booleans())
def test_one_visitor(p, n, tries, refill, tokens, partial):
    rest = {'partial_credit': partial, 'token_bucket': refill, 'tokens': tokens}
    now, later = (session_pass(p, n, k, **rest) for k in (tries, tries + 1))
    assert -EPS <= now <= later + EPS <= 1 + 2*EPS
    assert now <= session_pass(p, n, tries, **rest | {'token_bucket': 0}) + EPS
    if not partial and (not refill or tokens >= tries): assert now == pytest.approx(within_tries(pass_all(p, n), tries))


@given(st.floats(.01, 1), st.floats(.01, 1), sizes, st.integers(1, 20))
def test_a_bucket_squares_the_ratio_at_most(p, q, n, refill):
    machine, people = sorted(pass_all([p, q], n))
    ratio = token_bucket_rate(people, refill)/token_bucket_rate(machine, refill)
    assert people/machine*(1 - 1e-9) <= ratio <= (people/machine)**2*(1 + 1e-9)


@given(st.floats(.99, 1), st.floats(0, 1))
def test_no_bucket_helps_against_a_good_machine(p, people):
    found = best_defence(p, people)
    assert found['ratio'] <= max((people/p)**24, 1) + 1e-9 <= 1.28
    assert found['machine'] > .78


@given(st.floats(.02, 1), settings_of)
def test_without_a_gap_there_is_nothing_to_use(p, defence):
    assert compare(p, p, **defence)['ratio'] in (1, None)


@given(chances, st.integers(1, 500), st.integers(0, 600), st.integers(0, 5))
def test_limits(p, limit, tokens, refill):
    day = passes_a_day(p, per_address=limit, tokens=tokens, token_bucket=refill)
    assert 0 <= day <= passes_a_day(p, per_address=limit) + 1e-9 <= limit*(1 + EPS) + 1e-9
    assert passes_a_day(p, per_address=limit, addresses=3, tokens=tokens, token_bucket=refill) == pytest.approx(3*day)
    cost = cost_per_thousand(p, per_address=limit, tokens=tokens, token_bucket=refill)
    assert cost >= 1000*(.001 + .1/limit)*(1 - 1e-9)


@given(chances, sizes)
def test_arrays_are_as_numbers(p, n):
    assert pass_rate([p, .5], n, **BOTH)[0] == pass_rate(p, n, **BOTH)


# ---- published figures

def test_asirra_and_golle():
    assert pass_all(.5) == 1/4096
    assert round(1/pass_all(.6)) == 459
    assert pass_all(.827) == pytest.approx(.103, rel=.01)
    assert 1/pass_rate(.6, **BOTH) == pytest.approx(54000, rel=.011)
    assert session_pass(.985, tries=2, partial_credit=True) == pytest.approx(.996, abs=5e-4)
    assert pass_all(PEOPLE) == pytest.approx(.996)


@pytest.mark.parametrize('p,rates', [(.5, (1/4096, 1/3957, 1/5.59e6, 1/5.22e6)), (.6, (.00218, .00247, 1/70501, 1/54558)),
                                     (.827, (.1023, .155, .0283, .0614)), (.98914, (.877, .889, .876, .888)), (.9973, (.968, .969, .968, .969))])
def test_each_defence(p, rates):
    assert [float(pass_rate(p, **d)) for d in defences().values()] == pytest.approx(rates, rel=2e-3)


def test_golles_advice():
    "Credit makes it easier for the machine than for people; the bucket the other way round"
    ratio = {r['defence']: r['ratio'] for r in defence_table(.827)}
    assert ratio['partial credit'] < ratio['no defence'] < ratio['both'] < ratio['token bucket']


# ---- formulas against other ways to get there

def brute(p, n, tries, partial, refill, tokens):
    "A fresh session by all sequences of all, all but one, less: the rules in plain words"
    part = [p**n, n*p**(n - 1)*(1 - p)]
    part.append(1 - sum(part))
    total = 0
    for seen in itertools.product(range(3), repeat=tries):
        left, credit, passed = tokens, False, False
        for wrong in seen:
            right = wrong == 0 or (wrong == 1 and credit)
            credit = partial and wrong == 1 and not credit
            if refill and left == 0: left = refill*right
            else: passed, left = passed or right, left - 1
        total += passed*math.prod(part[w] for w in seen)
    return total


@pytest.mark.parametrize('p,partial,refill,tokens', itertools.product((.3, .9), (False, True), (0, 1, 2), (0, 2)))
def test_session_by_all_sequences(p, partial, refill, tokens):
    args = {'partial_credit': partial, 'token_bucket': refill, 'tokens': tokens}
    for tries in (1, 2, 5): assert session_pass(p, 4, tries, **args) == pytest.approx(brute(p, 4, tries, partial, refill, tokens))


@pytest.mark.parametrize('limit', [1, 2, 3, 7])
def test_credit_of_closed_sessions(limit):
    "Mean over the challenges of a session that is closed after some"
    p, n = .8, 5
    s, a, credit, rates = p**n, n*p**(n - 1)*(1 - p), 0, []
    for _ in range(limit):
        rates.append(s + credit*a)
        credit = (1 - credit)*a
    assert partial_credit_rate(p, n, limit) == pytest.approx(np.mean(rates))


GRID = list(itertools.product((.6, .9, .99), (2, 12), (False, True), (0, 1, 3)))


@pytest.mark.parametrize('p,n,partial,refill', GRID)
def test_the_long_run_played(p, n, partial, refill):
    args = {'partial_credit': partial, 'token_bucket': refill}
    for tries in (1, 3):
        low, high = simulate_rate(p, n, tries, attackers=400, goes=10, seed=7, **args)['interval']
        assert low <= pass_rate(p, n, tries=tries, **args) <= high


@pytest.mark.parametrize('p,n,partial,refill', GRID)
def test_visitors_played(p, n, partial, refill):
    args = {'partial_credit': partial, 'token_bucket': refill, 'tokens': 1}
    low, high = simulate_session(p, n, 4, visitors=8000, seed=7, **args)['interval']
    assert low <= session_pass(p, n, 4, **args) <= high


@pytest.mark.parametrize('refill', [0, 1, 3])
def test_passes_a_challenge_played(refill):
    "Counting challenges in place of turns"
    gate = Gate(.9, 6, 500, partial_credit=True, token_bucket=refill, sessions=64, seed=3)
    for _ in range(640): gate.challenge()
    passed = [gate.challenge()[0].mean() for _ in range(400)]
    assert np.mean(passed) == pytest.approx(passes_a_challenge(.9, 6, token_bucket=refill, partial_credit=True), rel=.02)


# ---- real answers

@settings(max_examples=30, deadline=None)
@given(st.floats(.05, .95), st.floats(.001, .9), st.integers(1, 20))
def test_all_right(p, rho, n):
    a = (1 - rho)/rho
    assert all_right(p, rho, n) == pytest.approx(betabinom.pmf(n, n, p*a, (1 - p)*a))
    assert all_right(p, rho, n) >= p**n*(1 - 1e-9)


@pytest.mark.parametrize('method', ['likelihood', 'moments'])
@pytest.mark.parametrize('p,rho', [(.9, 0), (.9, .05), (.7, .3)])
def test_fit_finds_what_was_put_in(p, rho, method):
    sizes = np.random.default_rng(0).integers(2, 15, size=5000)
    counts = betabinom.rvs(sizes, p*(1 - rho)/rho, (1 - p)*(1 - rho)/rho, random_state=1) if rho else binom.rvs(sizes, p, random_state=1)
    fit = fit_beta_binomial(counts, sizes, method=method)
    assert (fit['p'], fit['rho']) == (pytest.approx(p, abs=.01), pytest.approx(rho, abs=.02))


@pytest.mark.parametrize('counts,sizes', [([12], 12), ([0, 0], 12), ([3], 12), ([1, 0, 1], 1), ([12, 0], 12), ([6]*9, 12)])
def test_fit_of_odd_counts(counts, sizes):
    for method in ('likelihood', 'moments'):
        fit = fit_beta_binomial(counts, sizes, method=method)
        assert 0 <= fit['pass_rate'] <= 1 and 0 <= fit['rho'] <= 1


def test_deal_by_hand():
    "From 13 images with one mistake, 12 are all right once in 13"
    found = real_pass_rate([1]*12 + [0], n_challenges=20000, n_boot=0)
    assert found['pass_rate']['value'] == pytest.approx(1/13, abs=.01)
    assert found['independent']['value'] == pytest.approx((12/13)**12)
    groups = np.repeat(np.arange(12), 2)
    pairs = real_pass_rate(np.isin(groups, range(11)), 2, groups=groups, n_challenges=20000, n_boot=0)
    assert pairs['pass_rate']['value'] == pytest.approx(11/12, abs=.01)  # a challenge is one pair
    cut = real_pass_rate([1, 0]*20, 3, groups=np.repeat(np.arange(20), 2), n_challenges=2000, n_boot=0)
    assert cut['pass_rate']['value'] == 0  # one pair and the half of another


def test_balanced_challenges():
    kinds = np.arange(4000) % 2
    right = np.where(kinds == 0, np.arange(4000) % 10 > 1, True)
    right[kinds == 0] = np.arange(2000) % 10 > 1  # 80 % of one kind, all of the other
    found = real_pass_rate(right, labels=kinds, n_challenges=20000, n_boot=50)
    assert found['pass_rate']['value'] == pytest.approx(.8**6, abs=.012)
    assert found['independent']['value'] == pytest.approx(.9**12)
    low, high = found['pass_rate']['ci95']
    assert low < .8**6 < high


def test_interval_covers():
    "Whole groups are drawn: twice the same photo is no more evidence"
    right = np.random.default_rng(5).random(600) < .95
    once = real_pass_rate(right, n_boot=200)['p']['ci95']
    twice = real_pass_rate(np.tile(right, 2), groups=np.tile(np.arange(600), 2), n_boot=200)['p']['ci95']
    assert np.diff(twice) == pytest.approx(np.diff(once), rel=.25)


def test_one_sure_choice():
    "Half of the challenges right and known to be: with k skips all but 2^-k of visits find one, and half of the rest pass"
    confidence = right = np.arange(2000) % 2
    for skips in (0, 1, 3):
        row = abstention_curve(confidence, right, 1, skips=skips, thresholds=.5, n_challenges=2000)[0]
        half = row['answered']
        assert (half, row['pass_answered']) == (pytest.approx(.5, abs=.05), 1)
        assert row['pass_visit'] == pytest.approx(1 - (1 - half)**(skips + 1))
        assert row['challenges'] == pytest.approx(sum((1 - half)**i for i in range(skips + 1)))


# ---- reports and charts

@given(chances, sizes, settings_of, st.booleans())
def test_report_is_json(p, n, defence, free):
    report = challenge_report(p, n, **defence, challenge_price=0 if free else 1, address_price=0)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert {'p': p, 'n': n} | defence == {k: report[k] for k in ('p', 'n', *defence)}
    assert report['pass_rate'] == pass_rate(p, n, **defence)
    assert report['one_in'] is None or report['one_in']*report['pass_rate'] == pytest.approx(1)


def test_report_of_next_to_nothing():
    report = challenge_report(1e-26)
    assert 0 < report['pass_rate'] < 1e-300 and report['one_in'] is None and report['cost_per_thousand'] is None


def test_report_of_numpy_numbers():
    report = challenge_report(np.float32(.5), np.int64(12))
    assert json.loads(json.dumps(report))['one_in'] == 4096


BAD = [({'p': -.1}, 'p must lie'), ({'p': 1.5}, 'p must lie'), ({'p': math.nan}, 'p must lie'), ({'p': 'x'}, 'p must be a number'),
       ({'p': None}, 'p must'), ({'n': 0}, 'n must'), ({'n': -12}, 'n must'), ({'n': 2.5}, 'n must'),
       ({'n': 10**9}, 'n must'), ({'token_bucket': -1}, 'token bucket must'),
       ({'token_bucket': 1.5}, 'token bucket must'), ({'tries': 0}, 'tries must'), ({'per_session': -1}, 'limit of a session must'),
       ({'per_address': 0}, 'limit of an address must'), ({'tokens': -1}, 'number of tokens must'), ({'people': 1.1}, 'people must lie'),
       ({'challenge_price': -1}, 'price of a challenge must'), ({'address_price': math.inf}, 'price of an address must')]


@pytest.mark.parametrize('bad,say', BAD)
def test_bad_input(bad, say):
    with pytest.raises(InputError, match=say) as e: challenge_report(**{'p': .8, 'partial_credit': True} | bad)
    assert '\n' not in str(e.value)


@pytest.mark.parametrize('call', [
    lambda: simulate_rate(.5, token_bucket=-1), lambda: simulate_rate(.5, goes=0), lambda: simulate_rate(2),
    lambda: simulate_session(.5, tries=0), lambda: simulate_session(.5, visitors=0), lambda: session_pass(.5, tokens=-1),
    lambda: real_pass_rate([]), lambda: real_pass_rate([1]*20, groups=[1]), lambda: real_pass_rate([1]*20, n=0),
    lambda: abstention_curve([.5], [1]), lambda: abstention_curve([.5, math.nan], [1, 1], 1), lambda: group_counts([], []),
    lambda: fit_beta_binomial([[1]], 2), lambda: fit_beta_binomial([1, 2], [3, 0]), lambda: best_defence(.5, max_refill=-1),
    lambda: all_right(.5, 2)])
def test_bad_calls(call):
    with pytest.raises(InputError): call()


def test_charts():
    import matplotlib.pyplot as plt
    curve = abstention_curve(np.full(50, .9), np.arange(50) % 10 > 0)
    for ax in (plot_defences(), plot_gap(), plot_abstention(curve)):
        ax.figure.canvas.draw()
        assert ax.get_xlabel() and ax.get_ylabel() and ax.get_legend()
        plt.close(ax.figure)
    _, ax = plt.subplots()
    assert plot_gap(.99, 6, ax) is ax
    plt.close(ax.figure)
