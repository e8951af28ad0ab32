"Street tiles from the command line: train, judge, look, answer grids, measure; and a clear line for all that can't be used"
import csv
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from captcha_lab.core import share_path
from commands import one, refused, rows, run

pytest.importorskip('torch')
pytestmark = pytest.mark.usefixtures('one_thread', 'own_data')
TOYS, N = ('Box', 'Cross', 'Disc', 'Other'), 16 # tiles of each
LEFT = ['history.csv', 'loss.png', 'predictions.png', 'toy.json', 'toy.safetensors']


def tile(things, rng, side=60):
    "A noisy picture of some things"
    x = rng.integers(0, 90, (side, side, 3), dtype=np.uint8)
    for thing in things:
        a, b = rng.integers(14, side - 14, 2).tolist()
        if thing == 'Disc': cv2.circle(x, (a, b), 11, (230, 40, 40), -1)
        if thing == 'Box': cv2.rectangle(x, (a - 10, b - 10), (a + 10, b + 10), (40, 220, 40), -1)
        if thing == 'Cross': cv2.drawMarker(x, (a, b), (60, 60, 250), cv2.MARKER_CROSS, 24, 7)
    return x


def paint(folder, n=N, seed=0):
    "`n` tiles a class, of which one thing of two is told; what is really on them, file -> labels"
    rng, truth = np.random.default_rng(seed), {}
    for label in TOYS:
        (folder/label).mkdir(parents=True)
        for i in range(n):
            things = {label} | ({str(rng.choice(TOYS[:3]))} if label != 'Other' and i % 2 else set())
            Image.fromarray(tile(things, rng)).save(folder/label/f'{label} ({i + 1}).png')
            truth[f'{label}/{label} ({i + 1}).png'] = '|'.join(sorted(things))
    return truth


def table(path, text, head='file,labels'):
    path.write_text(f'{head}\n{text}\n')
    return path


@pytest.fixture(scope='session')
def street(tmp_path_factory):
    "A folder of tiles, and a table of what is really on half of them"
    folder = tmp_path_factory.mktemp('tiles')/'street'
    truth = paint(folder)
    half = list(truth.items())[::2] + list(truth.items())[1::4]
    return folder, table(folder.parent/'fixes.csv', '\n'.join(f'{f},{l}' for f, l in half))


SMALL = ['--trimmed', 0, '--size', 64, '--frozen', 1, '--epochs', 4, '--bs', 16, '--lr', .01, '--seed', 3, '--device', 'cpu', '--name', 'toy']


def train(out, street, *more):
    folder, fixes = street
    return ['train', 'tiles', '--data', folder, '--corrections', fixes, '--classes', ','.join(TOYS), '--out', out, '--tune', 'valid', *SMALL, *more]


@pytest.fixture(scope='session')
def trained(street, tmp_path_factory):
    "A folder with a run, and what was printed"
    folder = tmp_path_factory.mktemp('trained')/'run'
    return folder, one(*train(folder, street))


@pytest.fixture(scope='session')
def model(trained): return trained[0]/'toy.safetensors'


@pytest.fixture(scope='session')
def twin(model):
    for name in ('onnx', 'onnxruntime'): pytest.importorskip(name)
    assert run('export', model)[0] == 0
    return model.with_suffix('.onnx')


# ---- training

def test_train_leaves_everything(trained):
    folder, card = trained
    assert sorted(p.name for p in folder.iterdir() if p.suffix != '.onnx') == LEFT
    kept = json.loads((folder/'toy.json').read_text())
    assert {k: v for k, v in kept.items() if k != 'bundle_sha256'} == card
    history = list(csv.DictReader(open(folder/'history.csv')))
    assert [r['phase'] for r in history] == ['frozen'] + ['all']*4 and [r['epoch'] for r in history] == list('01234')
    assert card['data']['looked_through'] == 3*N and 'corrections' in card['data'] and card['command'].startswith('captcha-lab train tiles')
    assert set(card['temperatures']) == set(TOYS) and card['measures']['thresholds'].keys() == set(TOYS)
    assert card['measures']['top1']['value'] > .5 and card['measures']['map']['value'] > .5
    for name in ('loss.png', 'predictions.png'): assert Image.open(folder/name).size[0] > 300


