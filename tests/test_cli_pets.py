"Cats and dogs from the command line: train, judge, tell apart, explain, and what an accuracy is worth; a clear line for all that can't be used"
import csv
import json
import re
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from captcha_lab.core import share_path
from commands import one, refused, rows, run

pytest.importorskip('torch')
pytestmark = pytest.mark.usefixtures('one_thread', 'own_data')
N = 120
LEFT = ['history.csv', 'loss.png', 'predictions.png', 'toy.json', 'toy.safetensors']
SMALL = ['--trimmed', 0, '--arch', 'pet_cnn_shallow', '--size', 32, '--epochs', 4, '--bs', 8, '--lr', .01, '--seed', 3, '--device', 'cpu', '--name', 'toy']


def animal(label, rng, side=48):
    "A noisy picture: cats are round, dogs are square"
    x = rng.integers(0, 90, (side, side, 3), dtype=np.uint8)
    a, b = rng.integers(16, side - 16, 2).tolist()
    if label == 'cat': cv2.circle(x, (a, b), 12, (240, 150, 30), -1)
    else: cv2.rectangle(x, (a - 11, b - 11), (a + 11, b + 11), (170, 170, 170), -1)
    return Image.fromarray(x)


def shelter(folder, n=N, seed=0):
    folder.mkdir()
    rng = np.random.default_rng(seed)
    for i in range(n):
        label = ('cat', 'dog')[i % 2]
        animal(label, rng).save(folder/f'{label}.{i}.jpg', quality=95)
    return folder


@pytest.fixture(scope='session')
def home(tmp_path_factory): return shelter(tmp_path_factory.mktemp('pets')/'home')


@pytest.fixture(scope='session')
def trained(home, tmp_path_factory):
    "A folder with a run, and what was printed"
    folder = tmp_path_factory.mktemp('trained')/'run'
    return folder, one('train', 'pets', '--data', home, '--out', folder, *SMALL)


@pytest.fixture(scope='session')
def model(trained): return trained[0]/'toy.safetensors'


@pytest.fixture(scope='session')
def twin(model):
    for name in ('onnx', 'onnxruntime'): pytest.importorskip(name)
    assert run('export', model)[0] == 0
    return model.with_suffix('.onnx')


@pytest.fixture
def strays(tmp_path):
    "Pictures without labels, numbered so that names and numbers sort differently"
    (tmp_path/'strays').mkdir()
    rng = np.random.default_rng(9)
    for i in (2, 10, 1): animal(('cat', 'dog')[i % 2], rng).save(tmp_path/'strays'/f'{i}.jpg', quality=95)
    return tmp_path/'strays'


# ---- training and judging

def test_train_leaves_everything(trained):
    folder, card = trained
    assert sorted(p.name for p in folder.iterdir() if p.suffix != '.onnx') == LEFT
    kept = json.loads((folder/'toy.json').read_text())
    assert {k: v for k, v in kept.items() if k != 'bundle_sha256'} == card
    assert [r['epoch'] for r in csv.DictReader(open(folder/'history.csv'))] == list('0123')
    assert card['data']['n'] == N and card['command'].startswith('captcha-lab train pets') and card['temperature'] > 0
    m = card['measures']
    assert m['accuracy']['value'] > .8 and m['p12']['value'] == pytest.approx(m['accuracy']['value']**12) and m['baseline_commonest']['value'] < .7
    assert len(m['errors']) == round((1 - m['accuracy']['value'])*m['accuracy']['n']) and not m['unreadable']
    for name in ('loss.png', 'predictions.png'): assert Image.open(folder/name).size[0] > 300


def test_the_way_of_the_student_project(home, tmp_path):
    "A plain network, a rate that falls when nothing gets better, early stopping"
    how = ['--arch', 'plain_cnn', '--schedule', 'plateau', '--patience', 1, '--smoothing', 0, '--trimmed', 8, '--epochs', 30]
    card = one('train', 'pets', '--data', home, '--out', tmp_path/'run', *SMALL, *how)
    assert card['split'].startswith('16 train') and card['options']['schedule'] == 'plateau' and card['epochs'] <= 30
    assert card['data']['trimmed'] == 8


def test_a_pretrained_network(home, tmp_path):
    code, out, err = run('train', 'pets', '--data', home, '--out', tmp_path/'run', *SMALL, '--arch', 'lite0', '--trimmed', 6, '--epochs', 1, '--json')
    card, = rows(out)
    assert code == 0 and card['learner']['pretrained'] and card['epochs'] == 2 and '32 pixels: 12 to learn from' in err
    assert [r['phase'] for r in csv.DictReader(open(tmp_path/'run'/'history.csv'))] == ['frozen', 'all']


