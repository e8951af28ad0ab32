"Suspicious labels, copies on both sides of a split, corrections, and the toy street"
import sys
import types

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings as hypothesis_settings, strategies as st

from captcha_lab.core import InputError, share_path
from captcha_lab.corrections import correction_tool, save_correction
from captcha_lab.data import audit, check_split, duplicate_groups, load_split
from captcha_lab.leak_study import leak_study, paired_folds
from captcha_lab.suspects import confident_joint, label_suspects, out_of_fold_probs, tile_suspects
from captcha_lab.tile_table import TILE_CLASSES, read_corrections, tile_rows
from captcha_lab.toy_street import tiles_or_toy, toy_street, toy_tile


@pytest.fixture(scope='module')
def toy(tmp_path_factory):
    "(folder, what is known of it)"
    folder = tmp_path_factory.mktemp('toy')/'street'
    return folder, toy_street(folder, n=12)


@pytest.fixture(scope='module')
def own_cache(tmp_path_factory):
    "Features of these tests are kept nowhere else"
    with pytest.MonkeyPatch.context() as m:
        m.setenv('CAPTCHA_LAB_DATA', str(tmp_path_factory.mktemp('data')))
        yield


def plain_joint(probs, labels):
    "The definition, item by item"
    n = probs.shape[1]
    limits = [max(probs[labels == c, c].mean(), 1/n) if (labels == c).any() else 2 for c in range(n)]
    joint = np.zeros((n, n), int)
    for p, label in zip(probs, labels):
        sure = [c for c in range(n) if p[c] >= limits[c]]
        if sure: joint[label, max(sure, key=lambda c: p[c])] += 1
    return joint


# ---- confident learning

@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(2, 6))
@hypothesis_settings(max_examples=40, deadline=None)
def test_joint_and_suspects_agree_with_the_definition(seed, n, n_classes):
    rng = np.random.default_rng(seed)
    probs, labels = rng.dirichlet([.6]*n_classes, n), rng.integers(0, n_classes, n)
    names = tuple('abcdef'[:n_classes])
    joint = confident_joint(probs, [names[k] for k in labels], names)
    assert (joint == plain_joint(probs, labels)).all()
    found = label_suspects(probs, [names[k] for k in labels], names)
    assert len(found) == joint.sum() - np.trace(joint)
    assert found.margin.is_monotonic_decreasing and (found.label != found.suggested).all()
    assert np.allclose(found.margin, found.p_suggested - found.p_label)


def test_planted_lies_are_found():
    rng = np.random.default_rng(0)
    true = np.arange(400) % 4
    x = (3*np.eye(4, 16)[true] + .6*rng.normal(size=(400, 16))).astype(np.float32)
    lies = rng.choice(400, 20, replace=False)
    said = true.copy()
    said[lies] = (said[lies] + 1) % 4
    probs = out_of_fold_probs(x, [TILE_CLASSES[k] for k in said], np.arange(400) % 5, TILE_CLASSES)
    found = label_suspects(probs, [TILE_CLASSES[k] for k in said], TILE_CLASSES)
    assert set(found['at']) <= set(lies) and len(found) >= 14
    assert all(true[i] == TILE_CLASSES.index(c) for i, c in zip(found['at'], found.suggested))


def test_a_probe_never_sees_what_it_judges():
    "Labels without any sense: out of fold nobody beats chance"
    rng = np.random.default_rng(1)
    x, labels = rng.normal(size=(300, 40)).astype(np.float32), rng.choice(['Bus', 'Car'], 300)
    probs = out_of_fold_probs(x, labels, np.arange(300) % 3, ('Bus', 'Car'))
    assert abs(np.mean(np.array(['Bus', 'Car'])[probs.argmax(1)] == labels) - .5) < .12