def test_weights_take_a_byte_each(model):
    from safetensors.numpy import load_file
    weights = load_file(model)
    assert sum(v.size for v in weights.values() if v.dtype == np.int8) > 3_000_000 and model.stat().st_size < 5_000_000


def test_corrections_to_tune_on(street, tmp_path):
    "Half of those looked through are kept back, and the validation part is learnt from"
    code, out, err = run(*train(tmp_path/'run', street, '--tune', 'corrected', '--no-mirror', '--epochs', 1, '--json'))
    card, = rows(out)
    n = [int(w.split()[0]) for w in card['split'].split(', ')]
    assert code == 0 and card['tuned_on'] == card['tuned_on_looked_through'] == n[1] > N/2 and '64 pixels' in err and err.count('\n') == 1
    assert 2*N < n[0] <= 4*N - n[1] - n[2] and card['data']['tune'] == 'corrected'
    told = run('eval', 'tiles', '--bundle', tmp_path/'run'/'toy.safetensors', '--data', street[0], '--part', 'valid')[2]
    assert 'the model learnt from some of these tiles' in told


@pytest.fixture(scope='session')
def few(tmp_path_factory):
    "Two tiles a class, of which none falls to the test part, and a table of what is on them"
    folder = tmp_path_factory.mktemp('few')/'few'
    return folder, table(folder.parent/'few.csv', '\n'.join(f'{f},{l}' for f, l in paint(folder, 2).items()))


def test_nothing_to_test_on(few, tmp_path):
    "Thresholds are still found on tiles kept back"
    card = one(*train(tmp_path/'run', few, '--tune', 'corrected', '--epochs', 1, '--bs', 2))
    assert card['split'].endswith(' 0 test') and card['tuned_on'] > 0 and card['measures'] == {}
    assert sorted(p.name for p in (tmp_path/'run').iterdir()) == [f for f in LEFT if f != 'predictions.png']


def test_no_tiles_to_judge_by(few, model, twin):
    refused('eval', 'tiles', '--bundle', model, '--data', few[0], '--part', 'test', says=['the test part holds no images', 'few'])
    refused('bench', 'tiles', '--bundle', model, '--data', few[0], says=['the test part holds no images', 'few'])


def test_interrupted_and_resumed(trained, street, tmp_path, monkeypatch):
    "In the second phase; the same weights come out"
    from captcha_lab.train import TrainProgress
    real, left = TrainProgress.after_batch, [12]
    def stop(callback):
        real(callback)
        left[0] -= callback.training
        if not left[0]: raise KeyboardInterrupt
    with pytest.MonkeyPatch.context() as mp:
        mp.setattr(TrainProgress, 'after_batch', stop)
        code, _, err = run(*train(tmp_path/'run', street))
    assert code == 130 and 'interrupted' in err
    assert sorted(p.name for p in (tmp_path/'run').iterdir()) == ['all', 'frozen']
    code, _, err = run(*train(tmp_path/'run', street))
    assert code == 2 and '--resume' in err
    again = one(*train(tmp_path/'run', street, '--resume'))
    assert sorted(p.name for p in (tmp_path/'run').iterdir()) == LEFT
    assert again['measures'] == trained[1]['measures']


def test_interrupted_at_once(street, tmp_path, monkeypatch):
    from captcha_lab.train import TrainProgress
    def stop(callback): raise KeyboardInterrupt
    monkeypatch.setattr(TrainProgress, 'after_batch', stop)
    assert run(*train(tmp_path/'run', street))[0] == 130
    assert list(tmp_path.glob('run')) == [], 'the same command can be given again'


def test_summary(trained):
    from captcha_lab.terminal import summary
    text = summary(trained[1], trained[0])
    assert all(k in text for k in ('top1', 'map', 'micro f1', 'accuracy multi published', 'baseline nothing', str(trained[0])))


# ---- judging

