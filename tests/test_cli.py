"The command line as a user meets it: bad input, interruptions and full disks end in one clear line, with nothing lost or half written"
import contextlib
import functools
import io
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import textwrap
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captcha_lab import core, terminal
from commands import one_line, refused, rows, run

torch = pytest.importorskip('torch')
pytestmark = pytest.mark.usefixtures('one_thread', 'own_data')
ROOT = Path(__file__).resolve().parent.parent
ALPHABET = 'ABC123'
TINY = ['--epochs', '2', '--bs', '16', '--seed', '3', '--device', 'cpu']
on_unix = pytest.mark.skipif(os.name != 'posix', reason='signals and file limits are those of Unix')


def start(*args, program='from captcha_lab.cli import main; main()', **env):
    "A command in a process of its own"
    ends = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    if os.name == 'posix': ends['preexec_fn'] = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs ignore Ctrl-C
    return subprocess.Popen([sys.executable, '-c', program, *map(str, args)], env=os.environ | {k: str(v) for k, v in env.items()}, **ends)


def tree(folder): return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(Path(folder).rglob('*')) if p.is_file()}


@pytest.fixture(scope='session')
def model(tmp_path_factory):
    "An untrained reader"
    from captcha_lab.bundle import save_bundle
    from captcha_lab.crnn import CRNN
    torch.manual_seed(0)
    args = dict(n_symbols=len(ALPHABET) + 1, height=50)
    size = {'mode': 'L', 'height': 50, 'width': None, 'min_width': 8, 'max_width': 4096}
    meta = {'name': 'toy', 'task': 'ctc', 'arch': 'crnn', 'arch_args': args, 'vocab': ALPHABET, 'blank': 0, 'input': size, 'thresholds': None,
            'norm': {'mean': .5, 'std': .25}, 'decode': {'method': 'greedy', 'width': 1, 'temperature': 1.}}
    return save_bundle(tmp_path_factory.mktemp('model')/'toy.safetensors', CRNN(**args).state_dict(), meta)


@pytest.fixture(scope='session')
def twin(model):
    for name in ('onnx', 'onnxruntime'): pytest.importorskip(name)
    from captcha_lab.bundle import export_onnx
    return export_onnx(model)


@pytest.fixture(scope='session')
def images(tmp_path_factory):
    "Forty rendered images, 200x50"
    folder = tmp_path_factory.mktemp('images')/'set'
    assert run('render', '--out', folder, '--n', 40, '--length', 3, '--alphabet', ALPHABET)[0] == 0
    return folder


def noise(mode='L', size=(200, 50)):
    x = np.random.default_rng(0).integers(0, 256, (size[1], size[0]), dtype=np.uint8)
    return Image.fromarray(x).convert(mode)


def png(image):
    out = io.BytesIO()
    image.save(out, 'png')
    return out.getvalue()


# ---- images

GOOD = {
    'rgba.png': lambda p: noise('RGBA').save(p), 'palette.png': lambda p: noise('P').save(p), 'cmyk.jpg': lambda p: noise('CMYK').save(p),
    '16-bit.png': lambda p: Image.fromarray(np.arange(10_000, dtype=np.uint16).reshape(50, 200)*6).save(p),
    'one-bit.png': lambda p: noise('1').save(p), 'colour.bmp': lambda p: noise('RGB').save(p),
    'animated.gif': lambda p: noise('P').save(p, save_all=True, append_images=[noise('P')]), 'tall.png': lambda p: noise(size=(200, 120)).save(p)}
BAD = {
    'text.png': (lambda p: p.write_text('this is no picture'), 'not an image'), 'empty.png': (lambda p: p.touch(), 'empty file'),
    'cut.png': (lambda p: p.write_bytes(png(noise())[:900]), 'cut off'), 'dot.png': (lambda p: noise(size=(1, 1)).save(p), 'too small'),
    'long.png': (lambda p: noise(size=(20_000, 50)).save(p), 'too large'), 'wide.png': (lambda p: noise(size=(9000, 50)).save(p), 'too wide'),
    'page.pdf': (lambda p: p.write_bytes(b'%PDF-1.4'), 'not an image'), 'gone.png': (lambda p: None, 'no such file')}


@pytest.mark.parametrize('name', GOOD)
def test_reads_any_kind_of_image(model, tmp_path, name):
    GOOD[name](tmp_path/name)
    code, out, err = run('read', tmp_path/name, '--bundle', model, '--json')
    assert (code, err) == (0, '')
    row, = rows(out)
    assert set(row) == {'file', 'text', 'confidence'} and row['file'] == str(tmp_path/name)
    assert isinstance(row['text'], str) and 0 <= row['confidence'] <= 1