@pytest.mark.parametrize('labels, folds, classes, what', [
    (['a', 'b'], [0, 0], ('a', 'b'), 'two folds'), (['a', 'b'], [0], ('a', 'b'), 'folds for'), (['a', 'c'], [0, 1], ('a', 'b'), 'unknown class'),
    ([], [], ('a', 'b'), 'two folds')])
def test_probes_say_what_is_wrong(labels, folds, classes, what):
    with pytest.raises(InputError, match=what): out_of_fold_probs(np.zeros((len(labels), 3), np.float32), labels, folds, classes)


def test_suspects_of_a_street(toy, own_cache):
    folder, truth = toy
    found = tile_suspects(folder, None, 64)
    assert list(found) == ['file', 'label', 'suggested', 'p_label', 'p_suggested'] and found.file.is_unique
    wrong = truth[truth.flaw == 'wrong name']
    assert len(set(found.file) & set(wrong.file)) >= len(wrong)/2
    assert len(found) < len(truth)/3


# ---- copies

@given(st.lists(st.integers(0, 20), min_size=5, max_size=80), st.integers(0, 100))
@hypothesis_settings(max_examples=40, deadline=None)
def test_paired_folds(groups, seed):
    chance, together = paired_folds(groups, seed)
    groups = np.array(groups)
    first = np.array([i == list(groups).index(g) for i, g in enumerate(groups)])
    assert (chance[first] == together[first]).all()
    assert all(len(set(together[groups == g])) == 1 for g in groups)
    assert np.ptp(np.bincount(chance, minlength=5)) <= 1


def test_a_leak_helps_where_names_agree(toy, own_cache, tmp_path):
    measures, about, split, seeds = leak_study(tmp_path/'runs', 0, toy[0], None, 64, (0, 1, 2))
    assert about['n'] == len(toy[1]) and seeds == (0, 1, 2) and 'fold' in split
    assert measures['nearest_same_gain']['value'] > .03 and measures['nearest_crossed_gain']['value'] < 0
    assert abs(measures['probe_all_gain']['value']) < .1
    for m in measures.values(): assert m['ci95'][0] <= m['value'] <= m['ci95'][1]
    assert {p.stem for p in (tmp_path/'runs').glob('*.json')} == {'seed0', 'seed1', 'seed2'}


def test_the_committed_split_keeps_copies_together():
    rows = load_split('tiles')
    assert check_split(rows)['n'] == 10783
    twice = rows[rows.group.duplicated(keep=False)]
    assert twice.group.nunique() == 58 and (twice.groupby('group').label.nunique() > 1).sum() == 18


# ---- corrections

def test_corrections_can_be_written_line_by_line(toy, tmp_path):
    folder, truth = toy
    path = tmp_path/'mine.csv'
    for labels in ('Bus', 'Bus|Car'): save_correction(path, truth.file[0], labels)
    save_correction(path, truth.file[1], 'Palm', 'Car')
    assert read_corrections(path).values.tolist() == [[truth.file[0], 'Bus|Car', ''], [truth.file[1], 'Palm', 'Car']]
    rows = tile_rows(folder, corrections=path)
    assert rows.checked.sum() == 2 and rows.set_index('file').labels[truth.file[0]] == 'Bus|Car'


def test_a_correction_changes_one_line(tmp_path):
    "What else stands in a table, other columns too, stays as it is, to the letter"
    path, ours = tmp_path/'mine.csv', share_path('labels', 'tiles_multilabel.csv').read_text()
    path.write_text(ours)
    file, old = read_corrections(path).iloc[0][['file', 'labels']]
    save_correction(path, file, 'Palm', 'Car')
    save_correction(path, 'Large/Bus/none.png', 'Bus')
    before, after = ours.splitlines(), path.read_text().splitlines()
    assert after[2:] == before[2:] + ['Large/Bus/none.png,Bus,,,,'] and after[0] == before[0]
    assert after[1] == f'{file},Palm,Car,' + before[1].split(',', 3)[3] and old != 'Palm'


