"What a model looked at, from the command line: pictures at their own size, columns of a text, a clear line for all that can't be used; challenges"
import json
import re

import numpy as np
import pytest
from PIL import Image

from captcha_lab.bundle import find_bundle, load_bundle
from captcha_lab.data import open_image
from captcha_lab.render import Renderer
from captcha_lab.toy_street import toy_tile
from commands import one, refused, rows, run

pytest.importorskip('torch')
pytestmark = pytest.mark.usefixtures('one_thread', 'own_data')
TILES = find_bundle('tiles', onnx=False)


@pytest.fixture
def bus(tmp_path):
    "A wide drawn picture with a bus in the left half of what the network sees"
    tile = toy_tile(['Bus'], np.random.default_rng(1), 120)
    Image.fromarray(np.concatenate([tile[:, :40], tile, tile[:, -40:]], 1)).save(tmp_path/'bus.png')
    return tmp_path/'bus.png'


@pytest.fixture
def text(tmp_path):
    "A rendered text, and where its letters are"
    sample = Renderer(level=1, length=(4, 6), alphabet=load_bundle(find_bundle('ctc_rendered')).vocab.alphabet, seed=5000)[0]
    Image.fromarray(sample.image).save(tmp_path/'text.png')
    return tmp_path/'text.png', sample


def left(folder): return sorted(p.name for p in folder.iterdir() if p.name != 'own data')


# ---- pictures

def test_picture(bus, tmp_path):
    before, heat = bus.read_bytes(), tmp_path/'heat.png'
    row = one('explain', bus, '--target', 'bus', '--out', heat)
    assert list(row) == ['file', 'task', 'target', 'p', 'layer', 'reason'] and row['reason'] is None
    assert (row['file'], row['task'], row['target']) == (str(bus), 'tiles', 'Bus')
    said = one('tiles', bus, '--bundle', TILES)
    assert row['p'] == pytest.approx(said['probs']['Bus'], abs=1e-5), 'what is explained is the answer of the model'
    shown = np.array(Image.open(heat)).astype(int)
    assert shown.shape == (120, 200, 3) and bus.read_bytes() == before and left(tmp_path) == ['bus.png', 'heat.png']
    coloured = np.abs(np.diff(shown, axis=2)).sum((0, 2)) > 0
    assert coloured[40:160].all() and not coloured[:40].any() and not coloured[160:].any(), 'the map lies on the square that the network sees'
    likeliest = one('explain', bus, '--out', tmp_path/'likeliest.jpg')
    assert likeliest['target'] == said['top1'] and Image.open(tmp_path/'likeliest.jpg').format == 'JPEG'
    code, out, err = run('explain', bus, '--target', 'Car', '--layer', row['layer'], '--out', heat, '--force')
    assert (code, err) == (0, '') and re.fullmatch(r'.*bus\.png\tCar \d\.\d\d\n', out)


def test_mirror_image(bus, tmp_path):
    "The answer for a mirrored picture is the same, and its map is mirrored: the mean of both is what is explained"
    Image.fromarray(np.array(Image.open(bus))[:, ::-1].copy()).save(tmp_path/'mirrored.png')
    a, b = (one('explain', f, '--target', 'Bus', '--out', f.with_suffix('.heat.png')) for f in (bus, tmp_path/'mirrored.png'))
    assert a['p'] == pytest.approx(b['p'], abs=1e-3)
    a, b = (np.array(Image.open(f.with_suffix('.heat.png'))).astype(int) for f in (bus, tmp_path/'mirrored.png'))
    assert np.abs(a - b[:, ::-1]).mean() < 2


def test_zero_map(tmp_path):
    "A network that has learnt nothing: no place speaks for anything, and one line says so"
    from captcha_lab.bundle import save_bundle
    from captcha_lab.tasks import task_of
    meta = {'name': 'red', 'task': 'tiles', 'arch': 'lite0', 'arch_args': {'n_symbols': 2, 'mirror': True}, 'vocab': ['Red', 'Other'],
            'input': {'mode': 'RGB'} | dict.fromkeys(('height', 'width', 'min_width', 'max_width'), 64),
            'norm': {'mean': .5, 'std': .5}, 'thresholds': {'Red': .5, 'Other': .5}}
    net = task_of(meta).network(meta).net  # its last layer is zero
    save_bundle(tmp_path/'red.safetensors', net.state_dict(), meta)
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(tmp_path/'a.png')
    code, out, err = run('explain', tmp_path/'a.png', '--target', 'red', '--bundle', tmp_path/'red.safetensors', '--out', tmp_path/'b.png')
    assert code == 0 and err.count('\n') == 1 and err.startswith('captcha-lab: no map: the gradient') and out.endswith('Red 0.50\n')
    assert one('explain', tmp_path/'a.png', '--bundle', tmp_path/'red.safetensors', '--out', tmp_path/'c.png')['reason']