def test_eval(model, trained, street):
    folder, fixes = street
    report = one('eval', 'tiles', '--bundle', model, '--data', folder, '--corrections', fixes, '--part', 'test')
    assert list(report)[:3] == ['task', 'n', 'data'] and report['task'] == 'tiles' and report['n'] == report['top1']['n']
    assert {k: report[k] for k in trained[1]['measures']} == trained[1]['measures']
    assert report['baseline_nothing'] == report['accuracy_multi_published']['nothing'] and report['baseline_nothing']['value'] == .75
    for k in ('top1', 'map', 'accuracy_multi', 'accuracy_multi_published'):
        low, high = report[k]['ci95']
        assert 0 <= low <= report[k]['value'] <= high <= 1
    whole = one('eval', 'tiles', '--bundle', model, '--data', folder)
    assert whole['n'] == 4*N and whole['data']['part'] == 'all' and 'map' not in whole, 'nothing was looked through'
    told = run('eval', 'tiles', '--bundle', model, '--data', folder, '--corrections', fixes)[1]
    for k in ('nothing', 'commonest', 'map'): assert re.search(f'^baseline {k} .*%', told, re.M), told


def test_eval_says_what_the_model_has_met(model, street, tmp_path):
    def told(part, folder=street[0]): return run('eval', 'tiles', '--bundle', model, '--data', folder, '--part', part)[2]
    for part in ('train', 'all'): assert told(part).count('the model learnt from some of these tiles') == 1
    assert "thresholds were found on the valid part" in told('valid') and 'too good' not in told('test')
    assert 'too good' not in told('all', shutil.copytree(street[0], tmp_path/'elsewhere'))


def test_eval_of_another_kind(model, street, tmp_path):
    from captcha_lab.bundle import find_bundle
    refused('eval', 'tiles', '--bundle', find_bundle('ctc'), '--data', street[0], says=['ctc', 'tiles'])
    refused('eval', 'ctc', '--bundle', model, says=['tiles', 'ctc'])
    refused('read', street[0], '--bundle', model, says=['tiles', 'texts'])
    refused('tiles', street[0], '--bundle', find_bundle('ctc'), says=['ctc', 'tiles'])
    refused('eval', 'tiles', '--bundle', model, '--data', street[0], '--part', 'half', says='half')


# ---- looking

KINDS = {
    'wide.png': lambda im, p: im.resize((200, 70)).save(p), 'tall.jpg': lambda im, p: im.resize((40, 90)).save(p),
    'grey.png': lambda im, p: im.convert('L').save(p), 'alpha.png': lambda im, p: im.convert('RGBA').save(p),
    'large.jpg': lambda im, p: im.resize((5000, 5000)).save(p)}
BROKEN = {'dot.png': (lambda im, p: im.resize((10, 10)).save(p), 'small'), 'junk.png': (lambda im, p: p.write_text('junk'), 'not an image'),
          'cut.png': (lambda im, p: p.write_bytes(png(im)[:900]), 'cut off'), 'gone.png': (lambda im, p: None, 'no such file')}


def png(im):
    out = io.BytesIO()
    im.save(out, 'png')
    return out.getvalue()


def test_looks_at_any_tile_and_goes_on(model, tmp_path):
    im = Image.fromarray(tile(['Box', 'Disc'], np.random.default_rng(7)))
    for name, make in KINDS.items(): make(im, tmp_path/name)
    for name, (make, _) in BROKEN.items(): make(im, tmp_path/name)
    code, out, err = run('tiles', tmp_path, tmp_path/'gone.png', '--bundle', model, '--json')
    assert (code, err) == (2, '')
    found = {Path(r['file']).name: r for r in rows(out)}
    assert found.keys() == KINDS.keys() | BROKEN.keys()
    for name in KINDS:
        row = found[name]
        assert list(row) == ['file', 'top1', 'labels', 'probs'] and list(row['probs']) == list(TOYS)
        assert row['top1'] == max(row['probs'], key=row['probs'].get) and all(0 <= p <= 1 for p in row['probs'].values())
        assert row['labels'] == sorted(row['labels'], key=lambda c: -row['probs'][c])
    for name, (_, why) in BROKEN.items():
        assert list(found[name]) == ['file', 'error'] and why in found[name]['error']
        refused('tiles', tmp_path/name, '--bundle', model, says=[why, name])


