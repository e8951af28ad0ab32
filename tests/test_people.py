"What is left for people: readability, the blind test of oneself, and machine against people"
import builtins
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captcha_lab import people as people_module
from captcha_lab.core import InputError
from captcha_lab.metrics import share
from captcha_lab.people import _deal, blind_trial, boxed_tiles, readability, trial_measures, trial_widget
from captcha_lab.sweet_spot import plot_sweet_spot, share_gap, sweet_spot

CLASSES = ('Bus', 'Car', 'Palm')


def marked(level, m=30, size=8):
    "Pictures that tell by their first pixels which they are and at which level, and their labels"
    pictures = np.zeros((m, size, size, 3), np.uint8)
    pictures[:, 0, 0, 0], pictures[:, 0, 1, 0] = np.arange(m), level
    return pictures, [CLASSES[i % 3] for i in range(m)]


LEVELS = {'none': marked(0), 'half': marked(1), 'most': marked(2)}


@pytest.fixture
def path(tmp_path): return tmp_path/'mine.csv'


def seen(trial, right=lambda level: True):
    "Answer to the end; (picture, level) in the order shown"
    found = []
    while (o := trial.picture()) is not None:
        found.append((int(o[0, 0, 0]), int(o[0, 1, 0])))
        truth = CLASSES[found[-1][0] % 3]
        trial.answer(truth if right(found[-1][1]) else next(c for c in CLASSES if c != truth))
    return found


# ---- readability

def test_importing_stays_quick():
    code = 'import sys, captcha_lab.people; print(*{"torch", "fastai", "skimage", "pandas", "matplotlib", "ipywidgets"} & set(sys.modules))'
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert (out.returncode, out.stdout.strip()) == (0, ''), out.stderr


def test_boxes_hold_the_thing_and_nothing_else():
    "Without grain, outside of the box the tile is the scene, which another thing in the same place doesn't change"
    bus, box = boxed_tiles(['Bus']*12, seed=4, noise=0)
    car, other = boxed_tiles(['Car']*12, seed=4, noise=0)
    for a, b, one, two in zip(bus, car, box, other):
        outside = np.ones(a.shape[:2], bool)
        for x0, y0, x1, y1 in (one, two): outside[y0:y1, x0:x1] = False
        assert (a[outside] == b[outside]).all()
        for x0, y0, x1, y1 in (one, two): assert 0 <= x0 < x1 <= 64 and 0 <= y0 < y1 <= 64
        x0, y0, x1, y1 = one
        yellow = (a == (235, 175, 30)).all(-1)
        assert yellow[y0:y1, x0:x1].sum() == yellow.sum() > 100


def test_grain_doesnt_move_boxes():
    assert (boxed_tiles(['Palm']*3, 1, noise=0)[1] == boxed_tiles(['Palm']*3, 1, noise=20)[1]).all()


def test_readability_of_the_same_pictures():
    tiles, boxes = boxed_tiles(['Bus', 'Palm']*5)
    found = readability(tiles, tiles.copy(), np.zeros((10, 64, 64), bool), boxes)
    assert {k: (m['value'], m['ci95'], m['n']) for k, m in found.items()} == dict.fromkeys(('area_left', 'object_area_left', 'ssim'), (1, [1, 1], 10))