def test_corners_of_the_square():
    from captcha_lab.explain import draw_heat
    tall = np.full((90, 50), 128, np.uint8)
    for heat, hot in (([[1., 0], [0, 0]], (20, 0)), ([[0., 0], [0, 1]], (69, 49))):
        yellow = np.diff(draw_heat(tall, np.array(heat)).astype(int)[..., ::2], axis=2)[..., 0]*-1
        assert yellow[hot] == yellow.max() > 0 and (yellow[:20] == 0).all() and (yellow[70:] == 0).all()


# ---- texts

@pytest.mark.parametrize('how', [['--bundle', 'ctc_rendered'], ['--bundle', 'ctc_rendered', '--reader', 'ctc']])
def test_text(text, how, tmp_path):
    file, sample = text
    row = one('explain', file, *how, '--out', tmp_path/'strip.png')
    assert list(row) == ['file', 'task', 'target', 'p', 'layer', 'reason', 'text', 'symbols'] and row['reason'] is None
    assert (row['task'], row['target'], row['text'], row['p'] > .5) == ('ctc', None, sample.text, True)
    for s, letter, (x0, _, x1, _) in zip(row['symbols'], sample.text, sample.boxes):
        assert s['symbol'] == letter and s['reason'] is None
        assert min(s['to'], x1) - max(s['from'], x0) > .5*(max(s['to'], x1) - min(s['from'], x0))
    strip, (h, w) = np.array(Image.open(tmp_path/'strip.png')), sample.image.shape
    assert strip.shape[1] > 3*w and strip.shape[0] > 3*h + 26*len(sample.text)
    assert left(tmp_path) == ['strip.png', 'text.png']


def test_text_for_people(text, tmp_path):
    file, sample = text
    code, out, err = run('explain', file, '--bundle', 'ctc_rendered', '--out', tmp_path/'strip.png', '--layer', 'column')
    assert (code, err) == (0, '') and re.search(rf'\t{sample.text}\t[01]\.\d+\t{sample.text[0]} \d+-\d+, ', out)
    Image.fromarray(np.full((50, 150), 255, np.uint8)).save(tmp_path/'empty.png')
    code, out, err = run('explain', tmp_path/'empty.png', '--reader', 'ctc', '--out', tmp_path/'nothing.png')
    assert code == 0 and err == 'captcha-lab: no map: nothing was read\n' and '\t\t' in out
    row = one('explain', tmp_path/'empty.png', '--reader', 'ctc', '--out', tmp_path/'nothing.png', '--force')
    assert (row['text'], row['symbols'], row['reason']) == ('', [], 'nothing was read')


def test_a_large_image_keeps_its_pixels(text, tmp_path):
    "Columns are told in the pixels of the image that was given, and the picture isn't blown up any further"
    file, sample = text
    big = np.repeat(np.repeat(open_image(file), 6, 0), 6, 1)
    Image.fromarray(big).save(tmp_path/'big.png')
    row = one('explain', tmp_path/'big.png', '--bundle', 'ctc_rendered', '--out', tmp_path/'strip.png')
    assert row['text'] == sample.text and row['symbols'][-1]['to'] > 3*sample.boxes[-1][2]
    assert Image.open(tmp_path/'strip.png').size[0] < big.shape[1] + 60


# ---- what can't be used

def test_bad_input(bus, text, tmp_path):
    out = ['--out', tmp_path/'out.png']
    refused('explain', bus, '--target', 'Train', *out, says=["unknown class 'Train'", 'Known: Bicycle', 'tiles.safetensors'])
    refused('explain', bus, '--layer', 'layer4', *out, says=["no layer 'layer4'", 'Near it'])
    refused('explain', bus, '--layer', '1', *out, says=['is no picture', 'earlier'])
    refused('explain', text[0], '--reader', 'ctc', '--layer', 'rnn', *out, says=['is no picture', 'tuple'])
    refused('explain', text[0], '--reader', 'ctc', '--target', 'Bus', *out, says="a text has no class 'Bus'")
    for how in (['--bundle', 'letters'], ['--reader', 'letters']): refused('explain', text[0], *how, *out, says=['one letter at a time', 'ctc, tiles or pets'])
    refused('explain', text[0], '--reader', 'tarot', *out, says=['tarot', 'ctc, letters'])
    refused('explain', text[0], '--reader', 'ctc', '--bundle', 'tiles', *out, says='a model for tiles, not for ctc')
    refused('explain', bus, '--bundle', 'none', *out, says="no model called 'none'")
    refused('explain', bus, says='--out')
    (tmp_path/'bad.png').write_text('x')
    refused('explain', tmp_path/'bad.png', *out, says=['not an image', 'bad.png'])
    refused('explain', tmp_path/'gone.png', *out, says='gone.png')
    (tmp_path/'alone.onnx').write_bytes(b'x')
    refused('explain', bus, '--bundle', tmp_path/'alone.onnx', *out, says=['ONNX', 'alone.safetensors'])
    assert left(tmp_path) == ['alone.onnx', 'bad.png', 'bus.png', 'text.png'], 'nothing is left behind'