@pytest.mark.parametrize('name', BAD)
def test_bad_image_is_one_line(model, tmp_path, name):
    make, why = BAD[name]
    make(tmp_path/name)
    refused('read', tmp_path/name, '--bundle', model, says=[why, name])
    code, out, err = run('read', tmp_path/name, '--bundle', model, '--json')
    assert (code, err) == (2, '')
    row, = rows(out)
    assert set(row) == {'file', 'error'} and why in row['error'] and row['file'] == str(tmp_path/name)


def test_goes_on_past_bad_files(model, tmp_path):
    for name, make in GOOD.items(): make(tmp_path/name)
    for name, (make, _) in BAD.items(): make(tmp_path/name)
    (tmp_path/'notes.txt').write_text('not looked at')
    code, out, err = run('read', tmp_path, '--bundle', model, '--json')
    found = {Path(r['file']).name: r for r in rows(out)}
    assert (code, err) == (2, '')
    assert {k for k, r in found.items() if 'text' in r} == set(GOOD)
    assert {k for k, r in found.items() if 'error' in r} == set(BAD) - {'gone.png', 'page.pdf'}
    code, out, err = run('read', tmp_path, '--bundle', model)
    assert code == 2 and len(out.splitlines()) == len(GOOD) and len(err.splitlines()) == len(BAD) - 2


def test_empty_folder(model, images, tmp_path):
    (tmp_path/'none').mkdir()
    refused('read', tmp_path/'none', '--bundle', model, says=['no images', 'none'])
    refused('eval', 'ctc', '--data', tmp_path/'none', '--bundle', model, says='no images')
    refused('train', 'ctc', '--data', tmp_path/'none', '--out', tmp_path/'out', says='no images')
    refused('data', 'verify', tmp_path/'none', says='no images')
    assert not (tmp_path/'out').exists()
    code, out, _ = run('read', tmp_path/'none', images, '--bundle', model, '--json')
    assert code == 2 and [('error' in r) for r in rows(out)] == [True] + [False]*40


def test_names_that_are_not_text(model, tmp_path):
    "A name with a line break or bytes that are no UTF-8 still gives one row a file"
    names = ['a\nb.png', 'ü 漢.png'] + ([os.fsdecode(b'\xff.png')] if sys.platform == 'linux' else [])
    for n in names: noise().save(tmp_path/n)
    (tmp_path/'bad\nname.png').touch()
    code, out, err = run('read', tmp_path, '--bundle', model, '--json')
    assert code == 2 and len(rows(out)) == len(names) + 1
    assert {Path(r['file']).name for r in rows(out)} == {*names, 'bad\nname.png'}
    one_line(run('read', tmp_path/'bad\nname.png', '--bundle', model)[2])


# ---- labels

def test_symbol_outside_the_alphabet(model, tmp_path):
    for t in ('AB', 'BA', 'AZ'): noise().save(tmp_path/f'{t}.png')
    refused('eval', 'ctc', '--data', tmp_path, '--part', 'all', '--bundle', model, says=["'Z'", 'AZ.png', 'alphabet'])
    refused('train', 'ctc', '--data', tmp_path, '--alphabet', ALPHABET, '--out', tmp_path/'out', says=["'Z'", 'AZ.png', 'alphabet'])
    assert not (tmp_path/'out').exists()


def test_label_too_long_for_its_image(tmp_path):
    for i in range(24): noise(size=(60, 50)).save(tmp_path/f'A{i % 2 + 1}_{i + 2}.png')
    noise(size=(20, 50)).save(tmp_path/'ABCABC.png')
    refused('train', 'ctc', '--data', tmp_path, '--all', '--out', tmp_path/'out', *TINY, says=['frames', 'ABCABC.png'])
    assert not (tmp_path/'out').exists()


def test_two_files_with_one_label(model, tmp_path):
    for n in ('AB', 'AB_2', 'AB_13', 'BA'): noise().save(tmp_path/f'{n}.png')
    code, out, _ = run('eval', 'ctc', '--data', tmp_path, '--part', 'all', '--bundle', model, '--json')
    assert code == 0 and rows(out)[0]['n'] == 4
    (tmp_path/'sub').mkdir()
    noise().save(tmp_path/'sub'/'AB.png')
    assert rows(run('eval', 'ctc', '--data', tmp_path, '--bundle', model, '--json')[1])[0]['n'] == 5
    refused('train', 'ctc', '--data', tmp_path, '--out', tmp_path/'out', says=['same name', 'AB.png'])