def test_readability_falls_with_the_area():
    tiles, boxes = boxed_tiles(['Bus', 'Palm']*10)
    values = []
    for width in (0, 8, 16, 24, 32):
        masks = np.zeros((20, 64, 64), bool)
        masks[:, :, 32 - width//2:32 + width//2] = True
        found = readability(tiles, np.where(masks[..., None], np.uint8(116), tiles), masks, boxes)
        assert found['area_left']['value'] == 1 - width/64
        values.append([m['value'] for m in found.values()])
        assert all(m['ci95'][0] <= m['value'] <= m['ci95'][1] for m in found.values())
    assert (np.diff(values, axis=0) < 0).all()


def test_object_area_by_hand():
    tiles, masks = np.zeros((2, 10, 10, 3), np.uint8), np.zeros((2, 10, 10), bool)
    masks[0, :, :5] = True
    found = readability(tiles, tiles, masks, [(4, 0, 8, 10), (0, 0, 10, 10)])
    assert found['object_area_left']['value'] == pytest.approx((.75 + 1)/2)


@pytest.mark.parametrize('change, line', [
    (dict(defended=np.zeros((2, 9, 10, 3), np.uint8)), 'but defended'), (dict(originals=[]), 'no pictures'),
    (dict(defended=[np.zeros((10, 10, 3), np.uint8), np.zeros((9, 10, 3), np.uint8)]), 'different sizes'),
    (dict(originals=np.zeros((2, 10, 10, 3))), 'uint8'), (dict(originals=np.zeros((2, 10, 10), np.uint8)), 'uint8'),
    (dict(masks=np.zeros((2, 10, 9), bool)), 'masks are bool'), (dict(masks=np.zeros((2, 10, 10), int)), 'masks are bool'),
    (dict(masks=None), 'needs masks'), (dict(boxes=[(0, 0, 1, 1)]), '2 boxes'), (dict(boxes=[(0, 0, 11, 1)]*2), 'no box'),
    (dict(boxes=[(3, 0, 3, 1)]*2), 'no box'), (dict(boxes=[(0, 0, np.nan, 1)]*2), 'no box')])
def test_readability_bad_input(change, line):
    good = dict(originals=np.zeros((2, 10, 10, 3), np.uint8), defended=np.zeros((2, 10, 10, 3), np.uint8),
                masks=np.zeros((2, 10, 10), bool), boxes=[(0, 0, 1, 1)]*2)
    readability(**good)
    with pytest.raises(InputError, match=line) as e: readability(**good | change)
    assert '\n' not in str(e.value)


def test_too_small_for_ssim():
    with pytest.raises(InputError, match='too small'): readability(np.zeros((1, 6, 9, 3), np.uint8), np.zeros((1, 6, 9, 3), np.uint8))


# ---- the deal

def test_each_picture_once_and_levels_balanced(path):
    found = seen(blind_trial(LEVELS, path, n=10))
    assert len({i for i, _ in found}) == len(found) == 30
    assert Counter(level for _, level in found) == {0: 10, 1: 10, 2: 10}
    assert len({level for _, level in found[:8]}) > 1, 'levels are mixed'


@settings(deadline=None)
@given(st.integers(1, 5), st.integers(1, 9), st.integers(0, 99), st.lists(st.sampled_from('abcd'), min_size=45, max_size=60))
def test_deal_is_even(k, n, seed, labels):
    labels = np.array(labels)
    dealt, order = _deal(labels, k, n, seed)
    assert [len(o) for o in dealt] == [n]*k and len({i for o in dealt for i in o}) == k*n and sorted(order) == list(range(k*n))
    for c in set(labels):
        count = [int((labels[o] == c).sum()) for o in dealt]
        assert max(count) - min(count) <= 1
        others = [(labels[[i for o in dealt for i in o]] == d).sum() for d in set(labels)]
        assert sum(count) == (labels == c).sum() or sum(count) >= max(others) - 1, 'a class is short only where its stock ends'


def test_seed_changes_the_deal(tmp_path):
    a, b, c = (seen(blind_trial(LEVELS, tmp_path/f'{i}.csv', 5, seed)) for i, seed in enumerate((0, 0, 1)))
    assert a == b != c


def test_nothing_is_told_before_the_end(path):
    trial = blind_trial(LEVELS, path, 5)
    trial.picture()
    assert not {'level', 'truth'} & {o for o in dir(trial) if o[0] != '_'}
    assert not any(o in repr(trial) for o in (*LEVELS, *CLASSES))
    assert path.read_text().count('\n') == 1
    trial.answer('Bus')
    with pytest.raises(InputError, match='1 of 15 pictures'): trial_measures(path)


def test_changing_a_picture_doesnt_change_the_trial(path):
    trial = blind_trial(LEVELS, path, 5)
    trial.picture()[:] = 255
    assert trial.picture().max() < 255


@pytest.mark.parametrize('levels, n, line', [
    ({}, 5, 'no levels'), ({'a': (np.zeros((0, 8, 8, 3), np.uint8), [])}, 5, 'no pictures'), (LEVELS, 11, 'at most 30'), (LEVELS, 0, 'at least 1'),
    (LEVELS | {'most': marked(2, 29)}, 5, 'number or size'), (LEVELS | {'most': marked(2, size=9)}, 5, 'number or size'),
    (LEVELS | {'most': (marked(2)[0], ['Bus']*30)}, 5, 'different labels'), ({'a': (marked(0)[0], ['Bus'])}, 5, '1 labels for 30'),
    ({'a\nb': marked(0)}, 5, 'one line'), ({'': marked(0)}, 5, 'one line')])
def test_bad_levels(levels, n, line, path):
    with pytest.raises(InputError, match=line): blind_trial(levels, path, n)
    assert not path.exists()


def test_answers_there_are(path):
    trial = blind_trial(LEVELS, path, 5, classes=[*CLASSES, 'Other'])
    assert trial.classes[-1] == 'Other'
    with pytest.raises(InputError, match='not among the classes'): blind_trial(LEVELS, path, 5, classes=['Bus'])


# ---- the file

def test_goes_on_after_an_interruption(tmp_path):
    whole = seen(blind_trial(LEVELS, tmp_path/'whole.csv', 5))
    path, found = tmp_path/'parts.csv', []
    for _ in range(4):
        trial = blind_trial(LEVELS, path, 5)
        for _ in range(4):
            if (o := trial.picture()) is None: break
            found.append((int(o[0, 0, 0]), int(o[0, 1, 0])))
            trial.answer(CLASSES[found[-1][0] % 3])
        trial.picture()  # shown, and then the power goes
    assert found == whole
    assert {k: o['value'] for k, o in trial_measures(path).items()} == dict.fromkeys(LEVELS, 1)


def test_a_line_cut_off_is_asked_again(path):
    trial = blind_trial(LEVELS, path, 5)
    for _ in range(3): trial.picture(), trial.answer('Bus')
    text = path.read_text()
    for cut in range(1, len(text.splitlines(True)[-1])):
        path.write_text(text[:-cut])
        assert blind_trial(LEVELS, path, 5).answered == 2
    again = blind_trial(LEVELS, path, 5)
    again.picture(), again.answer('Car')
    lines = path.read_text().splitlines()
    assert len(lines) == 4 and ',Car,' in lines[-1] and lines[:-1] == text.splitlines()[:-1]


@pytest.mark.parametrize('other', [dict(seed=1), dict(n=6), dict(classes=[*CLASSES, 'Other']), dict(levels=LEVELS | {'most': marked(3)})])
def test_two_trials_never_mix(other, path):
    trial = blind_trial(LEVELS, path, 5)
    trial.picture(), trial.answer('Bus')
    with pytest.raises(InputError, match='another trial') as e: blind_trial(**dict(levels=LEVELS, path=path, n=5) | other)
    assert '\n' not in str(e.value)


def test_two_trials_glued_together(tmp_path):
    for i in range(2): seen(blind_trial(LEVELS, tmp_path/f'{i}.csv', 2, seed=i))
    both = (tmp_path/'0.csv').read_text() + ''.join((tmp_path/'1.csv').read_text().splitlines(True)[1:])
    (tmp_path/'both.csv').write_text(both)
    with pytest.raises(InputError, match='two trials'): trial_measures(tmp_path/'both.csv')


def damage(lines, how):
    if how == 'not a trial': return ['a,b\n', '1,2\n']
    if how == 'line gone': return lines[:2] + lines[3:]
    if how == 'line twice': return lines[:3] + lines[2:]
    if how == 'field gone': return lines[:2] + [lines[2].rsplit(',', 1)[0] + '\n'] + lines[3:]
    if how == 'no number': return lines[:2] + [lines[2].rsplit(',', 1)[0] + ',nan\n'] + lines[3:]
    if how == 'open quote': return lines[:2] + ['"' + lines[2]] + lines[3:]
    if how == 'empty': return []
    return lines[:2] + ['\n'] + lines[2:]


@pytest.mark.parametrize('how', ['not a trial', 'line gone', 'line twice', 'field gone', 'no number', 'open quote', 'empty', 'empty line'])
def test_damaged_files(how, path):
    seen(blind_trial(LEVELS, path, 2))
    path.write_text(''.join(damage(path.read_text().splitlines(True), how)))
    for look in (lambda: trial_measures(path), lambda: blind_trial(LEVELS, path, 2)):
        with pytest.raises(InputError, match='is damaged|not the file') as e: look()
        assert '\n' not in str(e.value) and path.name in str(e.value)


def test_not_text(path):
    path.write_bytes(b'\xff\xfe\0')
    with pytest.raises(InputError, match='not the file'): trial_measures(path)
    with pytest.raises(InputError, match="can't read"): trial_measures(path.parent/'none.csv')


def test_no_answers_yet(path):
    blind_trial(LEVELS, path, 2)
    with pytest.raises(InputError, match='no answers yet'): trial_measures(path)


def test_changed_truth_is_noticed(path):
    seen(blind_trial(LEVELS, path, 2))
    lines = path.read_text().splitlines(True)
    row = lines[2].split(',')
    row[5] = next(c for c in CLASSES if c != row[5])
    path.write_text(''.join([*lines[:2], ','.join(row), *lines[3:]]))
    with pytest.raises(InputError, match='line 3 is damaged'): blind_trial(LEVELS, path, 2)


def test_no_answer(path):
    trial = blind_trial(LEVELS, path, 2)
    with pytest.raises(InputError, match='no picture has been shown'): trial.answer('Bus')
    trial.picture()
    with pytest.raises(InputError, match="'Zebra' is no answer"): trial.answer('Zebra')
    assert path.read_text().count('\n') == 1


def test_names_with_commas_and_quotes(path):
    levels = {'a, "b"': (marked(0)[0], ['x, "y"', 'é']*15)}
    trial = blind_trial(levels, path, 4)
    while trial.picture() is not None: trial.answer('é')
    assert blind_trial(levels, path, 4).answered == 4
    assert trial_measures(path)['a, "b"']['value'] == .5


def test_measures(path, monkeypatch):
    clock = iter(np.cumsum([0, .5]*15).tolist())
    monkeypatch.setattr(people_module.time, 'monotonic', lambda: next(clock))
    seen(blind_trial(LEVELS, path, 5), right=lambda level: level != 2)
    found = trial_measures(path)
    assert found['none'] == share(5, 5) | {'seconds': .5}
    assert found['most'] == share(0, 5) | {'seconds': .5}


# ---- buttons

def test_buttons(path):
    pytest.importorskip('ipywidgets')
    tool = trial_widget(blind_trial(LEVELS, path, 1), pause=0)
    picture, buttons, bar, about = tool.children
    assert [b.description for b in buttons.children] == list(CLASSES) and picture.value[:4] == b'\x89PNG'
    first = picture.value
    buttons.children[0].click()
    assert picture.value != first and (bar.value, about.value) == (1, '1 of 3')
    for _ in range(2): buttons.children[1].click()
    assert about.value.startswith('Done') and all(b.disabled for b in buttons.children)
    assert sum(o['n'] for o in trial_measures(path).values()) == 3


def test_a_double_click_is_one_answer(path):
    pytest.importorskip('ipywidgets')
    trial = blind_trial(LEVELS, path, 1)
    buttons = trial_widget(trial, pause=60).children[1].children
    buttons[0].click()
    assert trial.answered == 0


def test_no_buttons_without_ipywidgets(path, monkeypatch):
    real = builtins.__import__
    def without(name, *a, **k):
        if name == 'ipywidgets': raise ImportError(name)
        return real(name, *a, **k)
    monkeypatch.setattr(builtins, '__import__', without)
    with pytest.raises(InputError, match='need ipywidgets. pip install'): trial_widget(blind_trial(LEVELS, path, 1))


# ---- machine against people

@pytest.mark.parametrize('a, m, b, n, low, high', [ # Newcombe (1998), table II, method 10
    (56, 70, 48, 80, .0524, .3339), (9, 10, 3, 10, .1705, .8090), (6, 7, 2, 7, .0582, .8062), (5, 56, 0, 29, -.0381, .1926),
    (0, 10, 0, 20, -.1611, .2775), (0, 10, 0, 10, -.2775, .2775), (10, 10, 0, 20, .6791, 1), (10, 10, 0, 10, .6075, 1)])
def test_gap_knows_published_values(a, m, b, n, low, high):
    gap = share_gap(share(a, m), share(b, n))
    assert gap['ci95'] == pytest.approx([low, high], abs=1e-4)
    assert gap['value'] == pytest.approx(a/m - b/n)


@given(st.tuples(*[st.integers(1, 60).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))]*2))
def test_gap_is_antisymmetric_and_within_bounds(two):
    a, b = (share(*o) for o in two)
    there, back = share_gap(a, b), share_gap(b, a)
    assert there['ci95'] == pytest.approx([-o for o in back['ci95'][::-1]])
    assert -1 - 1e-9 <= there['ci95'][0] <= there['value'] <= there['ci95'][1] <= 1 + 1e-9


