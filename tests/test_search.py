"The search: files that can't hold one, trials that are given up, processes that work together, and what mattered"
import contextlib
import sqlite3
import sys

import cv2
import numpy as np
import pandas as pd
import pytest

from captcha_lab.core import InputError
from captcha_lab.pet_studies import learn_pets
from captcha_lab.search import ReportTrial, open_study, pet_space, plot_importances, search_pets

optuna = pytest.importorskip('optuna')
pytestmark = pytest.mark.usefixtures('one_thread', 'own_data')
RECIPE = {'data': 'pets', 'epochs': 3, 'n_train': None, 'seed': 1}


def picture(k, rng):
    "Red or green noise"
    x = rng.integers(0, 120, (64, 64, 3), dtype=np.uint8)
    x[..., 2 - k % 2] += 90
    return x


@pytest.fixture(scope='module')
def shelter(tmp_path_factory):
    "A folder of one's own"
    folder, rng = tmp_path_factory.mktemp('pets'), np.random.default_rng(0)
    for i in range(80): cv2.imwrite(str(folder/f'{"cat dog".split()[i % 2]}.{i}.png'), picture(i, rng))
    return folder


def finished(path, n):
    "A search of `n` trials whose accuracy is a function of two settings"
    study, rng = open_study(path, RECIPE), np.random.default_rng(0)
    spaces = {'lr': optuna.distributions.FloatDistribution(1e-3, 1e-2, log=True), 'dropout': optuna.distributions.FloatDistribution(0, .5),
              'size': optuna.distributions.CategoricalDistribution([48])}
    for _ in range(n):
        params = {'lr': float(10**-rng.uniform(2, 3)), 'dropout': float(rng.uniform(0, .5)), 'size': 48}
        value = .9 - abs(np.log10(params['lr']) + 2.5) + .05*params['dropout']
        study.add_trial(optuna.trial.create_trial(params=params, distributions=spaces, value=value))
    return path


# ---- files

def test_files_that_cannot_hold_a_search(tmp_path):
    (tmp_path/'text.db').write_text('no database\n'*100)
    with contextlib.closing(sqlite3.connect(tmp_path/'shop.db')) as db: db.execute('CREATE TABLE prices (price)')
    optuna.create_study(storage=f'sqlite:///{tmp_path/"stocks.db"}', study_name='stocks')
    (tmp_path/'file').write_text('')
    said = {'text.db': 'is no SQLite database', 'shop.db': 'is a database of something else', 'stocks.db': 'holds another study',
            '.': 'is a folder', 'file/search.db': "can't be used as a database"}
    for name, what in said.items():
        with pytest.raises(InputError, match=what) as e: search_pets(tmp_path/name, 2)
        assert '\n' not in str(e.value)
    assert (tmp_path/'text.db').read_text() == 'no database\n'*100


def test_locked(tmp_path, monkeypatch):
    finished(tmp_path/'busy.db', 1)
    monkeypatch.setattr('captcha_lab.search._WAIT', .05)
    with contextlib.closing(sqlite3.connect(tmp_path/'busy.db')) as db:
        db.execute('BEGIN IMMEDIATE')
        with pytest.raises(InputError, match='is locked by another program') as e: search_pets(tmp_path/'busy.db', 2)
    assert '\n' not in str(e.value)
    open_study(tmp_path/'busy.db', RECIPE)  # free again


@pytest.mark.parametrize('name, value', [('epochs', 4), ('n_train', 100), ('seed', 2), ('data', 'other')])
def test_other_search(tmp_path, name, value):
    open_study(tmp_path/'a.db', RECIPE)
    with pytest.raises(InputError, match=f'another study: {name} is'): open_study(tmp_path/'a.db', RECIPE | {name: value})


@pytest.mark.parametrize('options', [{'n_trials': 0}, {'workers': -1}, {'epochs': 0}, {'n_train': 1}])
def test_numbers(tmp_path, options):
    with pytest.raises(InputError, match='too few'): search_pets(tmp_path/'a.db', **options)
    assert not (tmp_path/'a.db').exists()


def test_without_optuna(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'optuna', None)
    with pytest.raises(InputError, match=r'needs Optuna') as e: search_pets(tmp_path/'a.db', 1)
    assert 'captcha_lab[search]' in str(e.value)


def test_bad_folder(tmp_path):
    (tmp_path/'empty').mkdir()
    with pytest.raises(InputError): search_pets(tmp_path/'a.db', 1, data=str(tmp_path/'empty'))


# ---- trials

def test_a_trial_that_lags_behind_is_given_up(tmp_path):
    rng, rows = np.random.default_rng(1), []
    for i in range(24):
        path = tmp_path/f'{i}.png'
        cv2.imwrite(str(path), picture(i, rng))
        rows.append({'path': str(path), 'label': 'cat dog'.split()[i % 2], 'group': i, 'part': 'train' if i < 16 else 'valid'})
    study = optuna.create_study(direction='maximize', pruner=optuna.pruners.ThresholdPruner(lower=2, n_warmup_steps=1))
    job = dict(rows=pd.DataFrame(rows), size=32, bs=8, epochs=4, arch='pet_cnn_shallow')
    study.optimize(lambda trial: learn_pets(job | {'learner': {'cbs': [ReportTrial(trial)]}}), n_trials=1)
    trial, = study.trials
    assert trial.state.name == 'PRUNED' and list(trial.intermediate_values) == [0, 1]
    assert all(0 <= v <= 1 for v in trial.intermediate_values.values())


@pytest.mark.parametrize('n, batches', [(5950, (32, 64, 128)), (200, (32,)), (40, (10,)), (2, (1,))])
def test_batches_fit(n, batches):
    study = optuna.create_study()
    assert {pet_space(study.ask(), n)['bs'] for _ in range(30)} == set(batches)


@pytest.mark.slow
def test_processes_work_together_and_a_search_goes_on(tmp_path, shelter):
    how = dict(epochs=1, n_train=24, data=str(shelter))
    first = search_pets(tmp_path/'search.db', 1, workers=0, **how)
    found = search_pets(tmp_path/'search.db', 4, workers=2, **how)
    assert (first['n_trials'], found['n_trials'], found['pruned']) == (1, 4, 0)
    assert found['trials'][0] == first['trials'][0] and len({t['lr'] for t in found['trials']}) == 4
    assert found['value'] == max(t['value'] for t in found['trials'])
    assert search_pets(tmp_path/'search.db', 4, workers=0, **how)['trials'] == found['trials']
    assert [p.name for p in tmp_path.iterdir() if p.is_dir() and 'own' not in p.name] == []  # no copies of pictures are left


# ---- what mattered

def test_plot(tmp_path):
    ax = plot_importances(finished(tmp_path/'a.db', 20))
    names = [t.get_text() for t in ax.get_yticklabels()]
    assert names[-1] == 'learning rate' and '20 trials' in ax.get_title(loc='left')
    widths = [p.get_width() for p in ax.patches]
    assert widths == sorted(widths) and widths[-1] > .5


@pytest.mark.parametrize('n', [0, 2])
def test_too_few_to_plot(tmp_path, n):
    with pytest.raises(InputError, match='too few trials'): plot_importances(finished(tmp_path/'a.db', n))