def test_too_few_images(model, tmp_path):
    noise().save(tmp_path/'AB.png')
    refused('train', 'ctc', '--data', tmp_path, '--out', tmp_path/'out', says='holds no images')
    refused('eval', 'ctc', '--data', tmp_path, '--part', 'test', '--bundle', model, says='holds no images')
    assert not (tmp_path/'out').exists()


def test_bad_file_in_a_data_folder(model, tmp_path):
    noise().save(tmp_path/'AB.png')
    (tmp_path/'BA.png').write_text('junk')
    before = tree(tmp_path)
    refused('train', 'ctc', '--data', tmp_path, '--out', tmp_path/'out', says=['not an image', 'BA.png', 'data verify'])
    code, out, _ = run('eval', 'ctc', '--data', tmp_path, '--bundle', model, '--json')
    assert code == 0 and (rows(out)[0]['n'], rows(out)[0]['unreadable']) == (2, 1) # a failure, not an absence
    code, out, _ = run('data', 'verify', tmp_path, '--json')
    assert code == 2 and rows(out) == [{'file': 'BA.png', 'error': 'not an image'}]
    assert tree(tmp_path) == before


# ---- models

class Evil:
    def __reduce__(self): return os.abort, ()


def zipped(path):
    with zipfile.ZipFile(path, 'w') as z: z.writestr('archive/data.pkl', pickle.dumps(Evil()))


MODELS = {
    'corrupt.safetensors': (lambda p, raw: p.write_bytes(raw[:-40] + bytes(40)), 'altered'), 'cut.safetensors': (lambda p, raw: p.write_bytes(raw[:-999]), ''),
    'foreign.safetensors': (lambda p, raw: p.write_bytes(b'GIF89a' + raw[6:]), 'not a model'), 'empty.safetensors': (lambda p, raw: p.touch(), 'empty'),
    'pickle.safetensors': (lambda p, raw: p.write_bytes(pickle.dumps(Evil())), 'pickle'), 'pickle.pkl': (lambda p, raw: p.write_bytes(pickle.dumps(Evil())), 'pickle'),
    'torch.pth': (lambda p, raw: zipped(p), 'pickle'), 'gone.safetensors': (lambda p, raw: None, 'no such model'), 'none.onnx': (lambda p, raw: p.write_bytes(raw), ''),
    'nothing': (lambda p, raw: None, 'no model called')}


@pytest.mark.parametrize('name', MODELS)
def test_bad_model(model, images, tmp_path, name):
    make, why = MODELS[name]
    make(tmp_path/name, model.read_bytes())
    before = tree(tmp_path)
    refused('read', images, '--bundle', tmp_path/name, says=[why, name])
    refused('eval', 'ctc', '--data', images, '--bundle', tmp_path/name, says=name)
    refused('export', tmp_path/name, '--out', tmp_path/'twin.onnx', says=name)
    refused('train', 'ctc', '--data', images, '--out', tmp_path/'out', '--init', tmp_path/name)
    assert tree(tmp_path) == before and not (tmp_path/'out').exists()


# ---- options

@pytest.mark.parametrize('args', [
    'fly', '--fly', 'read', 'read x.png --colour', 'train', 'train ctc', 'train tiles', 'train numbers --out OUT', 'eval', 'eval numbers', 'render', 'render --out OUT --n 0', 'render --out OUT --n -3',
    'render --out OUT --n many', 'render --out OUT --level 9', 'render --out OUT --length 0', 'render --out OUT --length 0-4', 'render --out OUT --length 6-4',
    'render --out OUT --length five', 'render --out OUT --style gothic', 'render --out OUT --fonts comic', 'render --out OUT --alphabet a/b', 'render --out OUT --seed -1',
    'train ctc --out OUT --epochs 0', 'train ctc --out OUT --lr nan --n 8', 'train ctc --out OUT --lr 0 --n 8', 'train ctc --out OUT --lr -1 --n 8', 'train ctc --out OUT --bs 0',
    'train ctc --out OUT --n 0', 'train ctc --out OUT --level -1', 'train ctc --out OUT --length 0 --n 8', 'train ctc --out OUT --patience 0', 'train ctc --out OUT --device tpu',
    'train ctc --out OUT --data nowhere', 'train ctc --out OUT --resume', 'quickstart --out OUT --n-train 3', 'quickstart --out OUT --n-test 0', 'quickstart --out OUT --epochs 0',
    'quickstart --out OUT --seed x', 'eval ctc --bundle MODEL --n 0', 'eval ctc --bundle MODEL --level 5', 'eval ctc --bundle MODEL --data IMAGES --part half', 'data', 'data fetch', 'data fetch stamps',
    'data fetch rendered', 'data verify stamps', 'study weather', 'bench', 'bench numbers', 'tiles', 'tiles x.png --bundle MODEL', 'grid', 'grid x.png --target Bus --bundle MODEL', 'bench ctc --runs 0', 'bench ctc --bundle nothing', 'export',
    'read x.png --reader tarot', 'read x.png --reader letters --bundle MODEL', 'train letters --out OUT --n 8 --level 9', 'train letters --out OUT --n 8 --init MODEL', 'train letters --out OUT --data nowhere',
    'eval letters --level 5', 'eval letters --bundle MODEL', 'split', 'split IMAGES', 'split nowhere --out OUT', 'split IMAGES --out OUT --touching axe'])
