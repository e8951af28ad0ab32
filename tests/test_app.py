"The app as a visitor's programs meet it: it answers, also ten at once, takes no nonsense, forgets what it was given, and tells nobody"
import re
import socket
import struct
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from captcha_lab import views
from captcha_lab.bundle import export_onnx, find_bundle, load_bundle, save_bundle
from captcha_lab.toy_street import toy_tile
from apps import MISSING, running
from commands import one_line, refused, run

pytestmark = [pytest.mark.skipif(bool(MISSING), reason=MISSING), pytest.mark.usefixtures('one_thread')]
KEEP = 15  # seconds; the tests are not to wait for two minutes


@pytest.fixture(scope='module')
def pets(tmp_path_factory):
    "A model for cats and dogs that has learned nothing yet"
    torch = pytest.importorskip('torch')
    from captcha_lab.tasks import task_of
    meta = {'name': 'toy', 'task': 'pets', 'vocab': ['cat', 'dog'], 'arch': 'pet_cnn_shallow', 'arch_args': {'n_symbols': 2, 'mirror': True}, 'norm': {'mean': .5, 'std': .25},
            'input': {'mode': 'RGB'} | dict.fromkeys(('height', 'width', 'min_width', 'max_width'), 64)}
    torch.manual_seed(0)
    net = task_of(meta).network(meta).net
    torch.nn.init.normal_(net[-1][-1].weight)
    return export_onnx(save_bundle(tmp_path_factory.mktemp('pets')/'toy.safetensors', net.state_dict(), meta))


@pytest.fixture(scope='module')
def app(tmp_path_factory, pets):
    with running(tmp_path_factory.mktemp('app'), '--keep', KEEP, '--bundle', pets) as app:
        print(f'the app started in {app.seconds:.1f} s, {sum(psutil.Process(app.process.pid).cpu_times()[:2]):.1f} of them at work')
        yield app


def visitor(app):
    "Somebody with a session of their own"
    from gradio_client import Client
    return Client(app.home, verbose=False, analytics_enabled=False)


@pytest.fixture(scope='module')
def me(app): return visitor(app)


def give(client, path, name):
    from gradio_client import handle_file
    return client.predict(handle_file(str(path)), api_name=name)


def alert(page):
    "What a page complains of; one line"
    said = re.search(r'<p role="alert"[^>]*>(.*?)</p>', page, flags=re.S)
    return said and said[1]


def uploads(app): return [p for p in app.folder.rglob('*') if p.is_file()]


@pytest.fixture(scope='module')
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp('photo')/'street.png'
    Image.fromarray(toy_tile(['Bicycle'], np.random.default_rng(1), side=200)).save(path)
    return path