def test_labels_are_those_above_the_thresholds(model, street):
    from captcha_lab.bundle import read_meta
    lines = read_meta(model)['thresholds']
    found = rows(run('tiles', street[0]/'Box', '--bundle', model, '--json')[1])
    assert len(found) == N
    for r in found:
        above = {c for c, p in r['probs'].items() if p >= lines[c]}
        assert set(r['labels']) == (above - {'Other'} or above)
    lines = run('tiles', street[0]/'Box', '--bundle', model)[1].splitlines()
    assert len(lines) == N and all(len(l.split('\t')) == 2 for l in lines)


# ---- grids

def screenshot(things, gutter=4, side=60):
    "A grid of tiles, one for each of `things`"
    rng, n = np.random.default_rng(5), round(len(things)**.5)
    whole = np.full((n*side + (n - 1)*gutter,)*2 + (3,), 255, np.uint8)
    for i, thing in enumerate(things):
        y, x = (k*(side + gutter) for k in divmod(i, n))
        whole[y:y + side, x:x + side] = tile([thing], rng, side)
    return Image.fromarray(whole)


@pytest.fixture
def shot(tmp_path):
    screenshot(['Box', 'Disc', 'Other', 'Disc', 'Box', 'Other', 'Disc', 'Other', 'Box']).save(tmp_path/'shot.png')
    return tmp_path/'shot.png'


def test_grid(model, shot, tmp_path):
    marked = tmp_path/'marked.png'
    answer = one('grid', shot, '--target', 'box', '--bundle', model, '--out', marked)
    assert list(answer) == ['file', 'size', 'target', 'cells'] and (answer['size'], answer['target']) == (3, 'Box')
    assert [(c['row'], c['col']) for c in answer['cells']] == [(r, c) for r in (1, 2, 3) for c in (1, 2, 3)]
    assert [list(c) for c in answer['cells']] == [['row', 'col', 'p', 'chosen']]*9
    likely = sorted(answer['cells'], key=lambda c: -c['p'])[:3]
    assert {(c['row'], c['col']) for c in likely} == {(1, 1), (2, 2), (3, 3)}
    assert Image.open(marked).size == Image.open(shot).size and png(Image.open(marked)) != png(Image.open(shot))
    before = marked.read_bytes()
    refused('grid', shot, '--target', 'Box', '--bundle', model, '--out', marked, says='--force')
    assert marked.read_bytes() == before
    assert run('grid', shot, '--target', 'Box', '--bundle', model, '--out', marked, '--threshold', 1, '--force')[0] == 0
    assert marked.read_bytes() != before


def test_grid_for_people(model, shot, tmp_path):
    every = run('grid', shot, '--target', 'Disc', '--threshold', 0, '--bundle', model)[1]
    assert every.count('[') == 9 and every.count('\n') == 3
    screenshot(['Box', 'Disc', 'Cross', 'Other']*4, gutter=0).save(tmp_path/'four.png')
    answer = one('grid', tmp_path/'four.png', '--size', 4, '--target', 'Cross', '--bundle', model)
    assert len(answer['cells']) == 16
    from captcha_lab.bundle import read_meta
    least = read_meta(model)['thresholds']['Cross']
    for c in answer['cells']: assert c['chosen'] == (c['p'] >= round(least, 6)) or abs(c['p'] - least) < 1e-5


