"The letters of the command line: cut, train, judge and read; whatever an image holds, its row says what became of it"
import csv
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captcha_lab import terminal
from captcha_lab.core import share_path
from captcha_lab.render import Renderer
from commands import one, refused, rows, run

pytest.importorskip('torch')
pytestmark = pytest.mark.usefixtures('one_thread')
ROOT = Path(__file__).resolve().parent.parent
SHIPPED = share_path('models', 'letters_rendered.safetensors')
shipped = pytest.mark.skipif(not SHIPPED.exists(), reason='the shipped model letters_rendered is not there')
SMALL = ['--epochs', '1', '--bs', '32', '--seed', '3', '--device', 'cpu']
SAMPLE = Renderer(level=0, alphabet='AKMSTX', seed=9)[1]


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    "The folder of a small reader, which knows capitals, and its card"
    folder = tmp_path_factory.mktemp('letters')/'run'
    return folder, one('train', 'letters', '--n', 400, '--out', folder, '--name', 'toy', '--epochs', 3, '--bs', 32, '--device', 'cpu')


@pytest.fixture(scope='module')
def model(trained): return trained[0]/'toy.safetensors'


@pytest.fixture(scope='module')
def twin(model, tmp_path_factory):
    for name in ('onnx', 'onnxruntime'): pytest.importorskip(name)
    out = tmp_path_factory.mktemp('twin')/'toy.onnx'
    assert run('export', model, '--out', out)[0] == 0
    return out


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    "Forty rendered images, and one that can't be cut"
    folder = tmp_path_factory.mktemp('images')/'set'
    assert run('render', '--out', folder, '--n', 40, '--level', 0, '--seed', 5)[0] == 0
    Image.new('L', (300, 150), 255).save(folder/'BLANK.png')
    return folder


@pytest.fixture(scope='module')
def cut(images, tmp_path_factory):
    "The same, cut into letters"
    folder = tmp_path_factory.mktemp('cut')/'letters of it'
    return folder, one('split', images, '--out', folder)


# ---- images

def paper(h, w): return np.full((h, w), 255, np.uint8)
def resized(w, h): return np.asarray(Image.fromarray(SAMPLE.image).resize((w, h)))
def bars(n):
    image = paper(150, 28*n + 20)
    for k in range(n): image[50:100, 10 + 28*k:22 + 28*k] = 0
    return image


def blob():
    image = paper(150, 300)
    image[40:110, 60:240] = 0
    return image