def test_interrupted_and_resumed(trained, home, tmp_path):
    "The same weights come out"
    from captcha_lab.train import TrainProgress
    real, left = TrainProgress.after_batch, [25]
    def stop(callback):
        real(callback)
        left[0] -= callback.training
        if not left[0]: raise KeyboardInterrupt
    again = ['train', 'pets', '--data', home, '--out', tmp_path/'run', *SMALL]
    with pytest.MonkeyPatch.context() as mp:
        mp.setattr(TrainProgress, 'after_batch', stop)
        code, _, err = run(*again)
    assert code == 130 and 'interrupted' in err
    refused(*again, says='--resume')
    assert one(*again, '--resume')['measures'] == trained[1]['measures']
    assert sorted(p.name for p in (tmp_path/'run').iterdir()) == LEFT


def test_eval(model, trained, home, tmp_path):
    report = one('eval', 'pets', '--bundle', model, '--data', home, '--part', 'test')
    assert list(report)[:3] == ['task', 'n', 'data'] and report['task'] == 'pets' and report['n'] == report['accuracy']['n']
    assert {k: report[k] for k in trained[1]['measures']} == trained[1]['measures']
    for k in ('accuracy', 'p12', 'log_loss', 'accuracy_cat', 'accuracy_dog', 'baseline_commonest'):
        low, high = report[k]['ci95']
        assert low <= report[k]['value'] <= high
    assert .5 < report['auc'] <= 1 and 0 <= report['ece'] <= 1
    code, out, err = run('eval', 'pets', '--bundle', model, '--data', home)
    for k in ('accuracy', 'p12', 'baseline commonest'): assert re.search(f'^{k} .*%', out, re.M), out
    assert 'the model learnt from some of these photos' in err
    assert 'temperature was found on the valid part' in run('eval', 'pets', '--bundle', model, '--data', home, '--part', 'valid')[2]
    copy = shutil.copytree(home, tmp_path/'elsewhere')
    (copy/'cat.0.jpg').write_bytes((copy/'cat.0.jpg').read_bytes()[:300])
    (copy/'dog.1.jpg').write_bytes(b'')
    told = one('eval', 'pets', '--bundle', model, '--data', copy)
    assert (told['n'], told['unreadable']) == (N, 2) and {'cat.0.jpg', 'dog.1.jpg'} <= set(told['errors']), 'they count as wrong'


def test_folders_and_options(home, model, tmp_path):
    "Wrong ones, before anything is made"
    def folder(name, spoil):
        copy = shutil.copytree(home, tmp_path/name)
        spoil(copy)
        return copy
    def nameless(d): [p.rename(d/p.name.split('.', 1)[1]) for p in list(d.iterdir())]
    def one_nameless(d): (d/'cat.0.jpg').rename(d/'0.jpg')
    def cats(d): [p.unlink() for p in d.glob('dog*')]
    def empty(d): [p.unlink() for p in d.iterdir()]
    for name, spoil, says in (('nameless', nameless, 'without labels'), ('one', one_nameless, ['0.jpg', 'no label']), ('cats', cats, 'only cats'), ('empty', empty, 'no images')):
        refused('train', 'pets', '--data', folder(name, spoil), '--out', tmp_path/'out', *SMALL, says=says)
        assert not (tmp_path/'out').exists()
    def cut(d): (d/'dog.3.jpg').write_bytes((d/'dog.3.jpg').read_bytes()[:400])
    def blank(d): (d/'dog.3.jpg').write_bytes(b'')
    for name, spoil in (('cut', cut), ('blank', blank)):
        refused('train', 'pets', '--data', folder(name, spoil), '--out', tmp_path/'out', *SMALL, says='dog.3.jpg')
        assert not (tmp_path/'out').exists()
    for more, says in ((['--schedule', 'cosine'], 'cosine'), (['--arch', 'pet_dnn'], 'pet_dnn'), (['--size', 8], '--size'), (['--lr', 'nan'], 'lr'), (['--frozen', 1], '--frozen'),
                       (['--pretrained'], 'no ImageNet weights'), (['--arch', 'lite0', '--schedule', 'plateau'], 'one-cycle'), (['--loss', 'an'], '--loss')):
        refused('train', 'pets', '--data', home, '--out', tmp_path/'out', *SMALL, *more, says=says)
        assert not (tmp_path/'out').exists(), more
    refused('train', 'pets', '--data', tmp_path/'nowhere', '--out', tmp_path/'out', says='nowhere')
    refused('train', 'pets', '--out', tmp_path/'out', says='CAPTCHA_LAB_MIRROR')
    refused('train', 'pets', '--data', 'tiles', '--out', tmp_path/'out', says='holds no pets')
    refused('eval', 'pets', '--bundle', model, '--data', home, '--part', 'half', says='half')
    from captcha_lab.bundle import find_bundle
    refused('eval', 'pets', '--bundle', find_bundle('ctc'), '--data', home, says=['ctc', 'pets'])