def test_wrong_use(model, images, tmp_path, monkeypatch, args):
    monkeypatch.chdir(tmp_path)
    given = [{'OUT': tmp_path/'out', 'MODEL': model, 'IMAGES': images}.get(a, a) for a in args.split()]
    if args == 'data': assert run(*given)[0] == 2
    else: refused(*given)
    assert list(tmp_path.iterdir()) == []


def test_unexpected_errors_say_so(monkeypatch, images):
    monkeypatch.setattr('captcha_lab.bundle.find_bundle', lambda *a: 1/0)
    code, out, err = run('read', images)
    assert code == 1 and err.count('\n') == 1 and 'mistake in captcha_lab itself: ZeroDivisionError' in err
    with pytest.raises(ZeroDivisionError): run('--debug', 'read', images)


def test_help_says_what_every_option_is():
    "All commands and options are told, in lines that fit a terminal"
    names, pages = [[]], {}
    while names:
        path = names.pop()
        code, out, err = run(*path, '--help')
        assert code == 0 and err == '', path
        pages[' '.join(path)] = out
        if path in ([], ['data'], ['train'], ['eval']): names += [[*path, m] for m in re.findall(r'^  ([\w-]+)  +\S', out.split('Commands:')[1], flags=re.M)]
    assert {'read', 'render', 'split', 'train', 'eval', 'study', 'quickstart', 'export', 'bench', 'doctor', 'data fetch', 'tiles', 'grid'} <= set(pages)
    assert {f'{what} {task}' for what in ('train', 'eval') for task in terminal.TASK_NAMES} <= set(pages)
    for name, page in pages.items():
        assert [l for l in page.splitlines() if len(l) > 80 or re.search(r'[a-z]\.\.\.$', l)] == [], name
        options = re.split(r'\n  (?=-)', page.partition('Options:')[2].partition('Commands:')[0])[1:]
        assert [o for o in options if not re.match(r'-[^\n]*?(\s{2,}|\n\s+)\w', o)] == [], name
    assert '3000' in pages['quickstart']


# ---- folders that can't be used

UNWRITABLE = ['file', 'file/below'] + ['/proc/out']*(sys.platform == 'linux')


@pytest.mark.parametrize('where', UNWRITABLE)
def test_unwritable_folder(model, images, tmp_path, where):
    "Said before any work is done; a file in the place of a folder is left alone"
    (tmp_path/'file').write_text('mine')
    out = tmp_path/where
    commands = [['render', '--n', 3, '--out', out], ['train', 'ctc', '--data', images, '--out', out, *TINY], ['quickstart', '--out', out, '--n-train', 20, '--n-test', 1]]
    began = time.perf_counter()
    for c in commands: refused(*c, says='/proc' if 'proc' in where else str(tmp_path/'file'))
    if where != 'file': refused('export', model, '--out', out/'a.onnx')
    assert time.perf_counter() - began < 10
    assert tree(tmp_path) == {'file': b'mine'}


def test_nothing_is_written_over(images, model, tmp_path):
    out = tmp_path/'out'
    out.mkdir()
    (out/'mine.txt').write_text('mine')
    for c in (['render', '--n', 3], ['train', 'ctc', '--data', images, *TINY], ['quickstart', '--n-train', 20]): refused(*c, '--out', out, says=['--force', 'out'])
    (tmp_path/'a.onnx').write_text('mine')
    refused('export', model, '--out', tmp_path/'a.onnx', says='--force')
    assert tree(tmp_path) == {'out/mine.txt': b'mine', 'a.onnx': b'mine'}


