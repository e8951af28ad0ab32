"Model files: what is refused, that saving and the ONNX twin change nothing, and that no byte can be altered unnoticed"
import json
import os
import pickle
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captcha_lab import bundle as lib
from captcha_lab.bundle import (Bundle, export_onnx, find_bundle, fit_image, load_bundle, model_zoo, read_meta,
                                round_weights, save_bundle)
from captcha_lab.core import InputError, LabError, ModelError, share_path
from captcha_lab.data import open_image
from captcha_lab.render import Renderer
from captcha_lab.split import NAIVE, Splitter
from captcha_lab.tasks import TASKS, task_of

torch = pytest.importorskip('torch')
from captcha_lab.backbones import linear_head  # noqa: E402
from captcha_lab.bodies import LITE_STATS, vision_body  # noqa: E402
from captcha_lab.cnn import LetterCNN  # noqa: E402
from captcha_lab.crnn import CRNN  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
ARGS = dict(n_symbols=6, height=32, channels=[4, 4, 8, 8], hidden=8, dropout=.1)
META = dict(name='toy', task='ctc', arch='crnn', arch_args=ARGS, vocab='AB7é漢', card={'name': 'toy', 'n': np.int64(3)},
            input=dict(mode='L', height=32, width=None, min_width=8, max_width=600),
            norm={'mean': .4, 'std': .3}, decode={'method': 'greedy', 'width': 1, 'temperature': 1.5}, thresholds=.5)


def network(seed=0):
    torch.manual_seed(seed)
    net = CRNN(**ARGS)
    for x in (torch.randn(4, 1, 32, 64) for _ in range(3)): net(x) # batch statistics that are not the initial ones
    with torch.no_grad():
        net.head.weight *= 20 # sure enough of itself that texts come out
        net.head.bias.zero_() # a new network is all but sure of blanks
    return net.eval()