def cut_by_border():
    "Without the left half of the first letter"
    return SAMPLE.image[:, (SAMPLE.boxes[0, 0] + SAMPLE.boxes[0, 2])//2:]


GIVES_UP = {
    'blank': (paper(150, 300), 'blank image'), 'all black': (paper(150, 300)*0, 'blank image'), 'all grey': (paper(150, 300)//2, 'blank image'),
    'pale': (paper(150, 300) - bars(10)[:, :300]//64, 'blank image'), 'too many letters': (bars(20), '20 letters found'), 'tiny': (paper(8, 8), 'blank image'),
    'a huge blank': (paper(3000, 4000), 'blank image'), 'blank colour': (np.full((150, 300, 3), (255, 0, 0), np.uint8), 'blank image'),
    'transparent': (np.zeros((150, 300, 4), np.uint8), 'blank image')}
READ = {
    'grey': SAMPLE.image, 'white on black': 255 - SAMPLE.image, 'colour': np.stack([SAMPLE.image, SAMPLE.image//2 + 60, SAMPLE.image], -1),
    'alpha': np.dstack([np.zeros((150, 300, 3), np.uint8), 255 - SAMPLE.image]), 'huge': resized(3000, 1500)}
ANSWERED = {'small': resized(40, 20), 'blob': blob(), 'cut by the border': cut_by_border(), 'one bar': bars(1), 'noise': np.random.default_rng(0).integers(0, 256, (50, 200), dtype=np.uint8)}


@pytest.mark.parametrize('kind', GIVES_UP)
def test_gives_up_with_a_reason(model, tmp_path, kind):
    image, why = GIVES_UP[kind]
    Image.fromarray(image).save(tmp_path/'a.png')
    row = one('read', tmp_path/'a.png', '--reader', 'letters', '--bundle', model)
    assert list(row) == ['file', 'text', 'confidence', 'reason'] and (row['text'], row['confidence']) == ('', 0) and why in row['reason']
    code, out, err = run('read', tmp_path/'a.png', '--bundle', model)
    assert (code, err) == (0, '') and re.fullmatch(r'[^\t]+\t\t0\.000\t\([^\t]+\)\n', out) and why in out


@pytest.mark.parametrize('kind', READ)
def test_reads_any_kind_of_image(model, tmp_path, kind):
    Image.fromarray(READ[kind]).save(tmp_path/'a.png')
    row = one('read', tmp_path/'a.png', '--reader', 'letters', '--bundle', model)
    assert list(row) == ['file', 'text', 'confidence'] and row['text'] == SAMPLE.text and 0 < row['confidence'] <= 1


@pytest.mark.parametrize('kind', ANSWERED)
def test_answers_whatever_it_is(model, tmp_path, kind):
    Image.fromarray(ANSWERED[kind]).save(tmp_path/'a.png')
    row = one('read', tmp_path/'a.png', '--reader', 'letters', '--bundle', model)
    assert 0 <= row['confidence'] <= 1 and (row['text'] or row['reason'])


def test_a_letter_cut_by_the_border_is_told(model, tmp_path):
    Image.fromarray(cut_by_border()).save(tmp_path/'a.png')
    row = one('read', tmp_path/'a.png', '--bundle', model)
    assert len(row['text']) == len(SAMPLE.text) and row['reason'] == 'letter 1 is cut by the border'


def test_bad_files_keep_their_errors(model, images, tmp_path):
    (tmp_path/'text.png').write_text('no picture')
    Image.new('L', (1, 1)).save(tmp_path/'dot.png')
    Image.new('L', (9000, 20)).save(tmp_path/'strip.png')
    code, out, err = run('read', tmp_path, images/'BLANK.png', tmp_path/'gone.png', '--reader', 'letters', '--bundle', model, '--json')
    assert (code, err) == (2, '')
    assert [sorted(set(r) - {'file'}) for r in rows(out)] == [['error']]*3 + [['confidence', 'reason', 'text'], ['error']]
    assert ['too small' in rows(out)[0]['error'], 'too wide' in rows(out)[1]['error'], 'not an image' in rows(out)[2]['error']] == [True]*3


def test_twin_reads_the_same_at_once(model, twin, images):
    "Neither torch nor fastai is loaded"
    program = '''
        import sys
        from captcha_lab.cli import main
        code = main(sys.argv[1:])
        print(sorted({'torch', 'fastai', 'pandas', 'matplotlib', 'scipy', 'requests', 'onnx'} & set(sys.modules)), file=sys.stderr)
        sys.exit(code)'''
    args = ['read', str(images), '--reader', 'letters', '--bundle', str(twin), '--json']
    p = subprocess.run([sys.executable, '-c', textwrap.dedent(program), *args], capture_output=True, text=True, cwd=ROOT)
    assert (p.returncode, p.stderr) == (0, '[]\n')
    a, b = rows(p.stdout), rows(run('read', images, '--bundle', model, '--json')[1])
    assert len(a) == 41 and [(r['text'], r.get('reason')) for r in a] == [(r['text'], r.get('reason')) for r in b]
    assert sum(r['text'] == Path(r['file']).stem for r in b) > 30


# ---- training and judging

def test_a_finished_run(trained):
    folder, card = trained
    assert sorted(p.name for p in folder.iterdir()) == ['history.csv', 'loss.png', 'predictions.png', 'toy.json', 'toy.safetensors']
    assert card['training_uncut'] + card['training_letters']//6 == 400 and card['epochs'] == 3 and card['data']['level'] == 0
    assert card['split'] == '400 train, 40 valid, 40 test' and card['measures']['letters']['value'] > .9
    assert card['measures']['letters']['n'] == 240 and 'cut_iou' in card['measures']
    assert (folder/'history.csv').read_text().startswith('epoch,train_loss,valid_loss,accuracy')
    text = terminal.summary(card, folder)
    assert all(k in text for k in ('exact match', 'letters', 'cut iou', str(folder)))


def test_eval(model):
    report = one('eval', 'letters', '--level', 0, '--n', 60, '--seed', 7, '--bundle', model)
    assert list(report)[:3] == ['task', 'n', 'data'] and (report['task'], report['n']) == ('letters', 60) and 'alphabet' not in report['data']
    for k in ('exact_match', 'letters', 'cut', 'cut_iou', 'letters_if_cut', 'word_if_cut', 'cer', 'baseline_constant'):
        low, high = report[k]['ci95']
        assert 0 <= low <= report[k]['value'] <= high <= 1, k
    assert 0 <= report['product'] <= 1 and report['product'] == pytest.approx(report['exact_match']['value'])
    assert report['letters']['n'] == 360 and report['cut']['value'] > .9 < report['letters']['value']
    assert report == one('eval', 'letters', '--n', 60, '--seed', 7, '--bundle', model), 'level 0 is the default'
    assert one('eval', 'letters', '--n', 20, '--fonts', 'test', '--bundle', model)['data']['fonts'] == 'test'


def test_eval_on_a_level_with_other_symbols(model):
    "Drawn with those that the model knows"
    report = one('eval', 'letters', '--level', 1, '--n', 20, '--bundle', model)
    assert report['data']['alphabet'] == 'ABCDEFGHIJKLMNOPQRSTUVWXYZ' and report['cut']['n'] == 20


def test_several_levels_keep_to_their_alphabets(tmp_path):
    card = one('train', 'letters', '--n', 60, '--level', '0-2', '--out', tmp_path/'run', *SMALL)
    from captcha_lab.bundle import read_meta
    meta = read_meta(tmp_path/'run'/'reader.safetensors')
    assert [len(a) for a in meta['alphabets']] == [26, 30] and len(meta['vocab']) == 56 and card['data']['level'] == [0, 1, 2]
    report = one('eval', 'letters', '--level', 1, '--n', 20, '--bundle', tmp_path/'run'/'reader.safetensors')
    assert 'alphabet' not in report['data'], 'the level has its own'


def test_every_image_counts(model, images, tmp_path):
    (tmp_path/'ABCDEF.png').write_text('junk')
    Image.open(images/'BLANK.png').save(tmp_path/'BLANK.png')
    name = sorted(images.glob('*.png'))[0].name
    (tmp_path/name).write_bytes((images/name).read_bytes())
    report = one('eval', 'letters', '--data', tmp_path, '--bundle', model)
    assert (report['n'], report['unreadable'], report['letters']['n'], report['cut']['n']) == (3, 1, 17, 3)
    assert report['cut']['value'] == pytest.approx(1/3) and sum(report['reasons'].values()) == 2 and 'cut_iou' not in report
    assert 'gave up' in run('eval', 'letters', '--data', tmp_path, '--bundle', model)[1]


def test_an_alphabet_that_the_model_lacks(model, tmp_path):
    Image.fromarray(SAMPLE.image).save(tmp_path/'AB7.png')
    refused('eval', 'letters', '--data', tmp_path, '--bundle', model, says=["'7'", 'AB7.png', 'alphabet'])
    refused('train', 'letters', '--data', tmp_path, '--alphabet', 'AB', '--out', tmp_path/'out', says='AB7.png')
    assert not (tmp_path/'out').exists()


def test_nothing_that_can_be_cut(tmp_path):
    (tmp_path/'set').mkdir()
    for i in range(20): Image.fromarray(paper(50, 200) - np.uint8(i)).save(tmp_path/'set'/f'AB_{i + 2}.png')
    refused('train', 'letters', '--data', tmp_path/'set', '--out', tmp_path/'out', *SMALL, says='letters')
    assert not (tmp_path/'out').exists()


def test_resumed_after_an_interruption(tmp_path):
    from captcha_lab.train import TrainProgress
    real, left = TrainProgress.after_batch, [12]

    def after_batch(callback):
        real(callback)
        left[0] -= callback.training
        if not left[0]: raise KeyboardInterrupt
    args = ['train', 'letters', '--n', 40, '--out', tmp_path/'run', *SMALL, '--epochs', 2]
    with pytest.MonkeyPatch.context() as mp:
        mp.setattr(TrainProgress, 'after_batch', after_batch)
        assert run(*args)[0] == 130
    assert (tmp_path/'run'/'checkpoint.safetensors').exists()
    card = one(*args, '--resume')
    assert card['epochs'] == 2 and not (tmp_path/'run'/'checkpoint.safetensors').exists()


def test_the_wrong_task(model, images, tmp_path):
    from captcha_lab.bundle import find_bundle
    other = find_bundle('ctc')
    refused('read', images, '--reader', 'letters', '--bundle', other, says=['ctc', 'letters'])
    refused('read', images, '--reader', 'ctc', '--bundle', model, says=['ctc', 'letters'])
    refused('eval', 'ctc', '--bundle', model, says=['ctc', 'letters'])
    refused('eval', 'letters', '--bundle', other, says=['ctc', 'letters'])
    for task in ('ctc', 'letters'): refused('train', task, '--n', 8, '--init', model, '--out', tmp_path/'out')
    assert not (tmp_path/'out').exists()


# ---- folders of letters

def test_split(cut, images):
    folder, count = cut
    assert (count['images'], count['cut'], count['uncut'], count['letters']) == (41, 40, 1, 240)
    with open(folder/'manifest.csv', newline='', encoding='utf-8') as f: letters = list(csv.DictReader(f))
    assert len(letters) == 240 and {r['part'] for r in letters} == {'train', 'valid', 'test'}
    parts = {}
    for r in letters: parts.setdefault(r['image'], set()).add(r['part'])
    assert all(len(p) == 1 for p in parts.values()) and len(parts) == 40
    for r in letters: assert (folder/r['file']).exists() and Path(r['file']).parent.name == r['label']
    assert 'BLANK.png' in (folder/'uncut.csv').read_text() and (folder/'uncut'/'BLANK.png').read_bytes() == (images/'BLANK.png').read_bytes()


def test_split_says_what_it_did(images, tmp_path):
    code, out, err = run('split', images, '--out', tmp_path/'out', '--size', 20, '--pad', 2, '--touching', 'none', '--threshold', 120)
    assert code == 0 and re.search(r'^images +41$', out, re.M) and re.search(r'^uncut +\d+$', out, re.M)
    assert re.fullmatch(r'\d+ images could not be cut; .*uncut.csv says why\n', err)
    assert Image.open(next((tmp_path/'out'/'letters').rglob('*.png'))).size == (20, 20)
    before = sorted(tmp_path.rglob('*'))
    refused('split', images, '--out', tmp_path/'out', says='--force')
    assert sorted(tmp_path.rglob('*')) == before
    assert run('split', images, '--out', tmp_path/'out', '--force')[0] == 0


@pytest.mark.parametrize('args', [['--touching', 'axe'], ['--threshold', 'dark'], ['--threshold', 300], ['--pad', -1], ['--pad', 'nan'], ['--wide-px', 0], ['--size', 2], ['--seed', -1]])
def test_wrong_use_of_split(images, tmp_path, args):
    refused('split', images, '--out', tmp_path/'out', *args)
    assert list(tmp_path.iterdir()) == []


def test_split_of_nothing(tmp_path):
    (tmp_path/'none').mkdir()
    refused('split', tmp_path/'none', '--out', tmp_path/'out', says='no images')
    refused('split', tmp_path/'gone', '--out', tmp_path/'out', says='no such folder')
    assert not (tmp_path/'out').exists()


def test_training_on_letters(cut, tmp_path):
    folder, count = cut
    card = one('train', 'letters', '--data', folder, '--out', tmp_path/'run', *SMALL)
    assert card['split'] == f"{count['train']} train, {count['valid']} valid, {count['test']} test"
    assert card['measures']['exact_match']['n'] == count['test'] and card['data']['letters'] == 240
    report = one('eval', 'letters', '--data', folder, '--part', 'all', '--bundle', tmp_path/'run'/'reader.safetensors')
    assert report['n'] == 41 and report['cut']['value'] == pytest.approx(40/41) and len(report['reasons']) == 1, 'what could not be cut counts'
    for task in ('ctc', 'letters'): assert (task, run('eval', task, '--data', folder, '--part', 'half')[0]) == (task, 2)


def test_letters_are_no_images(cut, tmp_path):
    "Their names look like texts"
    for command in (['train', 'ctc', '--out', tmp_path/'out'], ['eval', 'ctc'], ['eval', 'ctc', '--part', 'test']): refused(*command, '--data', cut[0], says='single letters')
    assert not (tmp_path/'out').exists()


@pytest.mark.parametrize('spoil', [lambda f: (f/'manifest.csv').write_text('junk'), lambda f: (f/'uncut.csv').unlink(), lambda f: (f/'uncut.csv').write_text('a,b\n1,2\n'),
                                   lambda f: next((f/'letters').rglob('*.png')).unlink(), lambda f: next((f/'letters').rglob('*.png')).write_text('junk'),
                                   lambda f: Image.new('L', (9, 9)).save(next((f/'letters').rglob('*.png')))])
def test_damaged_letters(images, tmp_path, spoil):
    assert run('split', images, '--out', tmp_path/'letters')[0] == 0
    spoil(tmp_path/'letters')
    refused('train', 'letters', '--data', tmp_path/'letters', '--out', tmp_path/'out', *SMALL)
    assert not (tmp_path/'out').exists()


# ---- the seed project's two sets, and the shipped model

@pytest.mark.parametrize('seed', [1, 2])
def test_the_two_sets_are_one_command_each(tmp_path, seed):
    "Here with 50 images for 10,000 and 2,000"
    assert run('render', '--level', 0, '--n', 50, '--seed', seed, '--out', tmp_path/'set')[0] == 0
    names = [p.name for p in (tmp_path/'set').glob('*.png')]
    assert len(names) == 50 and all(re.fullmatch(r'[A-Z]{6}(_\d+)?\.png', n) for n in names)
    assert Image.open(tmp_path/'set'/names[0]).size == (300, 150)


@shipped
def test_the_shipped_model_reads(tmp_path):
    Image.fromarray(SAMPLE.image).save(tmp_path/'a.png')
    assert one('read', tmp_path/'a.png', '--reader', 'letters')['text'] == SAMPLE.text
    report = one('eval', 'letters', '--level', 0, '--n', 300, '--seed', 2026)
    assert report['exact_match']['value'] >= .98 and report['letters']['value'] >= .99