def test_a_table_may_begin_with_its_head_alone(tmp_path):
    (tmp_path/'mine.csv').write_text('file,labels\n')
    save_correction(tmp_path/'mine.csv', 'a.png', 'Bus')
    assert read_corrections(tmp_path/'mine.csv').values.tolist() == [['a.png', 'Bus', '']]


@pytest.mark.parametrize('labels, unsure', [('Buss', ''), ('', ''), ('Bus', 'Bus'), ('Other|Car', '')])
def test_a_wrong_correction_is_not_written(labels, unsure, tmp_path):
    with pytest.raises(InputError): save_correction(tmp_path/'mine.csv', 'a.png', labels, unsure)
    assert not (tmp_path/'mine.csv').exists()


class Widget(types.SimpleNamespace):
    "As much of a widget as the tool needs"
    def on_click(self, f): self.click = lambda: f(self)


def test_buttons(toy, tmp_path, monkeypatch):
    fake = types.ModuleType('ipywidgets')
    for name in ('Image', 'Label', 'ToggleButton', 'Button', 'Layout'): setattr(fake, name, Widget)
    for name in ('VBox', 'HBox'): setattr(fake, name, lambda children, **kw: Widget(children=children, **kw))
    monkeypatch.setitem(sys.modules, 'ipywidgets', fake)
    rows = tile_rows(toy[0]).head(3).assign(unsure=['Car|Bridge', '', ''])
    about, picture, seen, unsure, (save, skip) = (getattr(c, 'children', c) for c in correction_tool(rows, tmp_path/'mine.csv').children)
    (_, *seen), (_, *unsure) = seen, unsure # the first says which row it is
    for m in seen: m.value = m.description in ('Bus', 'Palm')
    save.click() # what is unsure comes along
    for m in seen + unsure: m.value = m.description == 'Bus'
    save.click()
    assert 'both seen and unsure' in about.value
    for m in seen: m.value = m.description == 'Hydrant'
    save.click()
    assert read_corrections(tmp_path/'mine.csv').values.tolist() == [[rows.file[0], 'Bus|Palm', 'Bridge|Car'], [rows.file[1], 'Hydrant', 'Bus']]
    assert not any(m.value for m in unsure)
    for m in seen: m.value = False
    save.click()
    assert 'no label' in about.value
    skip.click(), save.click()
    assert about.value == 'Done' and len(read_corrections(tmp_path/'mine.csv')) == 2


def test_no_buttons_without_ipywidgets(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'ipywidgets', None)
    with pytest.raises(InputError, match='pip install ipywidgets'): correction_tool(pd.DataFrame(), tmp_path/'mine.csv')


# ---- the toy street

def test_a_toy_street_has_the_flaws_it_says(toy):
    folder, truth = toy
    assert set(truth.label) == set(TILE_CLASSES)
    groups = duplicate_groups(audit(folder, 'folder'))
    assert groups.n.sum() - len(groups) == (truth.flaw == 'copy').sum()
    looked = pd.read_csv(folder/'looked.csv', keep_default_na=False)
    rows = tile_rows(folder, corrections=folder/'looked.csv')
    assert rows.checked.sum() == len(looked) and set(looked) >= {'pass_a', 'pass_b', 'settled'}
    known = dict(zip(truth.file, truth.labels))
    assert [known[f] for f in looked.file] == looked.labels.tolist()


def test_a_toy_tile_shows_what_it_is_told():
    plain, bus = (toy_tile(things, np.random.default_rng(0), noise=0).astype(int) for things in ([], ['Bus']))
    yellow = lambda tile: (np.abs(tile - (235, 175, 30)).max(2) < 3).mean()
    assert yellow(bus) > .05 > yellow(plain)


def test_no_data_means_a_toy(tmp_path):
    street = tiles_or_toy(tmp_path/'data', tmp_path)
    assert not street.real and street.looked.is_file() and len(tile_rows(street.folder, street.split, street.looked)) > 400
    assert tiles_or_toy(tmp_path/'data', tmp_path) == street
