"Studies of cats and dogs: fair shares of data, trainings that go on, measures by their definitions, and options that exist"
import inspect
import itertools

import cv2
import numpy as np
import pandas as pd
import pytest
from fastai.callback.core import Callback

from captcha_lab.backbones import fine_tune_phases, picture_learner
from captcha_lab.core import InputError, load_cards
from captcha_lab.pet_studies import (BASE, SEED_WAY, SWITCHES, choosy, fewer_pets, judge_pets, learn_pets, pet_errors,
                                     square_copies, switch_table)
from captcha_lab.pet_table import PETS
from captcha_lab.pets import FULL_RUNS, pets_block, pets_learner, train_pets
from captcha_lab.results import STUDIES, run_study
from captcha_lab.train import fit
from hypothesis import given, strategies as st

pytestmark = pytest.mark.usefixtures('one_thread', 'own_data')


@pytest.fixture(scope='module')
def toy(tmp_path_factory):
    "Cats are red, dogs are green"
    folder, rng, rows = tmp_path_factory.mktemp('toy'), np.random.default_rng(0), []
    for i in range(96):
        x = rng.integers(0, 120, (40, 48, 3), dtype=np.uint8)
        x[..., 2 - i % 2] += 90
        cv2.imwrite(str(folder/f'{PETS[i % 2]}.{i}.png'), x)
        rows.append({'path': str(folder/f'{PETS[i % 2]}.{i}.png'), 'label': PETS[i % 2], 'group': i, 'fold': i//2 % 3,
                     'part': ('train', 'train', 'valid', 'test')[i//2 % 4]})
    return pd.DataFrame(rows)


def named(n): return pd.DataFrame({'path': [f'{i}.jpg' for i in range(n)], 'label': [PETS[i % 2] for i in range(n)],
                                   'group': range(n), 'part': [('train', 'train', 'valid', 'test')[i//2 % 4] for i in range(n)]})


# ---- data

@given(st.integers(2, 60), st.integers(2, 60), st.booleans())
def test_shares_are_nested_and_balanced(a, b, repeat):
    rows = named(120)
    small, large = (fewer_pets(rows, n, repeat) for n in sorted((a, b)))
    train = [o[o.part == 'train'] for o in (small, large)]
    assert set(train[0].path) <= set(train[1].path)
    assert [o.path.nunique() for o in train] == [2*(n//2) for n in sorted((a, b))]
    counts = train[1].label.value_counts()
    assert abs(counts['cat'] - counts['dog']) <= 1 and (len(train[1]) == 60 or not repeat)
    for part in ('valid', 'test'): assert small.path[small.part == part].tolist() == rows.path[rows.part == part].tolist()


def test_copies_of_a_broken_picture(tmp_path, toy):
    (tmp_path/'cat.1.jpg').write_bytes(b'')
    with pytest.raises(InputError, match='cat.1.jpg'): square_copies(toy[:1].assign(path=str(tmp_path/'cat.1.jpg')), tmp_path/'out')
    assert list((tmp_path/'out').iterdir()) == []
    a, b = (square_copies(toy[:4], tmp_path/'out', size) for size in (32, 48))
    assert set(a.path).isdisjoint(b.path) and cv2.imread(b.path[0]).shape == (48, 48, 3)


# ---- trainings

class Interrupt(Callback):
    def after_epoch(self):
        if self.epoch == 1: raise KeyboardInterrupt


def test_an_interrupted_training_goes_on(tmp_path, toy):
    job = dict(rows=toy, size=32, bs=8, epochs=4, arch='pet_cnn_shallow', seed=3)
    through = learn_pets(job | {'folder': tmp_path/'a'})
    with pytest.raises(KeyboardInterrupt): learn_pets(job | {'folder': tmp_path/'b', 'learner': {'cbs': [Interrupt()]}})
    again = learn_pets(job | {'folder': tmp_path/'b'})
    assert len(again['history']) == 4
    assert np.allclose(through['valid'], again['valid'], atol=.02)


@pytest.mark.parametrize('name', ['plateau', 'pretrained', 'no_augmentation', 'weight_decay_30'])
def test_switches_run(toy, name):
    options = BASE | SWITCHES[name] | dict(rows=toy, size=32, bs=8, epochs=1, seed=0)
    run = learn_pets(options)
    assert len(run['valid']) == 24 and len(run['history']) == 1 + (name == 'pretrained')


def test_options_exist():
    "What the tables say is understood by those that they say it to"
    of = lambda *functions: {p for f in functions for p in inspect.signature(f).parameters}
    for recipe in (*FULL_RUNS.values(), SEED_WAY, *(BASE | o for o in SWITCHES.values())):
        assert set(recipe) - {'share'} <= of(train_pets, fit, fine_tune_phases)
        assert set(recipe.get('learner', {})) <= of(pets_learner, picture_learner) | {'wd'}
        assert set(recipe.get('block', {})) <= of(pets_block)


def test_one_change_at_a_time():
    wanted = {'size': {32, 64}, 'bs': {32, 128}, 'share': {1/2, 1/4, 1/8}, 'arch': {'pet_cnn_shallow', 'pet_cnn_deep', 'pet_cnn_narrow', 'plain_cnn'}}
    single = {k: v for k, v in SWITCHES.items() if k not in ('base', 'plateau', 'pretrained')}
    assert all(len(o) == 1 and BASE.get(k) != v for o in single.values() for k, v in o.items())
    for k, values in wanted.items(): assert {o[k] for o in single.values() if k in o} == values


# ---- measures

@pytest.mark.parametrize('seed', range(3))
def test_judge_by_definition(seed):
    rng = np.random.default_rng(seed)
    test, p = named(40), rng.random(40).round(2)
    dog = (test.label == 'dog').to_numpy()
    found = judge_pets(p, test)
    wins = [(a > b) + .5*(a == b) for a, b in itertools.product(p[dog], p[~dog])]
    assert abs(found['auc'] - np.mean(wins)) < 1e-5
    assert found['accuracy']['value'] == np.mean((p > .5) == dog)
    assert found['p12']['value'] == found['accuracy']['value']**12 and found['baseline']['value'] == .5
    files = {e['file'] for e in pet_errors([p], test)}
    assert files == set(test.path[(p > .5) != dog])


def test_copies_of_a_picture_widen_the_interval():
    rng = np.random.default_rng(0)
    valid = named(400).assign(part='valid', group=lambda o: o.index//20)
    dog = (valid.label == 'dog').to_numpy()
    def run(right): return {'valid': np.where(right, dog, ~dog).astype(float).tolist(), 'seconds': 1.}
    right = (rng.random(20) < .6).repeat(20)
    found = {'base': [run(np.zeros(400, bool))], 'other': [run(right)]}
    width = lambda rows: np.ptp(switch_table(found, rows)['other_over_base']['ci95'])
    assert width(valid) > 2*width(valid.assign(group=range(400)))


def test_choosy_is_never_worse_than_who_takes_all():
    rng = np.random.default_rng(2)
    p = rng.beta(.3, .3, 3000)
    row = choosy(p, rng.random(3000) < p)
    assert row['pass_visit'] > row['pass_first'] > 0 and row['answered'] < 1


# ---- cards

def test_a_study_leaves_a_card(tmp_path, toy, monkeypatch):
    for name, new in (('pet_table.pet_rows', lambda *a: toy), ('runs.fetch', str), ('pet_studies.SIDE', 64)): monkeypatch.setattr(f'captcha_lab.{name}', new)
    card = run_study('pets_classic', tmp_path)
    assert load_cards(tmp_path)['pets_classic']['measures']['accuracy'] == card['measures']['accuracy']
    assert card['about'] and card['data']['id'] == 'pets' and card['measures']['accuracy']['value'] > .9
    assert {n for n in STUDIES if n.startswith('pets_')} == {f'pets_{n}' for n in (
        'switches', 'frozen', 'folds', 'probe', 'classic', 'scratch', 'pretrained', 'seed', 'model', 'search')}