@pytest.mark.parametrize('p, q, m, n', [(.95, .3, 20, 400), (.95, .85, 20, 400), (.6, .6, 20, 100), (.99, .9, 20, 20), (.5, .1, 60, 2000)])
def test_gap_holds_the_truth_as_often_as_it_says(p, q, m, n):
    "Played 4,000 times, about 95 % of the intervals hold the true gap; more where few answers are nearly all right"
    rng = np.random.default_rng(0)
    pairs = zip(rng.binomial(m, p, 4000), rng.binomial(n, q, 4000))
    gaps = [share_gap(share(int(a), m), share(int(b), n))['ci95'] for a, b in pairs]
    assert .93 <= np.mean([low <= p - q <= high for low, high in gaps]) <= (.98 if n > 20 else .999)


def test_gap_holds_the_truth_on_average():
    "Any two true shares, 20 answers against 100"
    rng = np.random.default_rng(1)
    held = []
    for p, q in rng.random((6000, 2)):
        low, high = share_gap(share(int(rng.binomial(20, p)), 20), share(int(rng.binomial(100, q)), 100))['ci95']
        held.append(low <= p - q <= high)
    assert np.mean(held) == pytest.approx(.95, abs=.015)


def test_best_level_is_where_people_are_surest_ahead():
    machine = {'a': share(95, 100), 'b': share(50, 100), 'c': share(20, 100), 'd': share(5, 100)}
    people = {'a': share(19, 20), 'b': share(18, 20), 'c': share(18, 20), 'd': share(5, 20)}
    found = sweet_spot(machine, people)
    assert found.best == 'c'
    assert [r['level'] for r in found.table] == list('abcd')
    assert found.table[2]['gap'] == share_gap(people['c'], machine['c'])