# ---- training: interruptions, a full disk, resuming

def train(folder, images, *more): return ['train', 'ctc', '--data', images, '--out', folder, '--name', 'toy', *TINY, *more]


@pytest.fixture(scope='session')
def whole(images, tmp_path_factory):
    "A run that nothing has disturbed"
    folder = tmp_path_factory.mktemp('whole')/'run'
    code, out, err = run(*train(folder, images, '--json'))
    assert (code, err) == (0, ''), err
    assert rows(out)[0] == {k: v for k, v in json.loads((folder/'toy.json').read_text()).items() if k != 'bundle_sha256'}
    return folder


FILES = ['history.csv', 'loss.png', 'predictions.png', 'toy.json', 'toy.safetensors']


def weights(folder):
    from captcha_lab.bundle import read_meta
    return read_meta(folder/'toy.safetensors')['weights_sha256']


def test_a_finished_run(whole, images):
    card = json.loads((whole/'toy.json').read_text())
    assert sorted(tree(whole)) == FILES
    assert card['command'].startswith('captcha-lab train ctc --data') and card['seeds'] == [3] and card['epochs'] == 2
    assert card['bundle_sha256'] == core.sha256(whole/'toy.safetensors')
    before = tree(whole)
    refused(*train(whole, images), says='--force')
    refused(*train(whole, images, '--resume'), says='no checkpoint')
    assert tree(whole) == before


class Stop:
    "Interrupts training, in this process, after so many batches"
    def __init__(self, monkeypatch, batches, error=KeyboardInterrupt):
        from captcha_lab.train import TrainProgress
        real, self.left = TrainProgress.after_batch, batches
        def after_batch(callback):
            real(callback)
            self.left -= callback.training
            if not self.left: raise error
        monkeypatch.setattr(TrainProgress, 'after_batch', after_batch)


def test_interrupted_before_the_first_checkpoint(whole, images, tmp_path):
    with pytest.MonkeyPatch.context() as mp:
        Stop(mp, 1)
        refused(*train(tmp_path/'run', images), code=130, says='interrupted')
    assert list(tmp_path.glob('run')) == [], 'the same command can be given again'
    assert run(*train(tmp_path/'run', images))[0] == 0
    assert weights(tmp_path/'run') == weights(whole)


def test_interrupted_between_epochs(whole, images, tmp_path):
    with pytest.MonkeyPatch.context() as mp:
        Stop(mp, 3)
        refused(*train(tmp_path/'run', images), code=130, says='interrupted')
    assert sorted(tree(tmp_path/'run')) == ['checkpoint.safetensors', 'history.csv']
    refused(*train(tmp_path/'run', images), says='--resume')
    refused(*train(tmp_path/'run', images, '--resume', '--epochs', 5), says='checkpoint')
    assert run(*train(tmp_path/'run', images, '--resume'))[0] == 0
    assert sorted(tree(tmp_path/'run')) == FILES and weights(tmp_path/'run') == weights(whole)


def test_force_replaces_a_run_at_its_end(whole, images, tmp_path):
    run_, twin_ = tmp_path/'run', tmp_path/'run'/'toy.onnx'
    assert run(*train(run_, images, '--seed', 9))[0] == 0
    before = tree(run_)
    twin_.write_bytes(b'the twin of another model')
    with pytest.MonkeyPatch.context() as mp:
        Stop(mp, 1)
        assert run(*train(run_, images, '--force'))[0] == 130
    assert {k: tree(run_)[k] for k in before} == before, 'the old run is still there'
    assert run(*train(run_, images, '--force'))[0] == 0
    assert weights(run_) == weights(whole) and not twin_.exists()


@contextlib.contextmanager
def small_disk(size):
    "No file of this process grows beyond `size` bytes"
    import resource
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try: yield
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, before)


@on_unix
def test_full_disk_while_training(whole, images, tmp_path):
    with small_disk(100_000): refused(*train(tmp_path/'run', images), says=['write', 'space'])
    assert not (tmp_path/'run').exists()
    assert run(*train(tmp_path/'run', images))[0] == 0
    assert weights(tmp_path/'run') == weights(whole)


