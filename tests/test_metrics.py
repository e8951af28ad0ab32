"Metrics against formulas worked out elsewhere, and what must hold for any texts"
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captcha_lab.core import InputError
from captcha_lab.metrics import (accuracy_at, bootstrap, cer, confusion_pairs, coverage_at, coverage_curve, exact_match,
                                 expected_calibration_error, matches, position_accuracy, reliability, share, text_report,
                                 trivial_baseline, wilson)

texts = st.text('ABé', max_size=5)
read = st.lists(st.tuples(texts | st.none(), texts), min_size=1, max_size=20)
answers = st.lists(st.tuples(st.sampled_from([0., .1, .5, .9, 1.]), st.booleans()), min_size=1, max_size=30)


def edits(a, b):
    "Levenshtein distance, the slow way"
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        left, row = row, [i]
        for j, y in enumerate(b, 1): row.append(min(left[j] + 1, row[-1] + 1, left[j - 1] + (x != y)))
    return row[-1]


@pytest.mark.parametrize('k, n, low, high', [ # R: binom::binom.wilson, statsmodels: proportion_confint(method='wilson')
    (102, 104, .9326, .9947), (0, 10, 0, .2775), (10, 10, .7225, 1), (5, 10, .2366, .7634), (1, 1, .2065, 1),
    (900, 900, .9957, 1), (15, 50, .1910, .4375)])
def test_wilson_knows_published_values(k, n, low, high):
    assert wilson(k, n) == pytest.approx((low, high), abs=1e-4)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_share_and_is_symmetric(kn):
    k, n = kn
    low, high = wilson(k, n)
    assert 0 <= low <= k/n <= high <= 1
    assert wilson(n - k, n) == pytest.approx((1 - high, 1 - low))


def test_wilson_solves_its_equation():
    "The ends are the shares from which k/n is just 1.96 standard errors away"
    for p in wilson(37, 120): assert abs(37/120 - p) == pytest.approx(1.96*math.sqrt(p*(1 - p)/120))


@pytest.mark.parametrize('k, n', [(0, 0), (-1, 4), (5, 4)])
def test_no_share_of_nothing(k, n):
    with pytest.raises(InputError): share(k, n)


def test_jiwer_values():
    "jiwer 4.0: cer('AB12', 'AB1') == .25; micro average over a list; cer('', 'A') == 1"
    assert cer(['AB1'], ['AB12'])['value'] == .25
    assert cer(['AB1', 'A'], ['AB12', 'A'])['value'] == 1/5
    assert cer(['A'], [''])['value'] == 1
    assert cer(['ABC'], ['ADC'])['value'] == 1/3


@settings(max_examples=60)
@given(read)
def test_symbol_measures_agree(pairs):
    preds, targets = zip(*pairs)
    total = sum(edits(t, p or '') for p, t in pairs)
    symbols = sum(map(len, targets))
    assert sum(confusion_pairs(preds, targets).values()) == total
    m = cer(preds, targets)
    assert m['value'] == pytest.approx(total/symbols if symbols else float(total > 0))
    assert m['ci95'][0] <= m['ci95'][1] and m['n'] == symbols
    right = matches(preds, targets)
    assert exact_match(preds, targets)['value'] == right.mean()
    assert [o['n'] for o in position_accuracy(preds, targets)] == \
           [sum(len(t) > i for t in targets) for i in range(max(map(len, targets)))]
    report = text_report(preds, targets, [None if p is None else .5 for p in preds], targets)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert report['unreadable'] == preds.count(None)


def test_unreadable_is_failure_everywhere():
    assert exact_match([None], [''])['value'] == 0
    assert cer([None], ['ABC'])['value'] == 1
    assert position_accuracy([None], ['AB'])[0]['value'] == 0
    assert text_report([None], ['A'], [None])['accuracy_at_98']['value'] == 0


@given(answers)
def test_coverage_curve_is_what_a_threshold_does(pairs):
    conf, right = map(np.array, zip(*pairs))
    curve = coverage_curve(conf, right)
    for c, a, t in zip(curve.coverage, curve.accuracy, curve.threshold):
        assert c == (conf >= t).mean() and a == pytest.approx(right[conf >= t].mean())
    assert curve.coverage[-1] == 1 and (np.diff(curve.threshold) < 0).all()
    assert 0 <= curve.aurc <= 1
    m = accuracy_at(conf, right, .5)
    assert m['coverage'] >= .5 and m['value'] == pytest.approx(right[conf >= m['threshold']].mean())
    m = coverage_at(conf, right, .8)
    if m['threshold'] is not None: assert right[conf >= m['threshold']].mean() >= .8 - 1e-9
    else: assert (curve.accuracy < .8).all()


@given(answers)
def test_calibration_error_by_hand(pairs):
    conf, right = map(np.array, zip(*pairs))
    bins = np.minimum((conf*15).astype(int), 14)
    by_hand = sum(abs(conf[bins == b].mean() - right[bins == b].mean())*(bins == b).mean() for b in set(bins))
    assert expected_calibration_error(conf, right) == pytest.approx(by_hand)
    assert sum(r['accuracy']['n'] for r in reliability(conf, right)) == len(pairs)


def test_aurc_of_order():
    "The best order, the worst, and the area of a confidence that knows nothing"
    right = np.array([True]*8 + [False]*2)
    best, worst, none = [coverage_curve(c, right).aurc for c in (np.arange(10, 0, -1), np.arange(10), np.ones(10))]
    assert best == pytest.approx((1/9 + 2/10)/10) and worst > none == pytest.approx(.2)


def test_bootstrap_of_groups():
    values, groups = np.repeat(np.arange(10) % 2, 20), np.repeat(list('abcdefghij'), 20)
    together, alone = bootstrap(values, groups=groups)['ci95'], bootstrap(values)['ci95']
    assert together[1] - together[0] > 3*(alone[1] - alone[0])
    assert bootstrap(values, groups=groups) == bootstrap(values, groups=groups)


def test_bootstrap_covers():
    "About 95 of 100 intervals hold the true mean"
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(100):
        low, high = bootstrap(rng.normal(size=60), n_boot=300, seed=seed)['ci95']
        hits += low <= 0 <= high
    assert 88 <= hits <= 100


def test_baselines():
    base = trivial_baseline(['22', '22', '33', '4'], ['22', '23', '5', '34'])
    assert base['text'] == '22' and base['constant']['value'] == .25
    assert base['uniform']['value'] == pytest.approx(3/4/9) # two places, three symbols; "5" is out of reach


@pytest.mark.parametrize('call', [
    lambda: exact_match(['A'], []), lambda: cer([], []), lambda: coverage_curve([.5], [True, False]),
    lambda: coverage_curve([float('nan')], [True]), lambda: accuracy_at([.5], [True], 1.5),
    lambda: reliability([1.5], [True]), lambda: trivial_baseline(['A'], []), lambda: bootstrap([1, 2], groups=[1])])
def test_bad_input(call):
    with pytest.raises(InputError) as e: call()
    assert '\n' not in str(e.value)