def test_bad_grids(model, shot, tmp_path):
    def bad(*args, says): refused('grid', *args, '--bundle', model, says=says)
    bad(shot, '--target', 'Train', says=["'Train'", 'shot.png', 'Known: Box'])
    bad(shot, '--target', 'Box', '--size', 5, says=['size 5', '3 or 4', 'shot.png'])
    bad(shot, '--target', 'Box', '--size', 4, says=['3x3', 'shot.png'])
    bad(shot, '--target', 'Box', '--threshold', 2, says='--threshold')
    bad(shot, '--target', 'Box', '--out', tmp_path/'a.txt', says='.png')
    bad(shot, '--target', 'Box', '--out', shot/'a.png', says='shot.png')
    bad(shot, says='--target')
    x = np.array(Image.open(shot))
    Image.fromarray(np.insert(x, [62]*5, 255, axis=1)).save(tmp_path/'uneven.png')
    bad(tmp_path/'uneven.png', '--target', 'Box', says=['uneven.png', 'widths'])
    Image.fromarray(np.random.default_rng(0).integers(0, 200, (181, 181, 3), dtype=np.uint8)).save(tmp_path/'odd.png')
    bad(tmp_path/'odd.png', '--target', 'Box', says=['odd.png', '181'])
    Image.fromarray(x[:40, :40]).save(tmp_path/'tiny.png')
    bad(tmp_path/'tiny.png', '--target', 'Box', says=['tiny.png', '40x40'])
    (tmp_path/'cut.png').write_bytes(shot.read_bytes()[:2000])
    bad(tmp_path/'cut.png', '--target', 'Box', says=['cut.png', 'cut off'])
    assert not [p for p in tmp_path.iterdir() if p.suffix not in ('.png',)], 'nothing is left behind'


# ---- folders and tables