def huge(path):
    "A PNG of a few bytes that says it has 60,000 x 60,000 pixels"
    chunk = lambda kind, data: struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
    path.write_bytes(b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', 60000, 60000, 8, 2, 0, 0, 0)) + chunk(b'IDAT', zlib.compress(b'\0')) + chunk(b'IEND', b''))


# ---- it answers

def test_only_this_computer_can_reach_it(app):
    p = psutil.Process(app.process.pid)
    listening = [c.laddr.ip for c in getattr(p, 'net_connections', p.connections)(kind='inet') if c.status == 'LISTEN']
    assert listening == ['127.0.0.1'] and app.home.startswith('http://127.0.0.1:')


def test_read(me):
    shown, page = me.predict('Level 1', 'DejaVuSans', api_name='/generate')
    assert shown.count('<img alt="The image to be read"') == 1 and page == ''
    page = me.predict('Level 1', api_name='/predict')
    assert page.count('<img') == 2 and page.count('right') == 2 and 'Reads it whole' in page and 'Cuts it into letters' in page
    with pytest.raises(Exception, match='not in the list'): me.predict('Level 7', 'DejaVuSans', api_name='/generate')


def test_an_image_of_ones_own(me, tmp_path):
    sample = views.captcha('captcha_v2', number=5)
    Image.fromarray(sample.image).save(tmp_path/'mine.png')
    assert 'The image to be read' in give(me, tmp_path/'mine.png', '/give_text')[0]
    page = me.predict('captcha_v2', api_name='/predict')
    assert f'>{sample.text}</code>' in page and 'right' not in page, 'nobody told what it says'


def test_tiles(app, photo):
    me = visitor(app)
    assert give(me, photo, '/give_tile')[0] == ''
    page = me.predict('', 'one picture', 'Bicycle', api_name='/look')
    assert 'Bicycle' in page and page.count('<img') == 2
    with pytest.raises(Exception, match='not in the list'): me.predict('', 'one picture', 'Boat', api_name='/look')


def test_grid(app, tmp_path):
    me = visitor(app)
    Image.fromarray(views.toy_grid('Bicycle', 4, 3)).save(tmp_path/'grid.png')
    give(me, tmp_path/'grid.png', '/give_tile')
    page = me.predict('', '4 x 4 grid', 'Bicycle', api_name='/look')
    assert 'row 4 column 4' in page and page.count('<img') == 2
    assert 'a 4x4 grid' in alert(me.predict('', '3 x 3 grid', 'Bicycle', api_name='/look'))


def test_pets(me, photo):
    page = give(me, photo, '/pets')[0]
    assert re.search(r'A <strong>(cat|dog)</strong>, \d+ % sure', page) and page.count('<img') == 2


def test_challenge(me):
    assert 'one in 9.8' in me.predict(82.7, 99.97, 12, 3, 1, api_name='/challenge')
    with pytest.raises(Exception, match='less than minimum'): me.predict(82.7, 99.97, 0, 3, 1, api_name='/challenge')


# ---- maps without torch

@pytest.mark.parametrize('target', ['Bicycle', 'Palm'])
def test_maps_are_those_of_the_network(target):
    from captcha_lab.explain import class_map, open_network
    model, network = open_network(find_bundle('tiles', onnx=False))
    image = toy_tile([target], np.random.default_rng(2), side=180)
    theirs = class_map(model, network, image, target)['heat']
    ours = views.open_maps(find_bundle('tiles', onnx=True))(model.prepare(image)[None], model.vocab.index(target))[1][0]
    assert np.abs(ours/ours.max() - theirs).max() < 1e-3


# ---- what can't be used

BAD = {'text.png': lambda p: p.write_text('no picture at all'), 'empty.png': lambda p: p.write_bytes(b''), 'huge.png': huge,
       'cut.png': lambda p: p.write_bytes(b'\x89PNG\r\n\x1a\n\0\0'), 'tiny.png': lambda p: Image.new('L', (4, 4)).save(p)}


@pytest.mark.parametrize('name', BAD)
@pytest.mark.parametrize('place', ['/give_text', '/give_tile', '/pets'])
def test_bad_uploads(app, me, tmp_path, name, place):
    BAD[name](tmp_path/name)
    said = alert(give(me, tmp_path/name, place)[0])
    assert said and '\n' not in said and name in said and str(app.folder) not in said and len(said) < 200, said


def test_uploads_that_are_no_pictures(me, tmp_path):
    (tmp_path/'list.txt').write_text('a list')
    with pytest.raises(Exception, match='(?i)invalid file type'): give(me, tmp_path/'list.txt', '/give_tile')


def test_uploads_have_a_limit(app, tmp_path):
    import httpx
    send = lambda n, k=1: httpx.post(f'{app.home}/gradio_api/upload', files=[('files', (f'{i}.png', bytes(n), 'image/png')) for i in range(k)], timeout=60)
    before = len(uploads(app))
    assert [send(9 << 20).status_code, send(1 << 20, 9).status_code] == [413, 413]
    endless = (b'x' for _ in range(3))  # says nothing of how long it is
    assert httpx.post(f'{app.home}/gradio_api/upload', content=endless, headers={'content-type': 'multipart/form-data; boundary=x'}, timeout=60).status_code == 413
    assert len(uploads(app)) <= before
    assert [send(10, 60).status_code, send(11, 60).status_code, send(12).status_code] == [200, 200, 503], 'too many lie there'


# ---- many at once, nothing kept, nobody told

def visit(app, i):
    me = visitor(app)
    kind = list(views.KINDS)[i % 6]
    me.predict(kind, 'any known font', api_name='/generate')
    page = me.predict(kind, api_name='/predict')
    table = me.predict(50 + 5*i, 99, 12, 3, 1, api_name='/challenge')
    return page.count('<img'), re.search('The image says <code>(.*?)</code>', page)[1], alert(page + table)


def test_ten_visitors_at_once(app):
    with ThreadPoolExecutor(10) as pool: found = list(pool.map(lambda i: visit(app, i), range(10)))
    assert [(n, wrong) for n, _, wrong in found] == [(2, None)]*10
    assert len({text for _, text, _ in found}) == 10, 'each sees an image of their own'


def test_no_page_may_ask_another_host(app):
    import httpx
    page = httpx.get(app.home)
    assert "default-src 'self'" in page.headers['content-security-policy'] and page.status_code == 200
    assert not re.search(r'<(link|script)[^>]+(href|src)="https?:', page.text)


def test_uploads_are_forgotten(app):
    import time
    until = time.monotonic() + 4*KEEP
    while uploads(app) and time.monotonic() < until: time.sleep(1)
    assert uploads(app) == []


@pytest.mark.skipif(sys.platform != 'linux', reason='looks into /proc')
def test_neither_fastai_nor_torch_is_loaded(app):
    "After all of the above"
    loaded = {Path(m.path).name for m in psutil.Process(app.process.pid).memory_maps()}
    assert any('onnxruntime' in name for name in loaded) and [name for name in loaded if 'torch' in name] == []


def test_it_ends_and_leaves_nothing(app):
    assert any(app.folder.iterdir())
    app.process.terminate()
    app.process.wait(30)
    assert list(app.folder.iterdir()) == []


# ---- the command

def test_no_model_for_pets_is_said_kindly(monkeypatch):
    from captcha_lab.app import app_models, build_app
    models = {k: m for k, m in app_models().items() if k != 'pets'}
    assert 'captcha-lab train pets' in str([b.value for b in build_app(models).blocks.values() if type(b).__name__ == 'Markdown'])


def test_without_gradio(monkeypatch):
    monkeypatch.setitem(sys.modules, 'gradio', None)
    refused('app', says="pip install 'captcha_lab[app]'")


def test_places_and_models_that_do_not_work(tmp_path):
    with socket.socket() as busy:
        busy.bind(('127.0.0.1', 0))
        busy.listen()
        refused('app', '--port', busy.getsockname()[1], says='nothing can listen')
    refused('app', '--bundle', find_bundle('tiles', onnx=False), says='captcha-lab export')
    refused('app', '--bundle', tmp_path/'none.onnx', says='no such model file')
    code, out, err = run('app', '--host', '203.0.113.7')
    assert code == 2 and err.startswith('captcha-lab: anybody who can reach') and out == ''
    one_line(err.split('\n', 1)[1], 'nothing can listen')
