"Measures of many labels, thresholds and grids against plain versions and scikit-learn, and what must hold for any table"
import json
import math
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.metrics import (average_precision_score, cohen_kappa_score, f1_score, log_loss, multilabel_confusion_matrix,
                             precision_score, recall_score)

from captcha_lab.challenges import draw_grids, grid_chance, grid_curve, grid_pass, multilabel_report, simulate_grids
from captcha_lab.core import InputError
from captcha_lab.metrics import bootstrap, expected_calibration_error, share
from captcha_lab.multilabel import (accuracy_multi, agreement, average_precision, bootstrap_sums, checked, co_occurrence, confusion_counts,
                                    f1_report, label_ece, mean_ap, multi_hot, one_hot, resample, second_label_ece, share_of, top1, top_choice)
from captcha_lab.thresholds import (apply_thresholds, best_threshold, binary_cross_entropy, cool, false_accepts, fit_temperature,
                                    fit_temperatures, logits_of, threshold_curve, tune_thresholds)
from captcha_lab.tile_report import cross_filed, tile_report

warned = pytest.mark.filterwarnings('error')
levels = st.sampled_from([0., 1e-9, .1, .25, .5, .5 + 1e-16, np.nextafter(.5, 1), .75, 1 - 2**-53, 1.])


@st.composite
def tables(draw, logits=False):
    "(probs, truth, known) of up to 12 items and 4 classes, many probabilities equal"
    n, l = draw(st.integers(1, 12)), draw(st.integers(1, 4))
    table = lambda o: np.array(draw(st.lists(st.lists(o, min_size=l, max_size=l), min_size=n, max_size=n)))
    values = st.floats(-30, 30) if logits else levels
    probs, truth, known = table(values), table(st.booleans()), table(st.sampled_from([True, True, True, False]))
    assume(known.any())
    return probs, truth, known