def test_bad_folders(street, model, tmp_path):
    def spoilt(name, spoil):
        copy = shutil.copytree(street[0], tmp_path/name)
        spoil(copy)
        return copy
    def empty(d): (d/'Bus').mkdir()
    def single(d): [p.unlink() for p in sorted((d/'Box').iterdir())[1:]]
    def loose(d): shutil.copy(d/'Box'/'Box (1).png', d/'a.png')
    def broken(d): [p.write_bytes(b'\x89PNG no more' + bytes([i])) for i, p in enumerate(sorted((d/'Box').iterdir())[:N//2])]
    for name, spoil, says in (('empty', empty, 'no image'), ('single', single, 'one image'), ('loose', loose, 'outside'),
                              ('unknown', lambda d: (d/'Box').rename(d/'Crate'), "'Crate' is not a class")):
        folder = spoilt(name, spoil)
        refused('train', 'tiles', '--data', folder, '--classes', ','.join(TOYS), '--out', tmp_path/'out', *SMALL, says=says)
        refused('eval', 'tiles', '--data', folder, '--bundle', model, says=says)
        assert not (tmp_path/'out').exists()
    folder = spoilt('broken', broken)
    refused('train', 'tiles', '--data', folder, '--classes', ','.join(TOYS), '--out', tmp_path/'out', *SMALL, says=['not an image', 'Box ('])
    assert not (tmp_path/'out').exists()
    report = one('eval', 'tiles', '--data', folder, '--bundle', model)
    assert (report['n'], report['unreadable']) == (4*N, N//2), 'they count as wrong'
    refused('train', 'tiles', '--data', street[0], '--out', tmp_path/'out', *SMALL, says='is not a class')
    refused('train', 'tiles', '--data', tmp_path/'nowhere', '--out', tmp_path/'out', says='nowhere')
    refused('train', 'tiles', '--out', tmp_path/'out', says='CAPTCHA_LAB_MIRROR')
    refused('eval', 'tiles', '--bundle', model, '--data', 'pets', says='pets')


def test_a_folder_named_like_a_data_set(tmp_path, monkeypatch):
    "The data set is meant, unless the folder is written with a slash; the run's own folder is not taken for data either"
    from captcha_lab.bundle import find_bundle
    monkeypatch.chdir(tmp_path)
    refused('train', 'tiles', '--out', 'tiles', says='CAPTCHA_LAB_MIRROR')
    refused('train', 'ctc', '--data', 'captcha_v2', '--out', 'captcha_v2', says='CAPTCHA_LAB_MIRROR')
    for name in ('tiles', 'captcha_v2', 'rendered'): (tmp_path/name).mkdir()
    from captcha_lab.runs import is_folder
    assert [is_folder(o) for o in ('tiles', './tiles', tmp_path/'tiles', 'rendered', 'nowhere')] == [False, True, True, True, False]
    for args in (['data', 'verify'], ['data', 'audit'], ['train', 'tiles', '--out', 'out', '--data']):
        refused(*args, 'tiles', says='CAPTCHA_LAB_MIRROR')
        refused(*args, './tiles', says='no images')
    for args in (['train', 'ctc', '--out', 'out'], ['train', 'letters', '--out', 'out'], ['eval', 'ctc', '--bundle', find_bundle('ctc')]):
        refused(*args, '--data', 'captcha_v2', says='CAPTCHA_LAB_MIRROR')
        refused(*args, '--data', './captcha_v2', says='no images')


@pytest.mark.parametrize('text, head, says', [
    ('Box/Box (1).png,Bus', None, "unknown class 'Bus'"), ('Box/Box (1).png,Box\nBox/Box (1).png,Disc', None, 'listed twice'),
    ('Box/Box (99).png,Box', None, 'Box (99).png'), ('Box/Box (1).png,', None, 'no label'), ('Box/Box (1).png,Box|Other', None, 'Other'),
    ('Box (1).png', 'file', 'labels')])
def test_bad_tables(street, model, tmp_path, text, head, says):
    path = table(tmp_path/'bad.csv', text, head or 'file,labels')
    refused(*train(tmp_path/'out', (street[0], path)), says=[says, 'bad.csv'])
    refused('eval', 'tiles', '--data', street[0], '--corrections', path, '--bundle', model, says=[says, 'bad.csv'])
    assert not (tmp_path/'out').exists()


def test_options(street, model, tmp_path):
    "Wrong ones, and those of another task, before anything is made"
    for more, says in ((['--tune', 'test'], 'test'), (['--loss', 'bce'], 'bce'), (['--other', 'maybe'], 'maybe'), (['--arch', 'lite9'], 'lite9'),
                       (['--size', 16], '--size'), (['--lr', 'nan'], 'lr'), (['--bs', 0], '--bs'), (['--epochs', 0], '--epochs'),
                       (['--level', 1], '--level'), (['--alphabet', 'AB'], '--alphabet'), (['--all'], '--all')):
        refused(*train(tmp_path/'out', street, *more), says=says)
        assert not (tmp_path/'out').exists(), more
    nothing = train(tmp_path/'out', street, '--tune', 'corrected')
    at = nothing.index('--corrections')
    refused(*nothing[:at], *nothing[at + 2:], says='--corrections')
    for args in (['train', 'ctc', '--mixup', 1], ['train', 'letters', '--corrections', 'a.csv'], ['train', 'ctc', '--tune', 'valid']):
        refused(*args, '--out', tmp_path/'out', says=args[2])
    refused('eval', 'tiles', '--level', 1, says='--level')
    refused('bench', 'tiles', '--peer-python', sys.executable, says=['--peer-python', 'ctc'])
    refused('bench', 'letters', '--data', street[0], says=['--data', 'ctc and tiles'])


# ---- twin, benchmark, audit

def test_twin_looks_the_same(model, twin, street):
    a, b = (rows(run('tiles', street[0]/'Disc', '--bundle', m, '--json')[1]) for m in (model, twin))
    assert [r['top1'] for r in a] == [r['top1'] for r in b]
    for x, y in zip(a, b): assert max(abs(x['probs'][c] - y['probs'][c]) for c in TOYS) < 1e-3


def test_bench(model, twin, street, tmp_path):
    code, out, err = run('bench', 'tiles', '--bundle', model, '--data', street[0], '--n', 10, '--runs', 1, '--out', tmp_path/'out', '--json')
    assert code == 0, err
    found = rows(out)
    for r in found: assert list(r) == ['what', 'ours', 'peer', 'ratio', 'unit', 'runs']
    assert [r['unit'] for r in found[:5]] == ['ms', 'ms', 'images/s', 'share', 'share'] and found[0]['peer']['median'] > 0
    assert found[3]['ours']['median'] == 1 and found[4]['ours']['median'] < 1e-3
    card = json.loads((tmp_path/'out'/'bench_tiles.json').read_text())
    assert card['peer'] == {'name': 'toy.safetensors'} and card['data']['part'] == 'test' and str(tmp_path) not in json.dumps(card)


def test_bench_needs_both(model, street, tmp_path):
    (tmp_path/'alone.safetensors').write_bytes(model.read_bytes())
    refused('bench', 'tiles', '--bundle', tmp_path/'alone.safetensors', '--data', street[0], says=['alone.onnx', 'captcha-lab export'])


def test_answers_at_once(twin, street, tmp_path):
    "Neither torch nor fastai, pandas or matplotlib is loaded"
    screenshot(['Box', 'Disc', 'Other']*3).save(tmp_path/'shot.png')
    program = '''if True:
        import sys
        from captcha_lab.cli import main
        code = main(sys.argv[1:])
        print(sorted({'torch', 'fastai', 'pandas', 'matplotlib', 'scipy', 'requests', 'onnx', 'timm'} & set(sys.modules)), file=sys.stderr)
        sys.exit(code)'''
    for args in (['tiles', street[0]/'Box'], ['grid', tmp_path/'shot.png', '--target', 'Box'], ['train', 'tiles', '--help'], ['eval', '--help']):
        more = ['--bundle', twin, '--json'] if '--help' not in args else []
        p = subprocess.run([sys.executable, '-c', program, *map(str, args + more)], capture_output=True, text=True, cwd=share_path('..').resolve())
        assert p.returncode == 0 and p.stderr.splitlines()[-1] == '[]', p.stderr


def test_audit_proposes_suspects(monkeypatch, tmp_path):
    "With the tiles that a stand-in doubts; where there are none to be had, the duplicates are still listed"
    import pandas as pd
    from captcha_lab import data, suspects
    groups = pd.DataFrame({'file': ['a', 'b'], 'label': ['Bus', 'Car'], 'sha256': ['1', '1'], 'group': [0, 0]})
    monkeypatch.setattr(data, 'fetch', lambda id: tmp_path)
    monkeypatch.setattr(data, 'audit', lambda *a: groups)
    doubted = pd.DataFrame({'file': ['x', 'y'], 'label': 'Bus', 'suggested': 'Car', 'p_label': [.01, .02], 'p_suggested': .9})
    monkeypatch.setattr(suspects, 'tile_suspects', lambda *a, **k: doubted)
    code, out, _ = run('data', 'audit', 'tiles', '--json')
    first, *rest = rows(out)
    assert code == 0 and first['labels'] == ['Bus', 'Car'] and [r['file'] for r in rest] == ['x', 'y'] and all(r['suspect'] is True for r in rest)
    assert len(rows(run('data', 'audit', 'tiles', '--suspects', 1, '--json')[1])) == 2
    assert len(rows(run('data', 'audit', 'tiles', '--suspects', 0, '--json')[1])) == 1
    assert 'Bus (0.01)?  Car (0.90)' in run('data', 'audit', 'tiles')[1]
    def fail(*a, **k): raise ImportError('no timm')
    monkeypatch.setattr(suspects, 'tile_suspects', fail)
    code, out, err = run('data', 'audit', 'tiles', '--json')
    assert code == 0 and len(rows(out)) == 1 and 'no timm' in err


def test_audit_of_class_folders(monkeypatch, tmp_path):
    "Labels are the folders' names, and suspects are proposed; where an image lies outside, its name is the label"
    import pandas as pd
    from captcha_lab import suspects
    asked = []
    doubted = pd.DataFrame({'file': ['x'], 'label': 'Box', 'suggested': 'Disc', 'p_label': [.01], 'p_suggested': .9})
    monkeypatch.setattr(suspects, 'tile_suspects', lambda *a: asked.append(a) or doubted)
    paint(tmp_path/'mine', 2)
    shutil.copy(tmp_path/'mine'/'Box'/'Box (1).png', tmp_path/'mine'/'Disc'/'Disc (9).png')
    code, out, _ = run('data', 'audit', tmp_path/'mine', '--json')
    group, suspect = rows(out)
    assert code == 0 and group['labels'] == ['Box', 'Disc'] and suspect['file'] == 'x' and asked == [(tmp_path/'mine', None)]
    shutil.copy(tmp_path/'mine'/'Box'/'Box (1).png', tmp_path/'mine'/'ab.png')
    group, = rows(run('data', 'audit', tmp_path/'mine', '--json')[1])
    assert 'ab' in group['labels'] and len(asked) == 1