@on_unix
def test_full_disk_while_saving_the_model(whole, images, tmp_path, monkeypatch):
    "All epochs are done; the model follows when there is space again"
    with pytest.MonkeyPatch.context() as mp:
        def full(*args, **kwargs): raise OSError(28, 'No space left on device', 'toy.safetensors')
        mp.setattr('captcha_lab.runs.save_bundle', full)
        refused(*train(tmp_path/'run', images), says='no space')
    assert sorted(tree(tmp_path/'run')) == ['checkpoint.safetensors', 'history.csv']
    assert run(*train(tmp_path/'run', images, '--resume'))[0] == 0
    assert sorted(tree(tmp_path/'run')) == FILES and weights(tmp_path/'run') == weights(whole)


@on_unix
def test_full_disk_while_rendering_and_exporting(model, twin, tmp_path):
    with small_disk(2000): refused('render', '--out', tmp_path/'r', '--n', 3, says='write')
    with small_disk(100_000): refused('export', model, '--out', tmp_path/'a.onnx', says='write')
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path('/dev/full').exists(), reason='a device of Linux')
def test_output_that_takes_no_more(images, twin):
    for command in (f'> {os.devnull}', '> /dev/full', '| head -n 1 > /dev/null'):
        line = f'{sys.executable} -c "from captcha_lab.cli import main; main()" read {images} --bundle {twin} --json {command}'
        r = subprocess.run(['bash', '-c', f'set -o pipefail; {line}'], capture_output=True, text=True, cwd=ROOT)
        assert 'Traceback' not in r.stderr and 'Exception ignored' not in r.stderr and r.stderr.count('\n') == ('full' in command), r.stderr
        assert r.returncode == (2 if 'full' in command else 0) or 'head' in command


def wait_for(there, process, seconds=120):
    "Until `there` says so"
    end = time.time() + seconds
    while not there():
        assert process.poll() is None, process.communicate()
        assert time.time() < end, 'it takes too long'
        time.sleep(.01)


@on_unix
def test_ctrl_c_while_training(images, tmp_path):
    "A real signal to a real process; resuming in another process ends with the weights of an undisturbed run of the same options"
    epochs = ['--epochs', 15]
    p = start(*train(tmp_path/'run', images, *epochs), OMP_NUM_THREADS=1)
    wait_for((tmp_path/'run'/'checkpoint.safetensors').exists, p)
    p.send_signal(signal.SIGINT)
    out, err = p.communicate(timeout=60)
    assert (p.returncode, out) == (130, ''), err
    one_line(err, 'interrupted')
    assert sorted(tree(tmp_path/'run')) == ['checkpoint.safetensors', 'history.csv']
    assert run(*train(tmp_path/'run', images, *epochs, '--resume'))[0] == 0
    assert run(*train(tmp_path/'undisturbed', images, *epochs))[0] == 0
    assert sorted(tree(tmp_path/'run')) == FILES and weights(tmp_path/'run') == weights(tmp_path/'undisturbed')


# ---- fetching

SLOW = '''
    import json, sys, time
    from pathlib import Path
    from captcha_lab import core, data
    mirror, size = Path(sys.argv.pop(1)), int(sys.argv.pop(1))
    source = {'name': 'toy.zip', 'root': 'toy', 'count': None, 'url': None, 'page': 'https://example.org', 'size': None, 'sha256': None}
    entry = {'title': 'Toy', 'task': 'ctc', 'count': None, 'label': 'text', 'alphabet': None, 'split': None, 'licence': '', 'card': '', 'sources': [source]}
    data.registry = lambda id=None: {'toy': entry} if id is None else {'toy': entry}[id]
    if size:
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    else:
        real = data.shutil.copyfileobj
        data.shutil.copyfileobj = lambda *a: (real(*a), time.sleep(.05)) # a slow disk
    from captcha_lab.cli import main
    main()'''


@pytest.fixture
def mirror(tmp_path):
    "A folder with the archive of a made-up data set"
    (tmp_path/'mirror').mkdir()
    with zipfile.ZipFile(tmp_path/'mirror'/'toy.zip', 'w') as z:
        for i in range(200): z.writestr(f'toy/A{i}.png', png(noise()))
    return tmp_path/'mirror'


def fetch(mirror, size, data): return start(mirror, size, 'data', 'fetch', 'toy', program=textwrap.dedent(SLOW), CAPTCHA_LAB_MIRROR=mirror, CAPTCHA_LAB_DATA=data)