def test_nothing_is_overwritten(bus, tmp_path, monkeypatch):
    "The target is looked at before any work"
    from captcha_lab import bundle
    def work(*a, **k): raise AssertionError('a model was looked for')
    monkeypatch.setattr(bundle, 'find_bundle', work)
    (tmp_path/'there.png').write_text('mine')
    refused('explain', bus, '--out', tmp_path/'there.png', says=['already exists', '--force'])
    assert (tmp_path/'there.png').read_text() == 'mine'
    refused('explain', bus, '--out', tmp_path/'heat.txt', says='.png or .jpg')
    before = bus.read_bytes()
    refused('explain', bus, '--out', bus, '--force', says='the image itself')
    assert bus.read_bytes() == before


# ---- benchmark

@pytest.fixture
def small_bench(monkeypatch):
    "Two small pictures a batch"
    from captcha_lab import bench
    real = bench.drawn_pictures
    monkeypatch.setattr(bench, 'drawn_pictures', lambda reader, side, n: real(reader, 64, 2))
    return bench


def test_bench(small_bench, tmp_path):
    pytest.importorskip('pytorch_grad_cam', reason='the grad-cam package is not installed')
    code, out, err = run('bench', 'cam', '--runs', 1, '--out', tmp_path/'out', '--json')
    assert code == 0, err
    found = rows(out)
    for r in found: assert list(r) == ['what', 'ours', 'peer', 'ratio', 'unit', 'runs']
    assert [r['unit'] for r in found] == ['ms', 'pictures/s', 'pictures/s', 'share'] and found[3]['ours']['median'] < 1e-4
    assert all(r['peer']['median'] > 0 for r in found[:3])
    card = json.loads((tmp_path/'out'/'bench_cam.json').read_text())
    assert card['peer']['name'].startswith('grad-cam ') and card['data']['size'] == 64 and 'in turn' in card['data']['compared']
    assert str(tmp_path) not in json.dumps(card)
    refused('bench', 'cam', '--out', tmp_path/'out', says=['already exists', '--force'])


def test_bench_alone(small_bench, monkeypatch):
    monkeypatch.setattr(small_bench, 'cam_peer', lambda: None)
    code, out, err = run('bench', 'cam', '--runs', 1)
    assert code == 0 and out.count('\n') == 1 and 'no peer' in err and 'pip install grad-cam' in err and err.count('\n') == 1
    refused('bench', 'cam', '--bundle', 'ctc', says='a model for pictures')
    refused('bench', 'cam', '--data', 'tiles', says=['--data', 'ctc and tiles'])


# ---- challenges

def test_challenge():
    plain, both = (one('challenge', '--p', .827, '--n', 12, *more) for more in ([], ['--partial-credit', '--token-bucket', 3, '--tries', 3]))
    assert plain['pass_rate'] == pytest.approx(.827**12) and plain['one_in'] == pytest.approx(.827**-12) and (plain['p'], plain['n']) == (.827, 12)
    assert (both['partial_credit'], both['token_bucket'], both['tries']) == (True, 3, 3) and both['pass_rate'] != plain['pass_rate']
    lines = run('challenge', '--p', .827)[1].splitlines()
    assert len(lines) == 4 and lines[0].endswith('0.1023, one in 9.771')
    assert 'never' in run('challenge', '--p', 0)[1]


@pytest.mark.parametrize('args, says', [(['--p', 1.5], 'between 0 and 1'), (['--p', 'nan'], 'between 0 and 1'), (['--p', 'x'], '--p'), ([], '--p'),
                                        (['--p', .5, '--n', 0], 'from 1'), (['--p', .5, '--tries', 0], 'tries'),
                                        (['--p', .5, '--token-bucket', -1], 'token bucket')])
def test_bad_challenges(args, says): refused('challenge', *args, says=says)