def test_few_answers_prove_nothing():
    "The same shares: 20 answers are enough, 3 are not"
    machine = {'a': share(50, 100)}
    assert sweet_spot(machine, {'a': share(19, 20)}).best == 'a'
    assert sweet_spot(machine, {'a': share(3, 3)}).best is None


def test_numbers_as_names_of_levels():
    found = sweet_spot({.1: share(90, 100), .5: share(10, 100)}, {'0.5': share(20, 20)})
    assert found.best == '0.5' and 'gap' not in found.table[0]


@pytest.mark.parametrize('machine, people, line', [
    ({}, {}, 'no levels'), ({'a': share(1, 2)}, {'b': share(1, 2)}, "unknown level 'b'"), ({'a': share(1, 2)}, {'a': .9}, 'no measure'),
    ({'a': {'value': .5}}, {'a': share(1, 2)}, 'no measure'), ({'a': {'value': 98, 'ci95': [97, 99]}}, {'a': share(1, 2)}, 'no share')])
def test_bad_measures(machine, people, line):
    with pytest.raises(InputError, match=line): sweet_spot(machine, people)


def test_chart():
    import matplotlib.pyplot as plt
    machine, people = ({k: share(o, 100) for k, o in zip('abc', side)} for side in ((20, 90, 10), (95, 96, 30)))
    areas = {'b': .1, 'a': .3, 'c': .9}
    ax = plot_sweet_spot(machine, people, areas, chance=.25, who='me')
    lines = {o.get_label(): o for o in ax.get_lines()}
    assert list(lines['machine'].get_xdata()) == [10, 30, 90] and list(lines['machine'].get_ydata()) == [.9, .2, .1]
    assert lines['me'].get_color() != lines['machine'].get_color() and lines['me'].get_marker() != lines['machine'].get_marker()
    assert ax.get_title() == 'Best level: a' and lines['chance'].get_ydata()[0] == .25 and len(ax.collections) == 2
    alone = plot_sweet_spot(machine, ax=plt.subplots()[1])
    assert 'take the test yourself' in alone.get_title() and [o.get_text() for o in alone.get_xticklabels()] == list('abc')
    assert plot_sweet_spot(machine, machine).get_title().startswith('No level is best')
    with pytest.raises(InputError, match="no area is known for level 'c'"): plot_sweet_spot(machine, areas={'a': 0, 'b': 1})
    plt.close('all')