# ---- telling apart

def test_pets(model, home):
    found = rows(run('pets', home, '--bundle', model, '--json')[1])
    assert [list(r) for r in found] == [['file', 'label', 'p_dog']]*N and all((r['p_dog'] > .5) == (r['label'] == 'dog') for r in found)
    assert np.mean([r['label'] in r['file'].rsplit('/', 1)[1] for r in found]) > .85
    line = run('pets', home/'cat.0.jpg', '--bundle', model)[1]
    assert re.fullmatch(r'.*cat\.0\.jpg\t(cat|dog) (0\.[5-9]\d|1\.00)\n', line)


def test_goes_on_past_bad_files(model, strays):
    (strays/'3.jpg').write_bytes(b'')
    (strays/'4.jpg').write_bytes((strays/'2.jpg').read_bytes()[:500])
    (strays/'5.jpg').write_text('<html>')
    code, out, err = run('pets', strays, strays/'gone.jpg', '--bundle', model, '--json')
    found = rows(out)
    assert code == 2 and err == '' and len(found) == 7
    bad = {r['file'].rsplit('/', 1)[1]: r['error'] for r in found if 'error' in r}
    assert set(bad) == {'3.jpg', '4.jpg', '5.jpg', 'gone.jpg'} and all(f in e for f, e in bad.items())
    code, out, err = run('pets', strays, '--bundle', model)
    assert code == 2 and out.count('\n') == 3 and err.count('\n') == 3


def test_csv(model, strays, tmp_path):
    table = tmp_path/'out.csv'
    code, out, err = run('pets', strays, '--bundle', model, '--csv', table, '--json')
    assert code == 0 and len(rows(out)) == 3
    said = {int(r['file'].rsplit('/', 1)[1][:-4]): int(r['label'] == 'dog') for r in rows(out)}
    assert table.read_text().split() == ['id,label', *(f'{i},{said[i]}' for i in (1, 2, 10))]
    table.write_text('mine')
    refused('pets', strays, '--bundle', model, '--csv', table, says=['out.csv', '--force'])
    assert table.read_text() == 'mine'
    assert run('pets', strays, '--bundle', model, '--csv', table, '--force')[0] == 0 and table.read_text().startswith('id,label')


def test_csv_whole_or_not_at_all(model, strays, tmp_path):
    table = tmp_path/'out.csv'
    (strays/'rex.jpg').write_bytes((strays/'1.jpg').read_bytes())
    refused('pets', strays, '--bundle', model, '--csv', table, says=['rex.jpg', 'no number in the name'])
    (strays/'rex.jpg').rename(strays/'dog.1.jpg')
    refused('pets', strays, '--bundle', model, '--csv', table, says=['dog.1.jpg', 'the same number', '1.jpg'])
    (strays/'dog.1.jpg').unlink()
    (strays/'3.jpg').write_bytes((strays/'1.jpg').read_bytes()[:500])
    code, out, err = run('pets', strays, '--bundle', model, '--csv', table)
    assert code == 2 and out.count('\n') == 3 and err.count('\n') == 2 and 'out.csv was not written, as 1 of 4' in err
    (tmp_path/'none').mkdir()
    refused('pets', tmp_path/'none', '--bundle', model, '--csv', table, says='no images')
    (strays/'3.jpg').unlink()
    for folder in ('nowhere', 'strays/1.jpg'): refused('pets', strays, '--bundle', model, '--csv', tmp_path/folder/'out.csv', says=['no such folder', folder])
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != 'own data') == ['none', 'strays']


def test_pets_of_another_kind(model, strays):
    from captcha_lab.bundle import find_bundle
    refused('pets', strays, '--bundle', find_bundle('tiles'), says=['tiles', 'pets'])
    refused('tiles', strays, '--bundle', model, says=['pets', 'tiles'])
    refused('read', strays, '--bundle', model, says=['pets', 'texts'])


def test_twin_says_the_same(model, twin, strays):
    a, b = (rows(run('pets', strays, '--bundle', m, '--json')[1]) for m in (model, twin))
    assert [r['label'] for r in a] == [r['label'] for r in b]
    for x, y in zip(a, b): assert abs(x['p_dog'] - y['p_dog']) < 1e-3