def pictures(*shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [np.repeat(rng.integers(0, 256, (h, -(-w//6)), dtype=np.uint8), 6, axis=1)[:, :w].copy() for h, w in shapes]


@pytest.fixture(scope='module')
def toy(tmp_path_factory): return save_bundle(tmp_path_factory.mktemp('models')/'toy.safetensors', network().state_dict(), META)

@pytest.fixture(scope='module')
def twin(toy): return export_onnx(toy)

IMAGES = pictures((32, 80), (32, 8), (32, 200), (32, 80), (50, 200), (20, 60), (32, 133), (32, 80), (32, 600))


# ---- saving, loading, reading

def test_nothing_is_lost_on_the_way(toy):
    net, bundle = network(), load_bundle(toy)
    for o in IMAGES:
        x = fit_image(o, META['input'])[None]
        with torch.no_grad(): expected = net((torch.tensor(x)[:, None]/255 - .4)/.3).numpy()
        assert np.abs(bundle.run(x) - expected).max() < 1e-4
    meta = read_meta(toy)
    assert {k: meta[k] for k in META if k != 'card'} == {k: v for k, v in META.items() if k != 'card'}
    assert meta['card'] == {'name': 'toy', 'n': 3} and meta == bundle.meta


def test_same_alone_in_company_and_after_another_round(toy, tmp_path):
    bundle = load_bundle(toy)
    together = bundle.predict(IMAGES)
    assert any(r['text'] for r in together)
    for size in (1, 2): assert [r['text'] for r in bundle.predict(IMAGES, batch_size=size)] == [r['text'] for r in together]
    for o, r in zip(IMAGES, together):
        alone, = bundle.predict([o])
        assert alone['text'] == r['text'] and alone['confidence'] == pytest.approx(r['confidence'], abs=1e-5)
        assert set(r) == {'text', 'confidence'} and type(r['confidence']) is float and 0 <= r['confidence'] <= 1
    again = save_bundle(tmp_path/'again.safetensors', network().state_dict(), {k: bundle.meta[k] for k in META})
    assert load_bundle(again).predict(IMAGES) == together
    assert again.read_bytes() == toy.read_bytes() # same weights, same fields, same bytes


def test_colour_is_read_as_its_grey(toy):
    image_lib = pytest.importorskip('PIL.Image')
    rgb = np.random.default_rng(1).integers(0, 256, (32, 90, 3), dtype=np.uint8)
    assert (fit_image(rgb, META['input']) == np.asarray(image_lib.fromarray(rgb).convert('L'))).all()
    assert fit_image(rgb[..., :1], META['input']).shape == (32, 90)


@given(st.integers(1, 300), st.integers(1, 300))
def test_any_size_is_fitted_or_refused(h, w):
    size, image = META['input'], np.zeros((h, w), np.uint8)
    width = max(1, round(w*32/h))
    if 8 <= width <= 600: assert fit_image(image, size).shape == (32, width)
    else:
        with pytest.raises(InputError, match='too wide' if width > 600 else 'too narrow'): fit_image(image, size)


@pytest.mark.parametrize('images', [
    [np.zeros((32, 80))], ['a.png'], [None], [np.zeros(32, np.uint8)], [np.zeros((32, 80, 4), np.uint8)],
    [np.zeros((0, 80), np.uint8)], [np.zeros((32, 0), np.uint8)], np.zeros((32, 80), np.uint8),
    [np.zeros((1, 1, 1, 1), np.uint8)], [[[0, 1]]], [torch.zeros(32, 80, dtype=torch.uint8)]])
def test_what_is_no_image(toy, images):
    with pytest.raises(InputError) as e: load_bundle(toy).predict(images)
    assert '\n' not in str(e.value)


def test_beam(tmp_path):
    results = []
    for method, width in (('beam', 20), ('greedy', 1)):
        meta = META | {'decode': {'method': method, 'width': width, 'temperature': 1.}}
        results.append(load_bundle(save_bundle(tmp_path/f'{method}.safetensors', network().state_dict(), meta)).predict(IMAGES))
    beam, greedy = ([r['confidence'] for r in o] for o in results)
    assert np.mean(beam) >= np.mean(greedy) - 1e-6


# ---- the twin

def test_twin_reads_the_same(toy, twin):
    a, b = load_bundle(toy), load_bundle(twin, threads=2)
    for x, y in zip(a.predict(IMAGES), b.predict(IMAGES)):
        assert x['text'] == y['text'] and x['confidence'] == pytest.approx(y['confidence'], abs=1e-4)
    for n, w in ((1, 8), (5, 97), (2, 200), (9, 33)):
        x = np.random.default_rng(w).integers(0, 256, (n, 32, w), dtype=np.uint8)
        assert np.abs(a.run(x) - b.run(x)).max() < 1e-3
    same = ('name', 'vocab', 'weights_sha256', 'input', 'norm', 'decode', 'thresholds', 'card')
    assert {k: a.meta[k] for k in same} == {k: b.meta[k] for k in same}


def test_twin_is_ordinary_onnx(twin):
    onnx, onnxruntime = pytest.importorskip('onnx'), pytest.importorskip('onnxruntime')
    model = onnx.load(str(twin))
    onnx.checker.check_model(model)
    assert json.loads({p.key: p.value for p in model.metadata_props}['captcha_lab'])['vocab'] == META['vocab']
    seen = onnxruntime.InferenceSession(str(twin)).get_modelmeta().custom_metadata_map['captcha_lab']
    assert json.loads(seen) == read_meta(twin)
    assert model.opset_import[0].version == 17 and len(list(twin.parent.glob(twin.name + '*'))) == 1 # no second file


def test_twin_that_reads_differently_is_not_kept(toy, tmp_path, monkeypatch):
    real = lib._network

    def other(*args):
        net = real(*args)
        net.shift += .5
        return net
    original = lib._torch_run
    monkeypatch.setattr(lib, '_torch_run', lambda net, device: original(real(toy.read_bytes(), read_meta(toy), toy), device))
    monkeypatch.setattr(lib, '_network', other)
    with pytest.raises(ModelError, match='differently'): export_onnx(toy, tmp_path/'a.onnx')
    assert list(tmp_path.iterdir()) == []


def run(code):
    "What a fresh Python prints"
    env = os.environ | {'PYTHONPATH': str(ROOT)}
    done = subprocess.run([sys.executable, '-c', textwrap.dedent(code)], capture_output=True, text=True, env=env, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_twin_needs_neither_torch_nor_fastai(twin):
    assert run(f'''
        import sys, numpy as np
        for name in ('torch', 'fastai', 'onnx'): sys.modules[name] = None # importing it would fail
        from captcha_lab.bundle import load_bundle, model_zoo
        print(len(load_bundle({str(twin)!r}).predict([np.zeros((32, 80), np.uint8)])), [m for m in sys.modules if m.startswith('torch.')])
        ''') == '1 []'


def test_onnxruntime_tells_nobody(twin, tmp_path):
    "Version 1.29 and newer would keep a session's name in the folder for temporary files, to send it"
    pytest.importorskip('onnxruntime')
    code = f'from captcha_lab.bundle import load_bundle; load_bundle({str(twin)!r})'
    env = {k: v for k, v in os.environ.items() if k != 'ORT_DISABLE_TELEMETRY'} | {'TMPDIR': str(tmp_path), 'HOME': str(tmp_path)}
    subprocess.run([sys.executable, '-c', code], check=True, env=env)
    assert [p for p in tmp_path.rglob('*') if p.is_file()] == []


def test_fields_need_neither_torch_nor_onnxruntime(toy, twin):
    assert run(f'''
        import sys
        for name in ('torch', 'fastai', 'onnx', 'onnxruntime', 'safetensors'): sys.modules[name] = None
        from captcha_lab.bundle import read_meta
        print(*[read_meta(p)['name'] for p in ({str(toy)!r}, {str(twin)!r})])
        ''') == 'toy toy'


@pytest.mark.parametrize('call', ['load_bundle(twin)', 'export_onnx(toy, twin + ".onnx")'])
def test_missing_onnxruntime_is_one_line(toy, twin, call):
    said = run(f'''
        import sys
        sys.modules['onnxruntime'] = None
        from captcha_lab.bundle import *
        toy, twin = {str(toy)!r}, {str(twin)!r}
        try: {call}
        except Exception as e: print(type(e).__name__, e)
        ''')
    assert said.startswith('ModelError') and said.endswith("pip install 'captcha_lab[onnx]'") and '\n' not in said


# ---- what is refused

def refused(path, word=''):
    for f in (read_meta, load_bundle):
        with pytest.raises(ModelError) as e: f(path)
        assert word in str(e.value) and '\n' not in str(e.value) and Path(path).name in str(e.value)


def spoil(path, raw):
    path.write_bytes(raw)
    return path


class Bomb:
    def __reduce__(self): return (os.mkdir, (os.environ['BOMB'],))


@pytest.mark.parametrize('name', ['a.pkl', 'a.pth', 'a.safetensors', 'a.onnx'])
@pytest.mark.parametrize('kind', ['0', '2', '5', 'torch', 'zip', 'old torch'])
def test_no_pickle_is_ever_opened(tmp_path, monkeypatch, name, kind):
    monkeypatch.setenv('BOMB', str(tmp_path/'went off'))
    path = tmp_path/name
    if kind in ('torch', 'old torch'): torch.save({'a': Bomb()}, path, _use_new_zipfile_serialization=kind == 'torch')
    elif kind == 'zip':
        with zipfile.ZipFile(path, 'w') as z: z.writestr('data.pkl', pickle.dumps(Bomb()))
    else: path.write_bytes(pickle.dumps(Bomb(), protocol=int(kind)))
    refused(path, '' if kind == '0' and name[2] in 'so' else 'a pickle')
    assert not (tmp_path/'went off').exists()


def test_other_files(tmp_path, toy, twin):
    refused(tmp_path/'none.safetensors', 'no such')
    refused(tmp_path, 'no such')
    refused(spoil(tmp_path/'a.safetensors', b''), 'empty')
    refused(spoil(tmp_path/'b.onnx', b''), 'empty')
    refused(spoil(tmp_path/'c.safetensors', b'\x89PNG\r\n' + bytes(100)), 'not a model')
    refused(spoil(tmp_path/'d.onnx', b'\x89PNG\r\n' + bytes(100)), 'not a model')
    refused(spoil(tmp_path/'e.onnx', toy.read_bytes()), 'not a model')
    refused(spoil(tmp_path/'f.safetensors', twin.read_bytes()), 'not a model')
    numpy_safetensors = pytest.importorskip('safetensors.numpy')
    for i, meta in enumerate((None, {'format': 'pt'}, {'captcha_lab': 'no json'}, {'captcha_lab': '[]'}, {'captcha_lab': '{}'},
                              {'captcha_lab': '['*100000}, {'captcha_lab': '{"format": NaN}'})):
        refused(spoil(tmp_path/f'g{i}.safetensors', numpy_safetensors.save({'a': np.zeros(3)}, meta)))
    onnx = pytest.importorskip('onnx')
    model = onnx.load(str(twin))
    del model.metadata_props[:]
    refused(spoil(tmp_path/'h.onnx', model.SerializeToString()), 'not a model of ours')


@pytest.mark.parametrize('raw', [
    (1 << 40).to_bytes(8, 'little') + b'{}', (1 << 21).to_bytes(8, 'little') + b'{' + b' '*(1 << 21),
    (100).to_bytes(8, 'little') + b'{}', (2).to_bytes(8, 'little') + b'{}', (2**64 - 1).to_bytes(8, 'little') + b'{}',
    (6).to_bytes(8, 'little') + b'{"a":1', (5).to_bytes(8, 'little') + b'{\xff\xff\xff}',
    (20000).to_bytes(8, 'little') + b'{"a":' + b'['*19995])
def test_bad_headers(tmp_path, raw): refused(spoil(tmp_path/'a.safetensors', raw))


def changed(meta, where, value):
    "A deep copy of the fields with one of them changed, or removed where `value` is KeyError"
    meta = json.loads(json.dumps(meta))
    *parents, last = where.split('.')
    inner = meta
    for k in parents: inner = inner[k]
    if value is KeyError: del inner[last]
    else: inner[last] = value
    return meta


BAD = [('task', 'mindreading'), ('task', None), ('arch', '../crnn'), ('arch', 'os.system'), ('arch', ['crnn']),
       ('name', 'a/b'), ('name', ''), ('name', 'a\n'), ('name', 'x'*81),
       ('vocab', ''), ('vocab', 'AAB7é'), ('vocab', 'AB7é'), ('vocab', ['A', 'B', '7', 'é', '漢']), ('vocab', 5),
       ('blank', 1), ('blank', False), ('blank', '0'), ('format', 0), ('format', True), ('format', '1'), ('format', 1.), ('format', None),
       ('arch_args', []), ('arch_args.n_symbols', 7), ('arch_args.n_symbols', -6), ('arch_args.n_symbols', KeyError),
       ('arch_args.height', 64), ('arch_args.hidden', 10**9), ('arch_args.hidden', 8.), ('arch_args.channels', 'wide'),
       ('arch_args.channels', [4, 4, 8, -8]), ('arch_args.channels', []), ('arch_args.dropout', 2), ('arch_args.colour', 'red'),
       ('input', None), ('input.mode', 'RGB'), ('input.height', 0), ('input.height', '32'), ('input.height', 4000),
       ('input.width', 7), ('input.width', 700),
       ('input.width', 80.), ('input.min_width', 0), ('input.min_width', 601), ('input.max_width', 10**7), ('input.max_width', KeyError),
       ('input.depth', 1), ('norm.mean', '0.5'), ('norm.mean', 1e9), ('norm.std', 0), ('norm.std', -1), ('norm.std', None),
       ('decode.method', 'magic'), ('decode.width', 0), ('decode.width', 1001), ('decode.temperature', 0), ('decode.temperature', 1e999),
       ('thresholds', 2), ('thresholds', {'A': .5}), ('thresholds', 'high'), ('card', None), ('card', 'good'),
       ('weights_sha256', 'x'*64), ('weights_sha256', ''), ('weights_sha256', 3), ('colour', 'red'), ('norm', KeyError), ('card', KeyError)]


@pytest.mark.parametrize('where, value', BAD)
def test_every_field_is_checked(tmp_path, toy, where, value):
    "Both when read (with checksums that fit, so it is the field that is found) and when written"
    tensors, text = lib._tensors(toy.read_bytes(), read_meta(toy), toy), lib._dump
    meta = changed(read_meta(toy), where, value)
    if value != 1e999:
        sealed = meta | {'meta_sha256': lib._meta_digest(meta)}
        from safetensors.numpy import save
        refused(spoil(tmp_path/'a.safetensors', save(tensors, {'captcha_lab': text(sealed)})))
    if value is not KeyError and where != 'weights_sha256': # those are filled in
        del meta['meta_sha256']
        with pytest.raises(ModelError): save_bundle(tmp_path/'b.safetensors', tensors, meta)
        assert not (tmp_path/'b.safetensors').exists()


def test_newer_format_says_so(tmp_path, toy):
    from safetensors.numpy import save
    refused(spoil(tmp_path/'a.safetensors', save({'a': np.zeros(1)}, {'captcha_lab': '{"format": 2, "soul": true}'})), 'newer')


def test_contents_that_do_not_fit(tmp_path):
    state = network().state_dict()
    for i, tensors in enumerate((
            {}, {k: v for k, v in list(state.items())[1:]}, state | {'extra': torch.zeros(1)}, state | {'head.bias': torch.zeros(7)})):
        path = save_bundle(tmp_path/f'{i}.safetensors', tensors, META)
        with pytest.raises(ModelError, match='do not fit its arch'): load_bundle(path)
    path = save_bundle(tmp_path/'nan.safetensors', state | {'head.bias': torch.full((6,), torch.nan)}, META)
    with pytest.raises(ModelError, match='NaN'): load_bundle(path)
    path = save_bundle(tmp_path/'three.safetensors', state, changed({**META, 'card': {}}, 'arch_args.channels', [4, 4, 8]))
    with pytest.raises(ModelError, match='do not fit its arch'): load_bundle(path)


def test_a_lying_header_takes_no_memory(tmp_path):
    "The network would have 400 million weights; its file has none"
    args = ARGS | {'hidden': 4096, 'channels': [4096]*4}
    path = save_bundle(tmp_path/'a.safetensors', {'a': np.zeros(1)}, META | {'arch_args': args})
    with pytest.raises(ModelError, match='do not fit its arch'): load_bundle(path)


@pytest.mark.parametrize('suffix', ['.safetensors', '.onnx'])
def test_truncated_anywhere(tmp_path, toy, twin, suffix):
    raw = (toy if suffix == '.safetensors' else twin).read_bytes()
    ends = {*range(0, 40), *range(0, len(raw), len(raw)//60), *range(len(raw) - 40, len(raw))}
    for n in ends: # every one of them
        with pytest.raises(ModelError): load_bundle(spoil(tmp_path/('a' + suffix), raw[:n]))
    with pytest.raises(ModelError): load_bundle(spoil(tmp_path/('a' + suffix), raw + b'\0'))


@pytest.mark.parametrize('suffix', ['.safetensors', '.onnx'])
def test_flipped_anywhere(tmp_path, toy, twin, suffix):
    "A changed byte is found, or (spaces, names of other metadata) changes nothing at all"
    path = toy if suffix == '.safetensors' else twin
    raw, expected = path.read_bytes(), load_bundle(path)
    rng = np.random.default_rng(0)
    head = 8 + int.from_bytes(raw[:8], 'little') if suffix == '.safetensors' else 60
    places = [*rng.integers(0, head, 150), *rng.integers(0, len(raw), 100), *rng.integers(len(raw) - 1500, len(raw), 100)]
    kept = 0
    for at in places:
        spoiled = bytearray(raw)
        spoiled[at] ^= 1 << rng.integers(8)
        try: found = load_bundle(spoil(tmp_path/('a' + suffix), bytes(spoiled)))
        except ModelError as e: assert '\n' not in str(e)
        else:
            kept += 1
            assert found.meta == expected.meta and found.predict(IMAGES[:1]) == expected.predict(IMAGES[:1])
    assert kept <= 5


@settings(max_examples=150)
@given(st.binary(max_size=200), st.sampled_from(['.safetensors', '.onnx', '.pth', '']))
def test_noise(tmp_path_factory, raw, suffix):
    path = tmp_path_factory.getbasetemp()/('noise' + suffix)
    with pytest.raises(ModelError): load_bundle(spoil(path, raw))


def test_foreign_onnx_with_our_fields(tmp_path, twin):
    "A graph of another shape, sealed as it should be"
    onnx = pytest.importorskip('onnx')
    io = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1]) for n in 'xy']
    graph = onnx.helper.make_graph([onnx.helper.make_node('Relu', ['x'], ['y'])], 'g', io[:1], io[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid('', 17)], ir_version=8)
    path = spoil(tmp_path/'a.onnx', lib._with_header(model.SerializeToString(), read_meta(twin)))
    with pytest.raises(ModelError, match='inputs or outputs'): load_bundle(path)
    path = spoil(tmp_path/'b.onnx', lib._with_header(b'', read_meta(twin)))
    with pytest.raises(ModelError, match='onnxruntime cannot'): load_bundle(path)


# ---- where it is written

def test_nothing_is_written_over(toy, twin):
    before = toy.read_bytes(), twin.read_bytes()
    with pytest.raises(InputError, match='exists'): save_bundle(toy, network(1).state_dict(), META)
    with pytest.raises(InputError, match='exists'): export_onnx(toy)
    assert before == (toy.read_bytes(), twin.read_bytes())


def test_force_and_names(tmp_path, toy):
    path = save_bundle(tmp_path/'new'/'a.safetensors', network().state_dict(), META)
    save_bundle(path, network(1).state_dict(), META, force=True)
    assert path.read_bytes() != toy.read_bytes() and len(list(path.parent.iterdir())) == 1
    for name in ('a.pth', 'a'):
        with pytest.raises(InputError, match='safetensors'): save_bundle(tmp_path/name, {}, META)
    with pytest.raises(InputError, match='onnx'): export_onnx(toy, tmp_path/'a.bin')


def test_folder_that_may_not_be_written(tmp_path, toy, monkeypatch):
    locked = tmp_path/'locked'
    locked.mkdir(mode=0o500)
    if os.access(locked, os.W_OK): # root may write anywhere
        locked.rmdir()
        locked.write_text('a file where a folder should be')
    for call in (lambda: save_bundle(locked/'a.safetensors', network().state_dict(), META), lambda: export_onnx(toy, locked/'a.onnx')):
        with pytest.raises(InputError) as e: call()
        assert 'locked' in str(e.value) and '\n' not in str(e.value)


def test_full_disk(tmp_path, monkeypatch):
    def full(self, data): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(Path, 'write_bytes', full)
    with pytest.raises(InputError, match='No space left'): save_bundle(tmp_path/'a.safetensors', network().state_dict(), META)
    assert list(tmp_path.iterdir()) == []


def test_file_that_may_not_be_read(toy, monkeypatch):
    def closed(self): raise PermissionError(13, 'Permission denied')
    monkeypatch.setattr(Path, 'read_bytes', closed)
    with pytest.raises(ModelError, match='Permission denied'): load_bundle(toy)


# ---- finding models

def test_find(toy, twin, monkeypatch):
    folder = toy.parent
    assert find_bundle('toy', folder) == twin and find_bundle('toy', folder, onnx=False) == toy
    assert find_bundle(str(toy)) == toy and find_bundle(twin) == twin
    monkeypatch.setattr(lib.importlib.util, 'find_spec', lambda name: None)
    assert find_bundle('toy', folder) == toy
    for bad in ('tea', '', '..', 'a'*5000, 'tea.onnx', 'a\0b'):
        with pytest.raises(ModelError) as e: find_bundle(bad, folder)
        assert '\n' not in str(e.value)
    zoo = model_zoo(folder)
    assert list(zoo) == ['toy'] and zoo['toy']['card']['name'] == 'toy'
    assert zoo['toy']['bytes'] == toy.stat().st_size + twin.stat().st_size
    assert model_zoo(folder/'nowhere') == {}


def test_shipped_models_are_sound():
    "Whatever lies in data/models: named as it says, twins of one and the same weights, and small"
    for name, row in model_zoo().items():
        metas = [read_meta(p) for p in row['files']]
        assert {m['name'] for m in metas} == {name} and len({m['weights_sha256'] for m in metas}) == 1
        for p in row['files']:
            image = np.full((metas[0]['input']['height'], 200), 255, np.uint8)
            row, = load_bundle(p).predict([image])
            said = {'tiles': {'top1', 'labels', 'probs'}, 'pets': {'label', 'top1', 'p_dog', 'probs'}}.get(metas[0]['task'])
            if said: assert set(row) == said
            else: assert {'text', 'confidence'} <= set(row) <= {'text', 'confidence', 'boxes', 'reason'}
    assert sum(p.stat().st_size for p in share_path('models').glob('*')) <= 40e6


def test_errors_are_ours(): assert issubclass(ModelError, LabError) and Bundle.__name__ in lib.__all__


# ---- letters: images that are cut first

SYMBOLS = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ'
LETTER_ARGS = dict(n_symbols=26, size=28, channels=[4, 8], hidden=16, dropout=.1)
LETTER_META = dict(name='toy', task='letters', arch='letter_cnn', arch_args=LETTER_ARGS, vocab=SYMBOLS, alphabets=None,
                   split=Splitter(wide=1.5).options(), keep_shape=True, card={'name': 'toy'},
                   input=dict(mode='L', height=28, width=28, min_width=28, max_width=28), norm={'mean': .4, 'std': .3})


def letter_network(seed=0):
    torch.manual_seed(seed)
    net = LetterCNN(**LETTER_ARGS)
    with torch.no_grad():
        for p in net.parameters(): p *= 3 # sure enough of itself that letters differ
    return net.eval()


@pytest.fixture(scope='module')
def cutter(tmp_path_factory):
    return save_bundle(tmp_path_factory.mktemp('letters')/'toy.safetensors', letter_network().state_dict(), LETTER_META)

@pytest.fixture(scope='module')
def cutter_twin(cutter): return export_onnx(cutter)

@pytest.fixture(scope='module')
def words(): return [Renderer(level=0, seed=3)[i].image for i in range(6)]


def same_rows(a, b, tolerance=1e-4):
    assert [r['text'] for r in a] == [r['text'] for r in b] and [r['boxes'] for r in a] == [r['boxes'] for r in b]
    assert [r['confidence'] for r in a] == pytest.approx([r['confidence'] for r in b], abs=tolerance)
    assert [r.get('reason') for r in a] == [r.get('reason') for r in b]


def test_letters_there_and_back(cutter, tmp_path, words):
    bundle, net = load_bundle(cutter), letter_network()
    x = np.random.default_rng(0).integers(0, 256, (5, 28, 28), dtype=np.uint8)
    with torch.no_grad(): expected = net((torch.tensor(x)[:, None]/255 - .4)/.3).log_softmax(-1).numpy()
    assert np.abs(bundle.run(x) - expected).max() < 1e-4
    assert {k: bundle.meta[k] for k in LETTER_META} == LETTER_META and bundle.meta == read_meta(cutter)
    assert bundle.vocab.alphabet == SYMBOLS and set(bundle.meta) & {'blank', 'decode'} == set()
    again = save_bundle(tmp_path/'again.safetensors', net.state_dict(), {k: bundle.meta[k] for k in LETTER_META})
    assert again.read_bytes() == cutter.read_bytes() and load_bundle(again).predict(words) == bundle.predict(words)


def test_letters_twin_reads_the_same(cutter, cutter_twin, words):
    a, b = load_bundle(cutter), load_bundle(cutter_twin)
    same_rows(a.predict(words), b.predict(words))
    for n in (1, 9):
        x = np.random.default_rng(n).integers(0, 256, (n, 28, 28), dtype=np.uint8)
        assert a.run(x).shape == (n, 26) and np.abs(a.run(x) - b.run(x)).max() < 1e-3
    assert {k: a.meta[k] for k in LETTER_META} == {k: b.meta[k] for k in LETTER_META}


def test_letters_twin_needs_neither_torch_nor_fastai(cutter_twin):
    assert run(f'''
        import sys, numpy as np
        for name in ('torch', 'fastai', 'onnx'): sys.modules[name] = None # importing it would fail
        from captcha_lab.bundle import load_bundle
        print(len(load_bundle({str(cutter_twin)!r}).predict([np.zeros((60, 80), np.uint8)])))
        ''') == '1'


def test_letters_same_alone_and_in_company(cutter, words):
    bundle = load_bundle(cutter)
    images = [words[0], np.full((60, 200), 255, np.uint8), *words[1:]] # one that gives up among them
    together = bundle.predict(images)
    assert len({r['text'] for r in together}) > 3 and all(len(r['text']) == len(r['boxes']) for r in together)
    same_rows(together, [bundle.predict([o])[0] for o in images])
    for size in (1, 2, 500): same_rows(together, bundle.predict(images, batch_size=size))
    assert bundle.predict([]) == []
    ready = [bundle.prepare(o) for o in images]
    same_rows(together, bundle.predict(ready)) # preparing twice changes nothing


@pytest.mark.parametrize('image', [
    np.full((60, 200), 255, np.uint8), np.zeros((60, 200), np.uint8), np.full((60, 200), 128, np.uint8),
    np.zeros((60, 200, 3), np.uint8), np.full((60, 200, 3), (255, 0, 0), np.uint8), np.full((2000, 3000), 255, np.uint8),
    np.zeros((1, 1), np.uint8), np.full((2, 3), 255, np.uint8), np.zeros((5000, 1), np.uint8), np.zeros((40, 4096), np.uint8)])
def test_letters_nothing_to_read(cutter, image):
    row, = load_bundle(cutter).predict([image])
    assert row['text'] == '' and row['confidence'] == 0 and row['boxes'] == [] and row['reason'] and '\n' not in row['reason']


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 400), st.integers(1, 400), st.sampled_from(['noise', 'blob', 'lines', 'dots']), st.booleans(), st.integers(0, 99))
def test_letters_never_crash(cutter, h, w, kind, colour, seed):
    rng, image = np.random.default_rng(seed), np.full((h, w), 255, np.uint8)
    if kind == 'noise': image = rng.integers(0, 256, (h, w), dtype=np.uint8)
    elif kind == 'blob': image[h//4:h//4*3 + 1, w//8:] = 0
    elif kind == 'lines': image[:, ::rng.integers(2, 30)] = 0
    else: image[rng.random((h, w)) < .02] = 0
    image = np.stack([image]*3, axis=-1) if colour else image
    try: row, = load_bundle(cutter).predict([image])
    except InputError as e: assert 'too wide' in str(e) and w > 50*h # as for any model
    else:
        assert ('reason' in row or row['text']) and 0 <= row['confidence'] <= 1 and len(row['boxes']) == len(row['text'])
        for x0, y0, x1, y1 in row['boxes']: assert 0 <= x0 < x1 <= w and 0 <= y0 < y1 <= h
        json.dumps(row)


@pytest.mark.parametrize('times', [4, 9])
def test_letters_large_images(cutter, times):
    "Read much as the small one; boxes in the pixels of the image as it came"
    image = np.full((100, 300), 255, np.uint8)
    for x in (40, 120, 200): image[30:70, x:x + 24], image[42:58, x + 8:x + 16] = 0, 255
    bundle = load_bundle(cutter)
    small, large = bundle.predict([image, image.repeat(times, 0).repeat(times, 1)])
    assert len(small['boxes']) == len(large['boxes']) == 3
    assert np.abs(np.array(large['boxes'])/times - small['boxes']).max() <= 3


@pytest.mark.parametrize('images', [[np.zeros((60, 80))], ['a.png'], [np.zeros((60, 80, 4), np.uint8)], [np.zeros((0, 80), np.uint8)],
                                    np.zeros((60, 80), np.uint8), [np.zeros((30, 30000), np.uint8)]])
def test_letters_what_is_no_image(cutter, images):
    with pytest.raises(InputError) as e: load_bundle(cutter).predict(images)
    assert '\n' not in str(e.value)


BAD_LETTERS = [
    ('task', 'ctc'), ('arch', 'crnn'), ('vocab', 'AB'), ('vocab', 'A'*26), ('alphabets', []), ('alphabets', 'ABC'), ('alphabets', ['ABC']),
    ('alphabets', [SYMBOLS, 'é']), ('alphabets', [SYMBOLS, 3]), ('alphabets', KeyError), ('keep_shape', 1), ('keep_shape', None),
    ('arch_args.size', 32), ('arch_args.size', KeyError), ('arch_args.n_symbols', 27), ('arch_args.channels', [4]),
    ('arch_args.channels', [4, 8, 8]), ('arch_args.hidden', 0), ('arch_args.dropout', -1), ('arch_args.height', 28),
    ('input.height', 32), ('input.width', None), ('input.width', 32), ('input.min_width', 29), ('input.max_width', 27),
    ('split', None), ('split', {}), ('split.colour', 'red'), ('split.threshold', 'magic'), ('split.threshold', 256),
    ('split.threshold', True), ('split.shares', []), ('split.shares', [0]), ('split.shares', .5), ('split.median', 4),
    ('split.median', 3.5), ('split.blur', 1), ('split.blur', 10**9 + 1), ('split.least', 0),
    ('split.pad', -1), ('split.pad', 1e300), ('split.join', 'yes'), ('split.touching', 'axe'), ('split.wide', 0), ('split.wide_px', 'x'),
    ('split.wide_px', 0), ('split.length', [3, 2]), ('split.length', [1]), ('split.length', [0, 300]), ('split.blur', KeyError),
    ('blank', 0), ('decode', {'method': 'greedy', 'width': 1, 'temperature': 1.})]


@pytest.mark.parametrize('where, value', BAD_LETTERS)
def test_every_field_of_letters_is_checked(tmp_path, cutter, where, value):
    from safetensors.numpy import save
    meta, tensors = changed(read_meta(cutter), where, value), letter_network().state_dict()
    sealed = meta | {'meta_sha256': lib._meta_digest(meta)}
    refused(spoil(tmp_path/'a.safetensors', save({'a': np.zeros(1)}, {'captcha_lab': lib._dump(sealed)})), 'bad model')
    if value is not KeyError:
        del meta['meta_sha256'] # it is filled in
        with pytest.raises(ModelError): save_bundle(tmp_path/'b.safetensors', tensors, meta)


@pytest.mark.parametrize('splitter', [
    NAIVE, Splitter(), Splitter(median=3, touching='watershed', length=(6, 6)), Splitter(threshold=0, pad=0)])
def test_letters_any_splitter_is_kept(tmp_path, splitter):
    path = save_bundle(tmp_path/'a.safetensors', letter_network().state_dict(), LETTER_META | {'split': splitter.options()})
    assert load_bundle(path).task.splitter.options() == read_meta(path)['split'] == splitter.options()


def test_letters_alphabets(tmp_path, words):
    "A text keeps to one of them"
    halves = [SYMBOLS[:13], SYMBOLS[13:]]
    path = save_bundle(tmp_path/'a.safetensors', letter_network().state_dict(), LETTER_META | {'alphabets': halves})
    texts = [r['text'] for r in load_bundle(path).predict(words)]
    assert any(texts) and all(set(t) <= set(halves[0]) or set(t) <= set(halves[1]) for t in texts)


def test_letters_contents_that_do_not_fit(tmp_path, cutter, cutter_twin):
    state = letter_network().state_dict()
    for i, tensors in enumerate(({}, network().state_dict(), state | {'extra': torch.zeros(1)})):
        path = save_bundle(tmp_path/f'{i}.safetensors', tensors, LETTER_META)
        with pytest.raises(ModelError, match='do not fit its arch'): load_bundle(path)
    args = LETTER_ARGS | {'hidden': 4096, 'channels': [4096]*2}
    path = save_bundle(tmp_path/'big.safetensors', {'a': np.zeros(1)}, LETTER_META | {'arch_args': args})
    with pytest.raises(ModelError, match='do not fit its arch'): load_bundle(path) # and takes no memory
    for path in (cutter, cutter_twin):
        raw = path.read_bytes()
        for at in np.random.default_rng(0).integers(0, len(raw), 25):
            spoiled = bytearray(raw)
            spoiled[at] ^= 1
            try: assert load_bundle(spoil(tmp_path/f'c{path.suffix}', bytes(spoiled))).meta == read_meta(path)
            except ModelError as e: assert '\n' not in str(e)


def test_task_of():
    assert {n: task_of({'task': n}) for n in TASKS} == TASKS
    assert [task_of(o) for o in ({'task': None}, {'task': []}, {}, None, 3)] == [TASKS['ctc']]*5


# ---- tiles: many labels a picture

CLASSES = ['Bus', 'Car', 'Palm', 'Traffic Light']
TILE_META = dict(name='toy', task='tiles', arch='lite0', arch_args={'n_symbols': 4, 'mirror': True}, vocab=CLASSES, card={'name': 'toy'},
                 input=dict(mode='RGB', height=64, width=64, min_width=64, max_width=64), norm=dict(zip(('mean', 'std'), LITE_STATS)),
                 thresholds={'Bus': .5, 'Car': 0, 'Palm': 1, 'Traffic Light': .25})


def tile_network(arch='lite0', seed=0):
    "As a learner's model is put together, with statistics and a head that are not the initial ones"
    torch.manual_seed(seed)
    body = vision_body(arch, pretrained=False)
    net = torch.nn.Sequential(body, linear_head(body.n_features, len(CLASSES), pool=getattr(body[0], 'needs_pool', True)))
    for m in body.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            for v, (low, high) in zip((m.running_mean, m.running_var, m.weight.data), ((-.2, .2), (.5, 1.5), (-1.5, 1.5))): v.uniform_(low, high)
    torch.nn.init.normal_(net[1][-1].weight, std=.5)
    return net.eval()


@pytest.fixture(scope='module')
def street(tmp_path_factory):
    return save_bundle(tmp_path_factory.mktemp('tiles')/'toy.safetensors', round_weights(tile_network().state_dict()), TILE_META)

@pytest.fixture(scope='module')
def street_twin(street): return export_onnx(street)

@pytest.fixture(scope='module')
def tiles_task(street): return TASKS['tiles'](read_meta(street))

TILES = [np.random.default_rng(i).integers(0, 256, shape, dtype=np.uint8) for i, shape in enumerate((
    (64, 64, 3), (128, 128, 3), (10, 10, 3), (40, 90), (300, 20, 1), (64, 64, 3)))]


def same_tiles(a, b, tolerance=1e-4):
    for x, y in zip(a, b, strict=True):
        assert list(x['probs']) == list(y['probs']) == CLASSES and list(x['probs'].values()) == pytest.approx(list(y['probs'].values()), abs=tolerance)
        assert x['top1'] == y['top1'] and x['labels'] == y['labels']


def test_tiles_there_and_back(street, tmp_path):
    bundle, net = load_bundle(street), tile_network()
    state = round_weights(net.state_dict())
    net.load_state_dict(state)
    x = np.stack([bundle.prepare(o) for o in TILES])
    mean, std = (torch.tensor(o).view(3, 1, 1) for o in LITE_STATS)
    planes = (torch.tensor(x).permute(0, 3, 1, 2)/255 - mean)/std
    with torch.no_grad(): expected = ((net(planes) + net(planes.flip(-1)))/2).sigmoid().numpy()
    assert np.abs(np.exp(bundle.run(x)) - expected).max() < 1e-5 and expected.std() > .1
    assert {k: bundle.meta[k] for k in TILE_META} == TILE_META and bundle.vocab == CLASSES and bundle.meta == read_meta(street)
    kept = lib._tensors(street.read_bytes(), bundle.meta, street)
    assert set(kept) == set(state) and all(np.array_equal(kept[k], v.numpy()) and kept[k].shape == v.shape for k, v in state.items())
    again = save_bundle(tmp_path/'again.safetensors', kept, {k: bundle.meta[k] for k in TILE_META})
    assert again.read_bytes() == street.read_bytes() and street.stat().st_size < 5e6


def test_tiles_answers(street):
    rows = load_bundle(street).predict(TILES)
    for r in rows:
        assert set(r) == {'top1', 'labels', 'probs'} and all(type(p) is float and 0 <= p <= 1 for p in r['probs'].values())
        likeliest = sorted(CLASSES, key=r['probs'].get, reverse=True)
        assert r['top1'] == likeliest[0] and r['labels'] == [c for c in likeliest if r['probs'][c] >= TILE_META['thresholds'][c]]
        assert 'Car' in r['labels'] and json.loads(json.dumps(r)) == r
    assert rows[0] != rows[5]


def test_tiles_other_only_where_there_is_nothing_else(street, tmp_path):
    line = float(np.median([r['probs']['Bus'] for r in load_bundle(street).predict(TILES)]))
    meta = TILE_META | dict(vocab=['Bus', 'Other', 'Palm', 'Tram'], thresholds={'Bus': line, 'Other': 0, 'Palm': 1, 'Tram': 1})
    model = save_bundle(tmp_path/'toy.safetensors', round_weights(tile_network().state_dict()), meta)
    for bundle in (load_bundle(model), load_bundle(export_onnx(model))):
        rows = bundle.predict(TILES)
        assert [r['labels'] for r in rows] == [['Bus'] if r['probs']['Bus'] >= line else ['Other'] for r in rows]
        assert len({r['labels'][0] for r in rows}) == 2


def test_tiles_same_alone_in_company_and_mirrored(street, tmp_path):
    bundle = load_bundle(street)
    together = bundle.predict(TILES)
    same_tiles(together, [bundle.predict([o])[0] for o in TILES])
    same_tiles(together, bundle.predict([o[:, ::-1] for o in TILES])) # all have an even number of columns left over
    for size in (1, 4, 500): same_tiles(together, bundle.predict(TILES, batch_size=size))
    same_tiles(bundle.predict(np.stack([TILES[0], TILES[5]])), [together[0], together[5]])
    assert bundle.predict([]) == []
    one_way = TILE_META | {'arch_args': {'n_symbols': 4, 'mirror': False}}
    plain = load_bundle(save_bundle(tmp_path/'a.safetensors', tile_network().state_dict(), one_way))
    a, b = (plain.predict([o])[0]['probs']['Bus'] for o in (TILES[0], TILES[0][:, ::-1]))
    assert abs(a - b) > 1e-3


def test_tiles_twin_looks_the_same(street, street_twin):
    a, b = load_bundle(street), load_bundle(street_twin, threads=2)
    same_tiles(a.predict(TILES), b.predict(TILES))
    for n in (1, 2, 9):
        x = np.random.default_rng(n).integers(0, 256, (n, 64, 64, 3), dtype=np.uint8)
        assert a.run(x).shape == (n, 4) and a.run(x).dtype == b.run(x).dtype == np.float32
        assert np.abs(np.exp(a.run(x)) - np.exp(b.run(x))).max() < 1e-4
    assert {k: a.meta[k] for k in TILE_META} == {k: b.meta[k] for k in TILE_META}
    assert street_twin.stat().st_size < 5e6


def test_tiles_twin_is_ordinary_onnx(street_twin):
    onnx = pytest.importorskip('onnx')
    model = onnx.load(str(street_twin))
    onnx.checker.check_model(model, full_check=True)
    small = [w for w in model.graph.initializer if w.data_type == onnx.TensorProto.INT8]
    assert len(small) > 25 and len({w.name for w in model.graph.initializer}) == len(model.graph.initializer)


def test_tiles_twin_needs_neither_torch_nor_fastai(street_twin):
    assert run(f'''
        import sys, numpy as np
        for name in ('torch', 'fastai', 'timm', 'torchvision', 'onnx'): sys.modules[name] = None # importing it would fail
        from captcha_lab.bundle import load_bundle
        print(len(load_bundle({str(street_twin)!r}).predict([np.zeros((60, 80), np.uint8)])), 'captcha_lab.backbones' in sys.modules)
        ''') == '1 False'


@pytest.mark.parametrize('arch', ['resnet18', 'mobilenetv3_small_050'])
def test_tiles_other_networks(tmp_path, arch):
    meta = TILE_META | {'arch': arch, 'norm': {'mean': .5, 'std': [.2, .3, .4]}}
    bundle = load_bundle(save_bundle(tmp_path/'a.safetensors', tile_network(arch).state_dict(), meta))
    same_tiles(bundle.predict(TILES), load_bundle(export_onnx(bundle.path)).predict(TILES))


@pytest.mark.parametrize('mode, size', [
    ('RGB', (10, 10)), ('RGB', (5000, 5000)), ('L', (50, 50)), ('LA', (64, 64)), ('RGBA', (64, 40)), ('P', (9, 700)), ('1', (64, 64)), ('I;16', (30, 30))])
def test_tiles_any_picture(tmp_path, street_twin, mode, size):
    image_lib = pytest.importorskip('PIL.Image')
    image_lib.new(mode, size).save(tmp_path/'a.png')
    bundle, image = load_bundle(street_twin), open_image(tmp_path/'a.png', mode='RGB')
    ready = bundle.prepare(image)
    assert ready.shape == (64, 64, 3) and ready.dtype == np.uint8 and len({*ready.reshape(-1)}) == 1
    same_tiles(bundle.predict([ready]), bundle.predict([image])) # preparing twice changes nothing


@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from([(), (1,), (3,)]))
def test_tiles_any_size(tiles_task, h, w, colours):
    assert tiles_task.prepare(np.full((h, w, *colours), 7, np.uint8)).tolist() == np.full((64, 64, 3), 7).tolist()


@pytest.mark.parametrize('images', [
    [np.zeros((64, 64, 3))], ['a.png'], [None], [np.zeros(64, np.uint8)], [np.zeros((64, 64, 4), np.uint8)], [np.zeros((64, 64, 2), np.uint8)],
    [np.zeros((0, 64, 3), np.uint8)], [np.zeros((64, 0), np.uint8)], np.zeros((64, 64, 3), np.uint8), [np.zeros((1, 64, 64, 3), np.uint8)]])
def test_tiles_what_is_no_image(street_twin, images):
    with pytest.raises(InputError) as e: load_bundle(street_twin).predict(images)
    assert '\n' not in str(e.value)


BAD_TILES = [
    ('task', 'ctc'), ('arch', ''), ('arch', '../lite0'), ('arch', 'hf_hub:a/b'), ('arch', None), ('blank', 0), ('alphabets', None),
    ('vocab', 'ABCD'), ('vocab', []), ('vocab', CLASSES[:3]), ('vocab', CLASSES[:3] + ['Bus']), ('vocab', CLASSES[:3] + ['']),
    ('vocab', CLASSES[:3] + [4]), ('vocab', CLASSES[:3] + ['x'*81]), ('vocab', CLASSES[:3] + ['a\nb']), ('vocab', CLASSES[:3] + [' Palm']),
    ('vocab', CLASSES[:3] + ['Lamp']), ('arch_args.n_symbols', 5), ('arch_args.n_symbols', 4.), ('arch_args.n_symbols', KeyError),
    ('arch_args.mirror', 1), ('arch_args.mirror', None), ('arch_args.mirror', KeyError), ('arch_args.hidden', 8),
    ('thresholds', None), ('thresholds', .5), ('thresholds', {}), ('thresholds', [.5]*4), ('thresholds.Bus', KeyError), ('thresholds.Lamp', .5),
    ('thresholds.Bus', 1.01), ('thresholds.Bus', -.01), ('thresholds.Bus', None), ('thresholds.Bus', '0.5'), ('thresholds.Bus', True),
    ('norm.mean', [.5, .5]), ('norm.mean', [.5]*4), ('norm.mean', [.5, .5, '0']), ('norm.mean', []), ('norm.std', [.5, .5]),
    ('norm.std', [.5, .5, 0]), ('norm.std', 0), ('norm', KeyError), ('norm.mean', None), ('input.mode', 'L'), ('input.height', 32),
    ('input.width', None), ('input.min_width', 32), ('input.max_width', 128), ('input.height', 64.)]


@pytest.mark.parametrize('where, value', BAD_TILES)
def test_every_field_of_tiles_is_checked(tmp_path, street, where, value):
    from safetensors.numpy import save
    meta = changed(read_meta(street), where, value)
    sealed = meta | {'meta_sha256': lib._meta_digest(meta)}
    refused(spoil(tmp_path/'a.safetensors', save({'a': np.zeros(1)}, {'captcha_lab': lib._dump(sealed)})), 'bad model')
    del meta['meta_sha256'] # it is filled in
    with pytest.raises(ModelError): save_bundle(tmp_path/'b.safetensors', {}, meta)


def test_tiles_contents_that_do_not_fit(tmp_path, street, street_twin):
    state = tile_network().state_dict()
    for i, tensors in enumerate(({}, state | {'extra': torch.zeros(1)}, state | {'1.3.bias': torch.zeros(5)}, network().state_dict())):
        path = save_bundle(tmp_path/f'{i}.safetensors', tensors, TILE_META)
        with pytest.raises(ModelError, match='do not fit its arch'): load_bundle(path)
    for arch in ('resnet18', 'lite9', 'os.system', 'vit_giant_patch14_224'): # the last takes no memory
        path = save_bundle(tmp_path/f'{arch}.safetensors', state, TILE_META | {'arch': arch})
        with pytest.raises(ModelError, match='do not fit its arch'): load_bundle(path)
    for path in (street, street_twin):
        raw = path.read_bytes()
        for at in [*np.random.default_rng(0).integers(0, len(raw), 12), len(raw)//2]:
            spoiled = bytearray(raw)
            spoiled[at] ^= 1
            try: assert load_bundle(spoil(tmp_path/f'c{path.suffix}', bytes(spoiled))).meta == read_meta(path)
            except ModelError as e: assert '\n' not in str(e)


# ---- weights in eight bits

HEAD = '1.3.weight'


@pytest.mark.parametrize('change, word', [
    (lambda t: t.pop(HEAD + '.scale'), 'cannot be read'), (lambda t: t.update({HEAD + '.scale': t[HEAD + '.scale'][1:]}), 'cannot be read'),
    (lambda t: t.update({HEAD + '.scale': t[HEAD + '.scale'][:, None]}), 'cannot be read'),
    (lambda t: t.update({HEAD + '.scale': t[HEAD + '.scale'].astype(np.float64)}), 'cannot be read'),
    (lambda t: t.update({HEAD + '.scale': t[HEAD + '.scale']*2}), 'altered'), (lambda t: t.update({HEAD: t[HEAD] + 1}), 'altered'),
    (lambda t: t.update({HEAD + '.scale': t[HEAD + '.scale']*np.float32(np.nan)}), 'altered'),
    (lambda t: t.update({HEAD: t[HEAD].astype(np.float32)}), 'altered'), (lambda t: t.update({HEAD: np.zeros((), np.int8)}), 'cannot be read')])
def test_damaged_scale(tmp_path, street, change, word):
    from safetensors.numpy import load, save
    tensors, meta = load(street.read_bytes()), read_meta(street)
    assert tensors[HEAD].dtype == np.int8 and tensors[HEAD + '.scale'].shape == (4,)
    change(tensors)
    path = spoil(tmp_path/'a.safetensors', save(tensors, {'captcha_lab': lib._dump(meta)}))
    with pytest.raises(ModelError, match=word) as e: load_bundle(path)
    assert '\n' not in str(e.value)


def test_scale_that_is_nan_in_a_sealed_file(tmp_path, street):
    from safetensors.numpy import load, save
    tensors, meta = load(street.read_bytes()), read_meta(street)
    tensors[HEAD + '.scale'][1] = np.inf
    meta['weights_sha256'] = lib._weights_digest(lib._unpacked(tensors))
    path = spoil(tmp_path/'a.safetensors', save(tensors, {'captcha_lab': lib._dump(lib._sealed(meta))}))
    with pytest.raises(ModelError, match='NaN'): load_bundle(path)


@settings(max_examples=60)
@given(st.integers(1, 5), st.integers(8, 40), st.floats(-30, 30), st.integers(0, 99))
def test_rounding_is_exact_from_then_on(n, m, power, seed):
    rng = np.random.default_rng(seed)
    w = (rng.normal(size=(n, m))*10**power).astype(np.float32)
    w[0, :m//2] = 0
    once = round_weights({'w': w}, min_size=1)['w']
    largest = np.abs(w).max(1, keepdims=True)
    assert (np.abs(once - w) <= largest/250).all() and once.dtype == np.float32
    assert np.array_equal(round_weights({'w': once}, min_size=1)['w'], once)
    packed = lib._packed({'w': once})
    assert packed['w'].dtype == np.int8 and packed['w'].shape == w.shape and set(packed) == {'w', 'w.scale'}
    assert np.array_equal(lib._unpacked(packed)['w'], once)
    assert set(lib._packed({'w': w})) == {'w'} # what is on no such grid stays as it is


def test_what_is_rounded():
    state = tile_network().state_dict()
    new = round_weights(state)
    assert list(new) == list(state) and all(new[k].dtype == v.dtype and new[k].shape == v.shape for k, v in state.items())
    touched = {k for k, v in state.items() if not torch.equal(v, new[k])}
    assert touched and all(state[k].numel() >= 4096 and state[k].shape[1] > 1 for k in touched)
    assert HEAD in touched and not any('conv_dw' in k or '.bn' in k for k in touched)
    assert round_weights({'a': np.ones((64, 64)), 'b': torch.ones(64, 64, dtype=torch.int64)})['a'].dtype == np.float64
    assert round_weights({}) == {}


def test_odd_tensors_are_kept(tmp_path):
    "Zeros, minus zeros, a name that is taken, few numbers a row, none at all, numbers too small for a step"
    arrays = {'zeros': np.zeros((3, 9), np.float32), 'minus': -np.zeros((3, 9), np.float32), 'taken': np.zeros((3, 9), np.float32),
              'taken.scale': np.ones(2, np.float32), 'narrow': np.ones((9, 3), np.float32), 'empty': np.zeros((0, 9), np.float32),
              'tiny': np.full((2, 9), 1e-45, np.float32), 'nan': np.full((2, 9), np.nan, np.float32), 'ones': np.ones((4, 16), np.float32)}
    packed = lib._packed(arrays)
    assert {k for k, v in packed.items() if v.dtype == np.int8} == {'zeros', 'minus', 'ones'}
    back = lib._unpacked(packed)
    assert set(back) == set(arrays) and all(np.allclose(back[k], v, rtol=1e-6, equal_nan=True) for k, v in arrays.items())
    save_bundle(tmp_path/'a.safetensors', arrays, META)
    with pytest.raises(ModelError, match='NaN'): load_bundle(tmp_path/'a.safetensors')


def test_channels_last_is_no_matter(tmp_path):
    net = letter_network()
    kept = save_bundle(tmp_path/'a.safetensors', net.state_dict(), LETTER_META).read_bytes()
    last = net.to(memory_format=torch.channels_last).state_dict()
    assert save_bundle(tmp_path/'b.safetensors', last, LETTER_META).read_bytes() == kept


def test_small_files_of_any_task(tmp_path, words):
    state = letter_network().state_dict()
    meta = LETTER_META | {'arch_args': LETTER_ARGS}
    large, small = (load_bundle(save_bundle(tmp_path/f'{name}.safetensors', s, meta)) for name, s in (
        ('large', state), ('small', round_weights(state, min_size=1000))))
    assert small.path.stat().st_size < .7*large.path.stat().st_size
    assert small.meta['weights_sha256'] != large.meta['weights_sha256']
    twin = load_bundle(export_onnx(small.path))
    assert twin.path.stat().st_size < export_onnx(large.path).stat().st_size and twin.meta['weights_sha256'] == small.meta['weights_sha256']
    same_rows(small.predict(words), twin.predict(words))