def random_table(n=300, l=4, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.random((n, l)) < np.linspace(.5, .1, l)
    return 1/(1 + np.exp(-(3*truth - 2 + rng.normal(size=truth.shape)))), truth, rng.random((n, l)) < .9


def plain_ap(p, t):
    "Average precision by its definition: the mean over positives of the purity of the list down to each"
    return np.mean([t[p >= o].mean() for o in p[t]])


# ---- nothing warns, all is JSON

@warned
@settings(max_examples=60, deadline=None)
@given(tables(), st.sampled_from([0, .5, 1]))
def test_any_table_gives_json_and_no_warning(table, threshold):
    probs, truth, known = table
    chosen = apply_thresholds(probs, threshold)
    out = [accuracy_multi(probs, truth, threshold, known), f1_report(chosen, truth, known), agreement(chosen, truth, known),
           label_ece(probs, truth, known), false_accepts(probs, truth, threshold, known), threshold_curve(probs, truth, known, [threshold]),
           grid_pass(probs, truth, threshold, known, cells=3, targets=(1, 2), n_boot=20), top1(probs, probs.argmin(1))]
    if (truth & known).any(): out.append(mean_ap(probs, truth, known, n_boot=20))
    assert json.loads(json.dumps(out, allow_nan=False)) == out


def measures(o):
    "All measures in a report, wherever they are"
    if isinstance(o, dict):
        if {'value', 'ci95', 'n'} <= set(o): yield o
        for v in o.values(): yield from measures(v)
    if isinstance(o, list):
        for v in o: yield from measures(v)


@warned
@settings(max_examples=15, deadline=None)
@given(tables(), st.integers(0, 3))
def test_intervals_lie_in_range(table, seed):
    probs, truth, known = table
    assume((truth & known).any())
    report = multilabel_report(probs, truth, known, seed=seed, groups=np.arange(len(probs))//2)
    found = [m for m in measures(report) if m['ci95'] is not None]
    assert found and all(0 <= m['ci95'][0] <= m['ci95'][1] <= 1 for m in found)


@warned
def test_report_is_json_and_repeatable():
    probs, truth, known = random_table()
    args = dict(known=known, published=truth.argmax(1), thresholds=tune_thresholds(probs, truth, known), groups=np.arange(300)//3)
    report = multilabel_report(probs, truth, **args)
    assert json.loads(json.dumps(report, allow_nan=False)) == report == multilabel_report(probs, truth, **args)
    assert report['f1_published']['micro_f1']['value'] == pytest.approx(report['top1']['value'])  # one choice, one label


# ---- bad input

BAD = {'empty': (np.zeros((0, 3)), np.zeros((0, 3))), 'no classes': (np.zeros((3, 0)), np.zeros((3, 0))), 'flat': (np.zeros(3), np.zeros(3)),
       'shapes': (np.zeros((2, 3)), np.zeros((3, 2))), 'nan': (np.full((2, 2), np.nan), np.eye(2)), 'inf': (np.full((2, 2), np.inf), np.eye(2)),
       'range': (np.full((2, 2), 1.5), np.eye(2)), 'truth': (np.eye(2), np.full((2, 2), .5)), 'nan truth': (np.eye(2), np.full((2, 2), np.nan)),
       'nothing known': (np.eye(2), np.eye(2), np.zeros((2, 2))), 'known shape': (np.eye(2), np.eye(2), np.ones((1, 2))),
       'texts': ([['a']], [['b']]), 'ragged': ([[1, 0], [1]], [[1, 0], [1]]), 'none': (None, None)}
TAKE_TABLES = {'checked': checked, 'accuracy_multi': lambda p, t, k=None: accuracy_multi(p, t, known=k), 'f1_report': f1_report, 'mean_ap': mean_ap,
               'confusion_counts': confusion_counts, 'label_ece': label_ece, 'agreement': agreement, 'tune_thresholds': tune_thresholds,
               'false_accepts': lambda p, t, k=None: false_accepts(p, t, known=k), 'threshold_curve': threshold_curve,
               'grid_pass': lambda p, t, k=None: grid_pass(p, t, known=k), 'multilabel_report': multilabel_report,
               'second_label_ece': lambda p, t, k=None: second_label_ece(p, t, [0]*2, k)}


@warned
@pytest.mark.parametrize('what', BAD)
@pytest.mark.parametrize('name', TAKE_TABLES)
def test_bad_tables_are_refused(name, what):
    with pytest.raises(InputError): TAKE_TABLES[name](*BAD[what])


@warned
@pytest.mark.parametrize('call', [
    lambda: mean_ap(np.eye(2)*0, np.eye(2)*0), lambda: tune_thresholds(np.eye(2), np.eye(2)*0), lambda: f1_report(np.eye(2)/2, np.eye(2)),
    lambda: average_precision([math.nan], [1]), lambda: fit_temperature([[math.inf]], [[1]]), lambda: fit_temperatures([[math.nan]], [[1]]),
    lambda: cool([1.], -1), lambda: cool([math.nan]), lambda: logits_of([2]), lambda: apply_thresholds(np.eye(2), [.5, .5, .5]),
    lambda: apply_thresholds(np.eye(2), [.5, 2]), lambda: best_threshold([.5], [1], 'luck'), lambda: best_threshold([.5], [1], 'precision', math.nan),
    lambda: top1(np.eye(2), [0]), lambda: top1(np.eye(2), [0, 2]), lambda: top1(np.eye(2), ['a', 'b'], 'ac'), lambda: one_hot([None], 'ab'),
    lambda: multi_hot(['A'], ['B']), lambda: multi_hot([float('nan')], ['A']), lambda: draw_grids([1, 0]), lambda: draw_grids([]),
    lambda: grid_chance(1, 2, 1, 2, 9, (10,)), lambda: grid_chance(1, 2, 1, 2, 9, ()), lambda: simulate_grids([True], [1, 0]), lambda: resample(3, 'ab'),
    lambda: grid_curve(np.eye(2), np.eye(2), [2]), lambda: accuracy_multi(np.eye(2), np.eye(2), groups=[1]), lambda: mean_ap(np.eye(2), np.eye(2), classes='aa')])
def test_bad_input_is_one_clear_line(call):
    with pytest.raises(InputError) as e: call()
    assert '\n' not in str(e.value)


# ---- against plain versions and scikit-learn

@warned
@given(tables())
def test_average_precision_is_its_definition(table):
    probs, truth, _ = table
    for p, t in zip(probs.T, truth.T):
        ours = average_precision(p, t)
        assert ours is None if not t.any() else ours == pytest.approx(plain_ap(p, t)) == pytest.approx(average_precision_score(t, p))


@given(tables(), st.randoms(use_true_random=False))
def test_average_precision_knows_only_order(table, rnd):
    probs, truth, _ = table
    p, t = probs[:, 0], truth[:, 0]
    order = rnd.sample(range(len(p)), len(p))
    assume(t.any())
    assert average_precision(p, t) == pytest.approx(average_precision(p[order], t[order])) == pytest.approx(average_precision(np.unique(p, return_inverse=True)[1], t))


def test_mean_ap_leaves_out_what_is_unknown():
    probs, truth, known = random_table()
    m = mean_ap(probs, truth, known, n_boot=100)
    plain = [average_precision_score(t[k], p[k]) for p, t, k in zip(probs.T, truth.T, known.T)]
    assert m['value'] == pytest.approx(np.mean(plain))
    assert [o['value'] for o in m['classes'].values()] == pytest.approx(plain)
    flipped = np.where(known, truth, ~truth)
    assert mean_ap(probs, flipped, known, n_boot=100) == m


def test_mean_ap_interval_is_the_plain_bootstrap():
    probs, truth, _ = random_table(120, 3)
    groups = np.arange(120)//4
    plain = bootstrap(np.arange(120), lambda i: np.mean([average_precision_score(truth[i, c], probs[i, c]) for c in range(3)]), groups, n_boot=60)
    m = mean_ap(probs, truth, groups=groups, n_boot=60)
    assert [m['value'], *m['ci95']] == pytest.approx([plain['value'], *plain['ci95']])


@given(st.integers(1, 30), st.integers(0, 5))
def test_resample_draws_what_bootstrap_draws(n, seed):
    values, groups = np.arange(n)**2., np.arange(n) % 7
    for g in (None, groups):
        plain = bootstrap(values, np.sum, g, n_boot=20, seed=seed)
        assert np.quantile(resample(n, g, 20, seed) @ values, [.025, .975]).tolist() == pytest.approx(plain['ci95'])


@warned
@given(tables())
def test_f1_report_is_scikit_learns(table):
    probs, truth, _ = table
    chosen = probs >= .5
    r = f1_report(chosen, truth, min_n=1)
    kw = {'average': None, 'zero_division': 0}
    for name, score in (('precision', precision_score), ('recall', recall_score), ('f1', f1_score)):
        plain = np.atleast_1d(score(truth, chosen, **kw)) if truth.shape[1] > 1 else [score(truth[:, 0], chosen[:, 0], zero_division=0)]
        assert [(o[name] or {'value': 0})['value'] for o in r['classes'].values()] == pytest.approx(list(plain))
    assert (r['micro_f1'] or {'value': 0})['value'] == pytest.approx(f1_score(truth.ravel(), chosen.ravel(), zero_division=0))
    big = truth.any(0)
    if big.any(): assert r['macro_f1']['value'] == pytest.approx(np.mean([o['f1']['value'] for o, b in zip(r['classes'].values(), big) if b]))


@given(tables())
def test_confusion_counts_are_scikit_learns(table):
    probs, truth, known = table
    chosen = probs >= .5
    if truth.shape[1] > 1: assert (confusion_counts(chosen, truth) == multilabel_confusion_matrix(truth, chosen)).all()
    assert (confusion_counts(chosen, truth, known).sum((1, 2)) == known.sum(0)).all()
    together = co_occurrence(truth)
    assert (together == together.T).all() and (np.diag(together) == truth.sum(0)).all()


@given(tables(), levels)
def test_accuracy_multi_is_fastais(table, threshold):
    "fastai: ((inp > thresh) == targ.bool()).float().mean()"
    probs, truth, known = table
    m = accuracy_multi(probs, truth, threshold)
    assert m['value'] == pytest.approx(((probs > threshold) == truth).mean())
    assert m['nothing']['value'] == pytest.approx(1 - truth.mean())
    assert accuracy_multi(probs, truth, threshold, known)['n'] == known.sum()


def test_share_of_is_never_narrower_than_wilson():
    right = np.arange(40).reshape(20, 2) % 3 > 0
    m, w = share_of(right, right | True), share(int(right.sum()), 40)
    assert m['value'] == w['value'] and m['ci95'][0] <= w['ci95'][0] and m['ci95'][1] >= w['ci95'][1]


@given(tables())
def test_top1_is_argmax(table):
    probs, truth, _ = table
    labels = truth.argmax(1)
    m = top1(probs, labels)
    assert m['value'] == np.mean(probs.argmax(1) == labels)
    assert (top_choice(probs).sum(1) == 1).all()
    assert sum(o['n'] for o in m['classes'].values() if o) == len(probs)


@given(tables())
def test_kappa_is_scikit_learns(table):
    a, b = table[0] >= .5, table[1]
    r = agreement(a, b)
    for i, row in enumerate(r['classes'].values()):
        constant = len(set(a[:, i]) | set(b[:, i])) == 1
        assert (row['kappa'] is None) == constant
        if not constant: assert row['kappa']['value'] == pytest.approx(cohen_kappa_score(a[:, i], b[:, i]), abs=1e-12)
    assert r['identical']['value'] == (a == b).all(1).mean() and r['entries']['value'] == pytest.approx((a == b).mean())


@given(tables(), st.integers(1, 20))
def test_label_ece_is_the_plain_one(table, bins):
    probs, truth, known = table
    m = label_ece(probs, truth, known, bins)
    assert m['value'] == pytest.approx(expected_calibration_error(probs[known], truth[known], bins), abs=1e-12)
    assert m['n'] == known.sum()


def test_second_labels_are_all_but_the_published():
    probs, truth, known = random_table()
    first = truth.argmax(1)
    others = known & (np.arange(4) != first[:, None])
    assert second_label_ece(probs, truth, first, known) == label_ece(probs, truth, others)


def test_perfect_is_not_certain():
    truth = np.eye(3, dtype=bool).repeat(10, 0)
    report = multilabel_report(truth, truth, published=truth.argmax(1), min_n=5)
    for m in (report['map'], report['f1']['micro_f1'], report['f1']['macro_f1'], report['grids'], report['top1'], report['accuracy_multi']):
        assert m['value'] == 1 and m['ci95'][0] < 1 == m['ci95'][1]


def test_bootstrap_sums_without_a_value():
    none = bootstrap_sums([[1.]], lambda s: s*np.nan)
    assert none == [{'value': None, 'ci95': None, 'n': 1}]


# ---- labels

names = st.lists(st.sampled_from('ABCD'), max_size=4, unique=True)


@given(st.lists(st.tuples(names, names), min_size=1, max_size=8))
def test_multi_hot_can_be_read_back(rows):
    classes = ['A', 'B', 'C', 'D', 'Other']
    rows = [(seen, [u for u in unsure if u not in seen]) for seen, unsure in rows]
    truth, known = multi_hot(['|'.join(s) or 'Other' for s, _ in rows], classes, ['|'.join(u) for _, u in rows])
    for t, k, (seen, unsure) in zip(truth, known, rows):
        assert {c for c, o in zip(classes, t) if o} == set(seen or ['Other'])
        assert {c for c, o in zip(classes, k) if not o} == set(unsure) | ({'Other'} if unsure and not seen else set())


# ---- thresholds

SCORES = {'f1': lambda t, y: f1_score(t, y, zero_division=0), 'accuracy': lambda t, y: (t == y).mean(),
          'precision': lambda t, y: t[y].sum() if y.any() and t[y].mean() >= .7 else -1,
          'false_accepts': lambda t, y: t[y].sum() if y[~t].sum() <= .3*(~t).sum() else -1}


@warned
@pytest.mark.parametrize('by', SCORES)
@given(tables())
@settings(max_examples=80)
def test_no_threshold_is_better(by, table):
    p, t = table[0][:, 0], table[1][:, 0]
    line = best_threshold(p, t, by, {'precision': .7, 'false_accepts': .3}.get(by))
    possible = [SCORES[by](t, p >= o) for o in [*p, 1.]]
    if line is None: assert max(possible) < 0 or by in ('f1', 'precision') and max(possible) <= 0
    else: assert 0 <= line <= 1 and SCORES[by](t, p >= line) == pytest.approx(max(possible))


@warned
@given(tables(), st.integers(0, 5), st.sampled_from(list(SCORES)))
def test_tuned_thresholds_are_whole(table, few, by):
    probs, truth, known = table
    try: lines = tune_thresholds(probs, truth, known, by, few=few)
    except InputError: assume(False)
    assert lines.values.shape == truth.shape[1:] and ((lines.values >= 0) & (lines.values <= 1)).all()
    rare = [str(i) for i, n in enumerate((truth & known).sum(0)) if n < max(few, 1)]
    assert set(rare) <= set(lines.borrowed)
    assert all(lines.values[int(c)] == lines.shared for c in lines.borrowed)


def test_few_positives_do_not_move_their_line():
    "A rare class that happens to lie low would get a line of its own that lets everything in"
    probs, truth, known = random_table(800)
    truth[:, 3] = np.arange(800) < 3
    probs[:3, 3] = .01
    lines = tune_thresholds(probs, truth)
    assert lines.borrowed == {'3': '3 positives'} and lines.values[3] == lines.shared > .2


def test_false_accepts_stay_below_the_target():
    probs, truth, known = random_table(1000)
    lines = tune_thresholds(probs, truth, known, 'false_accepts', .05)
    assert not lines.borrowed
    assert all(0 < m['value'] <= .05 for m in false_accepts(probs, truth, lines, known)['classes'].values())


@given(tables(), levels)
def test_false_accepts_counted_by_hand(table, line):
    probs, truth, known = table
    no = ~truth & known
    m = false_accepts(probs, truth, line, known)
    assert m['value'] == (pytest.approx((probs >= line)[no].mean()) if no.any() else None)
    assert [o and o['n'] for o in m['classes'].values()] == [int(n) or None for n in no.sum(0)]


@given(tables(), levels)
def test_other_is_chosen_beside_nothing_else(table, line):
    probs, truth, known = table
    names = ['Other', 'Bus', 'Car', 'Palm'][:probs.shape[1]]
    plain, chosen = apply_thresholds(probs, line), apply_thresholds(probs, line, names)
    assert (chosen[:, 1:] == plain[:, 1:]).all() and (chosen[:, 0] == (plain[:, 0] & ~plain[:, 1:].any(1))).all()
    multi_hot(['|'.join(c for c, y in zip(names, row) if y) for row in chosen if row.any()], names) # raises on a contradiction
    m = false_accepts(probs, truth, line, known, names)
    assert [o and o['value'] for o in m['classes'].values()] == [pytest.approx(y[n].mean()) if n.any() else None
                                                                for y, n in zip(chosen.T, (~truth & known).T)]
    assert (apply_thresholds(probs, line, 'ABCD'[:probs.shape[1]]) == plain).all()


# ---- tiles

def published(n=200, seed=0):
    "(probs, rows) of tiles whose folder shows one of their classes, a third of them not looked through"
    probs, truth, _ = random_table(n, 3, seed)
    labels = ['|'.join(c for c, y in zip(('Bus', 'Car', 'Palm'), row) if y) or 'Other' for row in truth]
    rows = pd.DataFrame({'labels': labels, 'unsure': '', 'group': np.arange(n)//2, 'checked': np.arange(n) % 3 > 0})
    return np.insert(probs, 3, 1 - probs.max(1), axis=1), rows.assign(label=[l.split('|')[-1] for l in labels])


def test_trivial_baselines_of_tiles():
    names = ('Bus', 'Car', 'Palm', 'Other')
    probs, rows = published()
    report = tile_report(probs, rows, .5, names, min_n=1)
    look = rows[rows.checked]
    truth = multi_hot(look.labels, names)[0]
    assert report['baseline_map']['value'] == pytest.approx(np.mean([average_precision_score(t, t*0.) for t in truth.T]))
    assert report['baseline_map']['value'] == pytest.approx(truth.mean()) and report['baseline_map']['n'] == len(look)
    common, always = rows.label.mode()[0], report['baseline_commonest']
    assert always['class'] == common and always['value'] == pytest.approx((rows.label == common).mean()) and always['n'] == len(rows)
    assert always['macro_f1']['value'] == pytest.approx(f1_score(rows.label, [common]*len(rows), average='macro', zero_division=0))
    for m in (always, always['macro_f1'], report['baseline_map']): assert m['ci95'][0] < m['value'] < m['ci95'][1]
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    nobody = tile_report(probs, rows.assign(checked=False), .5, names)
    assert 'baseline_map' not in nobody and nobody['baseline_commonest']['value'] == always['value']


def test_filed_under_other_too_asks_for_no_contradiction():
    "Who says Car and Palm of a picture filed under Car, Palm and Other has found all there is"
    names = ('Car', 'Palm', 'Other')
    rows = pd.DataFrame({'label': ['Car', 'Palm', 'Other', 'Car', 'Other'], 'group': [0, 0, 0, 1, 1]})
    m = cross_filed([[1, 1, 0]]*5, rows, names)
    assert (m['value'], m['n']) == (1, 1)
    assert cross_filed([[1, 0, 1]]*5, rows, names)['value'] == 0 and cross_filed([[1, 1, 1]]*2, rows[3:], names) is None


# ---- temperature

@warned
@given(tables(logits=True))
def test_cross_entropy_is_scikit_learns(table):
    z, truth, known = table
    assert binary_cross_entropy(z, truth, known) == pytest.approx(log_loss(truth[known], cool(z)[known], labels=[0, 1]), rel=1e-3, abs=1e-9)


@warned
@settings(max_examples=60, deadline=None)
@given(tables(logits=True))
def test_no_temperature_is_better(table):
    z, truth, known = table
    t = fit_temperature(z, truth, known)
    assert .05 <= t <= 20
    least = binary_cross_entropy(z/t, truth, known)
    assert all(least <= binary_cross_entropy(z/o, truth, known) + 1e-9 for o in np.geomspace(.05, 20, 60))
    each = fit_temperatures(z, truth, known, few=1)
    assert binary_cross_entropy(z/each, truth, known) <= least + 1e-9


@given(tables())
def test_cooling_changes_no_order(table):
    z = logits_of(table[0])
    assert (np.diff(cool(np.sort(z, 0), 3), axis=0) >= 0).all()
    assert cool(z) == pytest.approx(np.clip(table[0], 1e-7, 1 - 1e-7), abs=1e-9)


def test_known_temperature_is_found_again():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(20000, 2))*3
    truth = rng.random(z.shape) < cool(z)
    assert fit_temperature(z*2.5, truth) == pytest.approx(2.5, rel=.05)
    assert fit_temperatures(z*[2.5, .5], truth) == pytest.approx([2.5, .5], rel=.05)


# ---- grids

@warned
@given(st.integers(0, 6), st.integers(0, 6), st.integers(0, 8), st.integers(0, 8), st.integers(1, 6), st.data())
def test_grid_chance_by_counting(r, wrong, r_no, wrong_no, cells, data):
    k = data.draw(st.integers(0, cells))
    ours = grid_chance(r, r + wrong, r_no, r_no + wrong_no, cells, (k,))
    possible = math.comb(r + wrong, k)*math.comb(r_no + wrong_no, cells - k)
    if possible: assert ours == pytest.approx(math.comb(r, k)*math.comb(r_no, cells - k)/possible)
    else: assert np.isnan(ours)


def test_simulation_comes_to_the_chance():
    probs, truth, known = random_table(500, 2)
    probs = np.clip(probs**.3*(truth*.9 + .3), 0, 1)
    exact = grid_pass(probs, truth, .6, known)['classes']
    for i in (0, 1):
        drawn = simulate_grids((probs[:, i] >= .6) == truth[:, i], truth[:, i], known[:, i], n_grids=5000)
        assert drawn['ci95'][0] - .01 < exact[str(i)]['value'] < drawn['ci95'][1] + .01


def test_tiles_are_drawn_for_the_interval_not_grids():
    "Twice the tiles, a narrower interval; no number of simulated grids does that"
    width = lambda n: np.ptp(grid_pass(*random_table(n, 2)[:2])['ci95'])
    assert width(2000) < .7*width(500)


@given(st.integers(0, 100), st.sampled_from([(9, (2, 3, 4)), (16, (5,)), (4, (0, 1))]))
def test_grids_hold_what_was_asked_for(seed, mix):
    cells, targets = mix
    truth, known = np.arange(60) % 5 == 0, np.arange(60) % 7 > 0
    grids = draw_grids(truth, known, 20, cells, targets, seed)
    assert grids.shape == (20, cells) and all(len(set(g)) == cells for g in grids.tolist())
    assert set(truth[grids].sum(1)) <= set(targets) and known[grids].all()


def test_other_is_not_asked_for():
    probs, truth, _ = random_table(200, 3)
    m = grid_pass(probs, truth, classes=['Bus', 'Car', 'Other'])
    assert list(m['classes']) == m['averaged'] == ['Bus', 'Car']
    assert grid_pass(probs, truth, classes=['Bus', 'Car', 'Other'], ask=['Car'])['value'] == m['classes']['Car']['value']


def test_no_warning_for_rare_classes():
    probs, truth, _ = random_table(60, 3)
    truth[:, 0], truth[1:, 1] = False, False
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        report = multilabel_report(probs, truth)
    assert report['map']['classes']['0']['value'] is None and report['grids']['classes']['0'] is None