@on_unix
def test_ctrl_c_while_unpacking(mirror, tmp_path):
    p = fetch(mirror, 0, tmp_path/'data')
    wait_for(lambda: len(list(tmp_path.glob('data/.toy-*/toy/*.png'))) > 5, p)
    p.send_signal(signal.SIGINT)
    out, err = p.communicate(timeout=60)
    assert (p.returncode, out) == (130, ''), err
    one_line(err, 'interrupted')
    assert list((tmp_path/'data').iterdir()) == [] and [f.name for f in mirror.iterdir()] == ['toy.zip']


@on_unix
def test_full_disk_while_unpacking(mirror, tmp_path):
    p = fetch(mirror, 5000, tmp_path/'data')
    out, err = p.communicate(timeout=60)
    assert (p.returncode, out) == (2, ''), err
    one_line(err, 'write')
    assert list((tmp_path/'data').iterdir()) == []


def test_missing_data_says_how_to_get_it(tmp_path, monkeypatch):
    for name in ('pets', 'tiles', 'captcha_v2'):
        if name == 'pets': refused('data', 'fetch', name, says=['CAPTCHA_LAB_MIRROR', 'dogs-vs-cats'])
        else: refused('data', 'verify', name, says='CAPTCHA_LAB_MIRROR')
    monkeypatch.setenv('CAPTCHA_LAB_MIRROR', str(tmp_path))
    (tmp_path/'captcha_images_v2.zip').write_bytes(b'PK not really')
    refused('data', 'fetch', 'captcha_v2', says='captcha_images_v2.zip')
    assert [p.name for p in tmp_path.glob('own data/*')] in ([], ['archives'])


@pytest.mark.parametrize('name, value', [('SEED', 'x'), ('PROGRESS', 'loud')])
def test_bad_environment(model, images, monkeypatch, tmp_path, name, value):
    monkeypatch.setenv(f'CAPTCHA_LAB_{name}', value)
    refused('quickstart' if name == 'SEED' else 'render', '--out', tmp_path/'out', says=value)
    assert not (tmp_path/'out').exists()


# ---- what is printed

def test_shapes(model, images):
    code, out, err = run('eval', 'ctc', '--bundle', model, '--data', images, '--part', 'all', '--json')
    assert (code, err) == (0, '')
    report, = rows(out)
    assert list(report)[:2] == ['task', 'n'] and report['task'] == 'ctc' and report['n'] == 40
    for k in ('exact_match', 'cer', 'baseline_constant', 'baseline_uniform'): assert k in report
    low, high = report['exact_match']['ci95']
    assert 0 <= low <= report['exact_match']['value'] <= high <= 1
    code, out, _ = run('eval', 'ctc', '--bundle', model, '--n', 20, '--json')
    assert code == 0 and rows(out)[0]['n'] == 20 and rows(out)[0]['data']['alphabet'] == ALPHABET
    code, out, _ = run('read', images, '--bundle', model)
    assert code == 0 and all(re.fullmatch(r'[^\t]+\t[^\t]*\t[01]\.\d{3}', l) for l in out.splitlines())


def test_train_prints_the_card_or_a_summary(whole):
    card = json.loads((whole/'toy.json').read_text())
    assert 'exact match' in terminal.summary(card, whole) and str(whole) in terminal.summary(card, whole)


def test_twin_reads_the_same(model, twin, images):
    a, b = (rows(run('read', images, '--bundle', m, '--json')[1]) for m in (model, twin))
    assert [r['text'] for r in a] == [r['text'] for r in b] and len(a) == 40


@pytest.mark.parametrize('args', [['read', 'IMAGES', '--bundle', 'TWIN', '--json'], ['--help'], ['data', 'list'], ['render', '--n', '3', '--out', 'OUT']])
def test_answers_at_once(twin, images, tmp_path, args):
    "Neither torch nor fastai, pandas or matplotlib is loaded"
    given = [{'IMAGES': images, 'TWIN': twin, 'OUT': tmp_path/'r'}.get(a, a) for a in args]
    program = '''
        import sys
        from captcha_lab.cli import main
        code = main(sys.argv[1:])
        print(sorted({'torch', 'fastai', 'pandas', 'matplotlib', 'scipy', 'requests', 'pooch', 'onnx'} & set(sys.modules)), file=sys.stderr)
        sys.exit(code)'''
    p = start(*given, program=textwrap.dedent(program))
    out, err = p.communicate(timeout=60)
    assert p.returncode == 0 and err.splitlines()[-1] == '[]', err
    if args[0] == 'read': assert len(rows(out)) == 40


# ---- benchmark