def test_answers_at_once(twin, strays):
    "Neither torch nor fastai, pandas or matplotlib is loaded"
    program = '''if True:
        import sys
        from captcha_lab.cli import main
        code = main(sys.argv[1:])
        print(sorted({'torch', 'fastai', 'pandas', 'matplotlib', 'scipy', 'requests', 'onnx', 'timm', 'optuna'} & set(sys.modules)), file=sys.stderr)
        sys.exit(code)'''
    for args in (['pets', strays, '--bundle', twin, '--json'], ['search', '--help'], ['train', 'pets', '--help']):
        p = subprocess.run([sys.executable, '-c', program, *map(str, args)], capture_output=True, text=True, cwd=share_path('..').resolve())
        assert p.returncode == 0 and p.stderr.splitlines()[-1] == '[]', p.stderr


def test_explain(model, home, tmp_path):
    for target in ('dog', 'Cat'):
        row = one('explain', home/'dog.1.jpg', '--target', target, '--bundle', model, '--out', tmp_path/f'{target}.png')
        assert (row['task'], row['target']) == ('pets', target.lower()) and 0 <= row['p'] <= 1
        assert Image.open(tmp_path/f'{target}.png').size == (48, 48)
    refused('explain', home/'dog.1.jpg', '--target', 'bird', '--bundle', model, '--out', tmp_path/'bird.png', says=["'bird'", 'Known: cat, dog'])


# ---- what an accuracy is worth

def test_challenge_of_a_real_model(model, home):
    found = one('challenge', '--bundle', model, '--data', home, '--partial-credit', '--n', 6)
    assert found['p'] == found['accuracy']['value'] and found['n'] == 6 and found['partial_credit'] and found['data']['part'] == 'all'
    assert found['independent']['value'] == pytest.approx(found['p']**6) and found['accuracy']['n'] == N
    for k in ('accuracy', 'independent', 'real_pass_rate'): assert found[k]['ci95'][0] <= found[k]['value'] <= found[k]['ci95'][1]
    assert found['real_pass_rate']['value'] == pytest.approx(found['independent']['value'], abs=.1) and 0 <= found['rho'] <= 1
    assert found['abstention']['pass_visit'] >= found['real_pass_rate']['value'] - .05 and found['abstention']['skips'] == 3
    text = run('challenge', '--bundle', model, '--data', home)[1]
    for k in ('machine passes', 'people pass', 'right on an image', 'all of 12, if one by one', 'all of 12, as dealt', 'free to skip 3'): assert re.search(f'^{k} ', text, re.M), text


def test_bad_challenges(model, home, tmp_path):
    refused('challenge', says=['--p', '--bundle'])
    refused('challenge', '--p', .5, '--bundle', model, says=['--p', '--bundle'])
    refused('challenge', '--p', .5, '--data', home, says='--data')
    refused('challenge', '--bundle', model, '--data', home, '--n', 0, says='n must be')
    refused('challenge', '--bundle', model, '--data', home, '--token-bucket', -1, says='token bucket')
    refused('challenge', '--bundle', model, '--data', tmp_path/'nowhere', says='nowhere')
    refused('challenge', '--bundle', model, '--data', shelter(tmp_path/'few', 8), says=['too few', 'few', '--n'])


# ---- search

def test_search(monkeypatch, tmp_path):
    "Asks with what was typed, and tells what was found; the search itself is tested where it is written"
    search = pytest.importorskip('captcha_lab.search')
    asked, found = [], {'best': {'lr': .004}, 'value': .9, 'n_trials': 3, 'importances': {'lr': .7, 'wd': .3}, 'trials': [], 'pruned': 1, 'seconds': 2.}
    monkeypatch.setattr(search, 'search_pets', lambda *a: asked.append(a) or found)
    db, plot = tmp_path/'a.db', tmp_path/'a.png'
    assert one('search', '--db', db, '--trials', 3, '--workers', 0, '--n-train', 40, '--data', 'here', '--plot', plot) == found
    assert asked == [(db, 3, 0, 42, 4, 40, 'here')] and Image.open(plot).size[0] > 300
    refused('search', '--db', db, '--plot', plot, says='--force')
    refused('search', '--plot', tmp_path/'a.pdf', says='.png')
    assert len(asked) == 1
    assert '90.00 % of the validation part' in run('search', '--db', db)[1]


def test_bad_databases(home, tmp_path):
    pytest.importorskip('optuna')
    (tmp_path/'junk.db').write_text('no database at all')
    refused('search', '--db', tmp_path/'junk.db', '--data', home, '--workers', 0, says='junk.db')