PEER = {
    'onnxruntime.py': 'class SessionOptions: pass\nInferenceSession = None',
    'ddddocr.py': '''
        class DdddOcr:
            def __init__(self, show_ad=True, beta=False): self.beta = beta
            def classification(self, data, probability=False):
                assert data[:4] == b'\\x89PNG'
                if not probability: return 'AB?'
                p = [[[0, 9, 5, 0]], [[0, 9, 5, 0]], [[9, 9, 0, 0]], [[0, 0, 1, 5]]] # ?, ?, blank, B; told that there is no "?": A, A, blank, B
                return {'charset': ['', '?', 'A', 'B'], 'probabilities': p}'''}


@pytest.fixture
def peer(tmp_path, monkeypatch):
    "An environment that seems to hold ddddocr"
    for name, text in PEER.items():
        (tmp_path/'peer'/f'{Path(name).stem}-1.0.dist-info').mkdir(parents=True)
        (tmp_path/'peer'/f'{Path(name).stem}-1.0.dist-info'/'METADATA').write_text(f'Metadata-Version: 2.1\nName: {Path(name).stem}\nVersion: 1.0\n')
        (tmp_path/'peer'/name).write_text(textwrap.dedent(text))
    monkeypatch.setenv('PYTHONPATH', str(tmp_path/'peer'))
    return sys.executable


def test_bench_beside_a_peer(model, peer, tmp_path, monkeypatch):
    from captcha_lab import bench
    monkeypatch.setattr(bench, 'widths', functools.partial(bench.widths, sizes=(100, 400), numbers=(1, 8)))
    code, out, err = run('bench', 'ctc', '--peer-python', peer, '--data', 'rendered', '--bundle', model, '--n', 10, '--runs', 2, '--out', tmp_path/'out', '--json')
    assert code == 0, err
    one, exact, best, *rest = rows(out)
    for r in rows(out): assert list(r) == ['what', 'ours', 'peer', 'ratio', 'unit', 'runs'] and {'median', 'min', 'max'} <= set(r['ours'])
    assert (one['unit'], one['runs']) == ('ms', 2) and one['ratio'] == pytest.approx(one['peer']['median']/one['ours']['median'], rel=.01)
    assert exact['peer']['n'] == 10 and 'at its best' in best['what'] and len(rest) == 4 + 2 + 1 and {r['peer'] for r in rest} == {None}
    text = (tmp_path/'out'/'bench_ctc.json').read_text()
    card = json.loads(text)
    assert card['peer'] == {'name': 'ddddocr 1.0', 'onnxruntime': '1.0'} and card['measures'][one['what']]['runs'] == 2
    assert str(tmp_path) not in text and str(Path(sys.executable).parent) not in text
    refused('bench', 'ctc', '--data', 'rendered', '--bundle', model, '--out', tmp_path/'out', says='--force')


def test_peer_is_told_the_symbols(peer, images):
    from captcha_lab.bench import Peer
    file = next(images.glob('*.png'))
    with Peer(peer) as p: assert (p.read(file)[0], p.read(file, 'AB')[0], p.read('gone.png')[0]) == ('AB?', 'AB', None)


@pytest.mark.parametrize('python', [[], ['--peer-python', 'nowhere/python'], ['--peer-python', sys.executable]])
def test_bench_without_a_peer(model, monkeypatch, python):
    "One line says how to get one, and our own figures are there"
    from captcha_lab import bench
    monkeypatch.setattr(bench, 'input_share', lambda *a: bench.result('input', 'share', [.1]))
    monkeypatch.setattr(bench, 'widths', lambda *a: [])
    code, out, err = run('bench', 'ctc', '--data', 'rendered', '--bundle', model, '--n', 10, '--runs', 1, '--json', *python)
    assert code == 0 and len(rows(out)) == 5
    assert all(r['peer'] is None and r['ratio'] is None for r in rows(out))
    one_line(err, ['pip install ddddocr', '--peer-python'])


def test_not_judged_by_what_it_has_learnt(monkeypatch):
    from captcha_lab import bench
    class Learnt: meta = {'card': {'data': {'id': 'captcha_v2', 'part': 'all'}}}
    card = {'measures': {'exact_match': {'value': .995, 'ci95': [.99, .999], 'n': 900}}}
    monkeypatch.setattr(bench, 'load_cards', lambda **k: {'ctc_captcha_v2_cv': card})
    ours, name = bench._fair(Learnt, ['AB'], ['AB'], {'id': 'captcha_v2'})
    assert ours['value'] == .995 and 'out of fold' in name
    assert bench._fair(Learnt, ['AB'], ['AB'], {'id': 'rendered'})[0]['value'] == 1
