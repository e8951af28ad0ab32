"""Archives, images and splits that are not what they should be: nothing escapes, stays half-made or leaks"""
import http.server
import io
import os
import signal
import subprocess
import sys
import tarfile
import textwrap
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image

from captcha_lab import core, data
from captcha_lab.core import DataError, InputError, sha256, whole_dir

ROOT = Path(__file__).resolve().parent.parent
MIRROR = core.settings().mirror
IDS = ['captcha_v2', 'tiles', 'pets']
lasting = settings(deadline=None, derandomize=True) # a busy machine is no failure
needs_mirror = pytest.mark.skipif(not (MIRROR and MIRROR.is_dir()), reason='real archives: set CAPTCHA_LAB_MIRROR')


@pytest.fixture(autouse=True)
def quiet(monkeypatch, tmp_path):
    monkeypatch.setenv('CAPTCHA_LAB_PROGRESS', 'none')
    monkeypatch.setenv('CAPTCHA_LAB_DATA', str(tmp_path/'data'))
    monkeypatch.delenv('CAPTCHA_LAB_MIRROR', raising=False)


def picture(size=(60, 20), seed=0, mode='L'):
    x = np.random.default_rng(seed).integers(0, 256, (size[1], size[0]), dtype=np.uint8)
    return Image.fromarray(x).convert(mode)


def png(**kwargs):
    out = io.BytesIO()
    picture(**kwargs).save(out, 'png')
    return out.getvalue()


def make_zip(path, members):
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as z:
        for name, content in members: z.writestr(name, content)
    return path


def make_tgz(path, members):
    with tarfile.open(path, 'w:gz') as t:
        for m, content in members: t.addfile(m, io.BytesIO(content))
    return path


def member(name, type=tarfile.REGTYPE, link='', size=0):
    m = tarfile.TarInfo(name)
    m.type, m.linkname, m.size = type, link, size
    return m, bytes(size)


def one_line(e): return '\n' not in str(e.value) and len(str(e.value)) < 400


# Archives

def zip_link():
    m = zipfile.ZipInfo('shortcut')
    m.external_attr = 0o120777 << 16
    return m


BAD_TARS = {
    'parent': [member('set/../../evil.png')], 'absolute': [member('/evil.png')],
    'symlink': [member('a', tarfile.SYMTYPE, '/etc')],
    'hard link': [member('a', tarfile.LNKTYPE, '/etc/passwd')], 'device': [member('a', tarfile.CHRTYPE)],
    'pipe': [member('a', tarfile.FIFOTYPE)], 'bomb': [member('a', size=30 << 20)],
    'same name': [member('a'), member('a')],
    'file as folder': [member('a'), member('a/b')], 'many': [member(f'{i}') for i in range(60)],
    'write through a link': [member('a', tarfile.SYMTYPE, '..'), member('a/evil.png')]}
BAD_ZIPS = {
    'parent': [('set/../../evil.png', '')], 'absolute': [('/evil.png', '')], 'drive': [('C:/evil.png', '')],
    'backslash': [('..\\evil.png', '')], 'symlink': [(zip_link(), '/etc')], 'bomb': [('a.png', bytes(30 << 20))],
    'bomb in parts': [(f'{i}.png', bytes(2 << 20)) for i in range(15)], 'many': [(f'{i}', '') for i in range(60)]}


@pytest.mark.filterwarnings('ignore:Duplicate name')
@pytest.mark.parametrize('make, members', [
    *[pytest.param(make_tgz, m, id=f'tgz {k}') for k, m in BAD_TARS.items()],
    *[pytest.param(make_zip, m, id=f'zip {k}') for k, m in BAD_ZIPS.items()]])
def test_malicious_archive(tmp_path, make, members):
    inside = tmp_path/'inside'
    inside.mkdir()
    archive = make(tmp_path/('a.zip' if make is make_zip else 'a.tgz'), members)
    with pytest.raises(DataError) as e, whole_dir(inside/'set') as t: data.unpack(archive, t, max_files=50)
    assert one_line(e) and archive.name in str(e.value)
    assert list(inside.iterdir()) == [] and {p.name for p in tmp_path.iterdir()} == {'inside', archive.name}


def test_header_bomb(tmp_path):
    m, _ = member('a')
    m.pax_headers = {'comment': 'x' * (30 << 20)}
    with tarfile.open(tmp_path/'a.tgz', 'w:gz', format=tarfile.PAX_FORMAT) as t: t.addfile(m)
    with pytest.raises(DataError, match='bomb'): data.unpack(tmp_path/'a.tgz', tmp_path)


def test_sparse_file_is_refused(tmp_path):
    m, _ = member('a', tarfile.GNUTYPE_SPARSE)
    make_tgz(tmp_path/'a.tgz', [(m, b'')])
    with pytest.raises(DataError): data.unpack(tmp_path/'a.tgz', tmp_path)


@pytest.mark.parametrize('suffix', ['.zip', '.tgz'])
@pytest.mark.parametrize('cut', [0, 10, 3000])
def test_truncated_archive(tmp_path, suffix, cut):
    whole = make_zip(tmp_path/'w.zip', [('a.png', os.urandom(9000))]) if suffix == '.zip' else \
        make_tgz(tmp_path/'w.tgz', [(member('a.png', size=9000)[0], os.urandom(9000))])
    bad = tmp_path/f'cut{suffix}'
    bad.write_bytes(whole.read_bytes()[:cut])
    with pytest.raises(DataError, match='damaged') as e, whole_dir(tmp_path/'out') as t: data.unpack(bad, t)
    assert one_line(e) and not (tmp_path/'out').exists()


def test_one_wrong_bit_is_found(tmp_path):
    path = make_zip(tmp_path/'a.zip', [('a.png', os.urandom(9000))])
    b = bytearray(path.read_bytes())
    b[5000] ^= 1
    path.write_bytes(b)
    with pytest.raises(DataError, match='damaged'), whole_dir(tmp_path/'out') as t: data.unpack(path, t)


@lasting
@given(st.text(max_size=30))
def test_no_name_leaves_the_folder(name):
    folder = Path('/base/set')
    try: p = data._safe_path(name, folder, 'a.zip')
    except DataError: return
    assert Path(os.path.normpath(p)).is_relative_to(folder)


# A data set that isn't one of ours, so that fetch can be tried without the real ones

@pytest.fixture
def toy(tmp_path, monkeypatch):
    share, mirror = tmp_path/'share', tmp_path/'mirror'
    share.mkdir(), mirror.mkdir()
    a = make_zip(mirror/'toy.zip', [(f'toy/{t}.png', png(seed=i)) for i, t in enumerate(('ab', 'ba', 'bb'))])
    known = {'name': 'toy.zip', 'root': 'toy', 'count': 3, 'url': None, 'page': None,
             'size': a.stat().st_size, 'sha256': sha256(a)}
    other = known | {'count': 4, 'page': 'https://example.org/toy', 'size': None, 'sha256': None}
    split = {'parts': [1/3]*3, 'stratify': False}
    entry = {'title': 'Toy', 'count': 3, 'label': 'text', 'split': split, 'sources': [known, other]}
    (share/'registry.json').write_text(core.json.dumps({'toy': entry}))
    (share/'splits').mkdir()
    monkeypatch.setattr(data, 'share_path', lambda *parts: share.joinpath(*parts))
    return mirror


def test_fetch_from_mirror_then_no_work(toy, tmp_path):
    root = data.fetch('toy', mirror=toy)
    assert [p.name for p in data.list_images(root)] == ['ab.png', 'ba.png', 'bb.png'] and root == data.data_root('toy')
    (toy/'toy.zip').unlink()
    assert data.fetch('toy', mirror=toy) == root
    assert [p.name for p in (tmp_path/'data').iterdir()] == ['toy']


def test_missing_says_how_to_get_it(toy, tmp_path):
    (toy/'toy.zip').unlink()
    for mirror in (toy, tmp_path/'nowhere', None):
        with pytest.raises(DataError) as e: data.fetch('toy', mirror=mirror)
        for word in ('toy.zip', 'CAPTCHA_LAB_MIRROR', 'https://example.org/toy'): assert word in str(e.value)
        assert one_line(e)
    assert not (tmp_path/'data').exists()


def test_wrong_checksum(toy, tmp_path):
    path = toy/'toy.zip'
    b = bytearray(path.read_bytes())
    b[-1] ^= 1
    path.write_bytes(b)
    with pytest.raises(DataError, match='checksum') as e: data.fetch('toy', mirror=toy)
    assert one_line(e) and path.exists() and not (tmp_path/'data').exists()


def test_other_source_of_the_same_name(toy):
    make_zip(toy/'toy.zip', [(f'toy/{t}.png', png(size=(30, 30))) for t in 'abcd'])
    assert len(data.list_images(data.fetch('toy', mirror=toy))) == 4


@pytest.mark.parametrize('folder, why', [('toy', 'holds 1 images'), ('fun', 'no folder toy')])
def test_wrong_content(toy, tmp_path, folder, why):
    make_zip(toy/'toy.zip', [(f'{folder}/a.png', b'x')])
    with pytest.raises(DataError, match=why): data.fetch('toy', mirror=toy)
    assert list((tmp_path/'data').iterdir()) == []


@pytest.mark.parametrize('stop, seen', [
    (KeyboardInterrupt(), KeyboardInterrupt), (OSError(28, 'No space left on device'), InputError)])
def test_stopped_extraction_leaves_nothing(toy, tmp_path, monkeypatch, stop, seen):
    real, n = data.shutil.copyfileobj, []
    def copy(*args):
        n.append(1)
        if len(n) == 2: raise stop
        return real(*args)
    monkeypatch.setattr(data.shutil, 'copyfileobj', copy)
    with pytest.raises(seen): data.fetch('toy', mirror=toy)
    assert list((tmp_path/'data').iterdir()) == []
    assert len(data.list_images(data.fetch('toy', mirror=toy))) == 3


@pytest.mark.skipif(sys.platform == 'win32', reason='Windows has no file size limits')
def test_really_full_disk_leaves_nothing(tmp_path):
    make_tgz(tmp_path/'a.tgz', [member('small', size=9), member('big', size=600_000)])
    code = f'''
        import resource
        from captcha_lab.core import InputError, whole_dir
        from captcha_lab.data import unpack
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            with whole_dir({str(tmp_path/'out')!r}) as t: unpack({str(tmp_path/'a.tgz')!r}, t)
        except InputError as e: print(e)'''
    r = subprocess.run([sys.executable, '-c', textwrap.dedent(code)], capture_output=True, text=True, cwd=ROOT)
    assert r.stdout.count('\n') == 1 and "can't write" in r.stdout, r.stderr
    assert [p.name for p in tmp_path.iterdir()] == ['a.tgz']


def test_real_interrupt(tmp_path):
    "Ctrl-C in the middle of an extraction: the process ends with the signal and its folder is gone"
    make_zip(tmp_path/'a.zip', [(f'{i}.png', b'x') for i in range(500)])
    code = f'''
        import signal, time
        from captcha_lab import data
        from captcha_lab.core import whole_dir
        signal.signal(signal.SIGINT, signal.default_int_handler) # a shell's background job would ignore it
        real = data.shutil.copyfileobj
        data.shutil.copyfileobj = lambda *args: (time.sleep(.02), real(*args))
        with whole_dir({str(tmp_path/'out')!r}) as t:
            print('go', flush=True)
            data.unpack({str(tmp_path/'a.zip')!r}, t)'''
    command = [sys.executable, '-c', textwrap.dedent(code)]
    p = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert p.stdout.readline() == 'go\n'
    time.sleep(.3)
    assert len(list(tmp_path.iterdir())) == 2
    p.send_signal(signal.SIGINT)
    assert 'KeyboardInterrupt' in p.communicate(timeout=20)[1]
    assert [f.name for f in tmp_path.iterdir()] == ['a.zip']


# Downloads, from a server on this machine

class Server(http.server.BaseHTTPRequestHandler):
    content, resumes, stop_at, asked = b'', True, None, []

    def do_GET(self):
        "Serve `content`, from where it's asked to if it `resumes`; break off at `stop_at`"
        start = self.headers.get('Range')
        self.asked.append(start)
        begin = int(start[6:-1]) if start and self.resumes else 0
        if begin >= len(self.content): return self.send_error(416)
        body = self.content[begin:]
        self.send_response(206 if begin else 200)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body[:self.stop_at])

    def log_message(self, *args): pass


@pytest.fixture
def server():
    class Mine(Server): content, asked = os.urandom(300_000), []
    s = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Mine)
    threading.Thread(target=s.serve_forever, args=(.01,), daemon=True).start()
    Mine.source = {'name': 'a.zip', 'url': f'http://127.0.0.1:{s.server_port}/a.zip', 'size': len(Mine.content),
                   'sha256': core.hashlib.sha256(Mine.content).hexdigest()}
    yield Mine
    s.shutdown(), s.server_close()


@pytest.mark.parametrize('resumes', [True, False])
def test_broken_download_goes_on(server, tmp_path, resumes):
    server.resumes, server.stop_at = resumes, 200_000
    with pytest.raises(DataError, match="can't download") as e: data.download(server.source, tmp_path)
    assert one_line(e) and [p.name for p in tmp_path.iterdir()] == ['a.zip.part']
    n = (tmp_path/'a.zip.part').stat().st_size
    assert 0 < n <= 200_000
    server.stop_at = None
    assert data.download(server.source, tmp_path).read_bytes() == server.content
    assert server.asked == [None, f'bytes={n}-'] and [p.name for p in tmp_path.iterdir()] == ['a.zip']


@pytest.mark.parametrize('wrong', [{'size': 9}, {'sha256': '0'*64}])
def test_wrong_download_is_not_kept(server, tmp_path, wrong):
    with pytest.raises(DataError) as e: data.download(server.source | wrong, tmp_path)
    assert one_line(e) and list(tmp_path.iterdir()) == []


def test_part_that_is_too_long(server, tmp_path):
    (tmp_path/'a.zip.part').write_bytes(bytes(400_000))
    with pytest.raises(DataError, match='416'): data.download(server.source, tmp_path)
    assert data.download(server.source, tmp_path).read_bytes() == server.content


def test_download_to_a_full_disk(server, tmp_path, monkeypatch):
    def full(*args): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(data, '_stream', full)
    with pytest.raises(InputError, match='No space left') as e: data.download(server.source, tmp_path)
    assert one_line(e)


def test_fetch_downloads_what_the_mirror_lacks(toy, server, tmp_path):
    server.content = (toy/'toy.zip').read_bytes()
    (toy/'toy.zip').unlink()
    known = data.registry()
    known['toy']['sources'][0]['url'] = server.source['url']
    data.share_path('registry.json').write_text(core.json.dumps(known))
    with pytest.raises(DataError, match='not here'): data.fetch('toy', mirror=toy, allow_download=False)
    assert server.asked == []
    assert len(data.list_images(data.fetch('toy', mirror=toy))) == 3 and len(server.asked) == 1


# Images

def save_kinds(folder):
    "One good picture in every mode and format that people have"
    g = picture()
    film = [picture(seed=i) for i in range(3)]
    deep = Image.fromarray(np.asarray(g).astype(np.uint16) * 257)
    long = Image.fromarray(np.asarray(g).astype(np.int32))
    frames = {'save_all': True, 'append_images': film[1:]}
    for name, im, kw in [
            ('grey.png', g, {}), ('grey.ppm', g, {}), ('grey.bmp', g, {}), ('one_bit.png', g.convert('1'), {}),
            ('rgb.webp', g.convert('RGB'), {'lossless': True}), ('rgba.png', g.convert('RGBA'), {}),
            ('la.png', g.convert('LA'), {}), ('palette.png', g.convert('P'), {}),
            ('clear.png', g.convert('P'), {'transparency': 0}), ('deep.png', deep, {}), ('deep.tif', deep, {}),
            ('long.tif', long, {}), ('cmyk.jpg', g.convert('CMYK'), {}), ('cmyk.tif', g.convert('CMYK'), {}),
            ('film.gif', film[0], frames), ('film.png', film[0], frames)]: im.save(folder/name, **kw)
    return g


def save_bad(folder):
    "One of every kind that can't be used; name -> words of the message"
    whole = png()
    (folder/'empty.png').touch()
    (folder/'words.png').write_text('<html>404</html>')
    (folder/'header.png').write_bytes(whole[:20])
    (folder/'cut.png').write_bytes(whole[:len(whole)//2])
    picture(size=(200, 200)).save(folder/'cut.jpg')
    (folder/'cut.jpg').write_bytes((folder/'cut.jpg').read_bytes()[:5000])
    picture(size=(1, 1)).save(folder/'dot.png')
    picture(size=(20_000, 50)).save(folder/'tape.png')
    header = whole[12:16] + (60_000).to_bytes(4, 'big')*2 + whole[24:29] # claims 60,000 x 60,000 pixels
    (folder/'bomb.png').write_bytes(whole[:12] + header + data.zlib.crc32(header).to_bytes(4, 'big') + whole[33:])
    (folder/'vector.png').write_text('%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 60 20\n')
    return {'empty.png': 'empty', 'words.png': 'not an image', 'header.png': 'cut off', 'cut.png': 'cut off',
            'cut.jpg': 'cut off', 'dot.png': 'too small', 'tape.png': 'too large', 'bomb.png': 'too large',
            'vector.png': 'not an image'}


def test_every_kind_of_good_image(tmp_path, recwarn):
    want = np.asarray(save_kinds(tmp_path)).astype(int)
    for p in data.list_images(tmp_path):
        x = data.open_image(p)
        assert x.dtype == np.uint8 and x.shape == want.shape, p
        tolerance = {'one_bit.png': 255, 'clear.png': 255, 'cmyk.jpg': 60}.get(p.name, 2)
        assert np.abs(x - want).max() <= tolerance, p
        assert data.open_image(p, 'RGB').shape == (*want.shape, 3)
    assert data.verify(tmp_path) == [] and not recwarn.list


@pytest.mark.parametrize('turn', range(1, 9))
def test_exif_orientation(tmp_path, turn):
    exif = Image.Exif()
    exif[0x0112] = turn
    picture().save(tmp_path/'a.png', exif=exif)
    assert data.open_image(tmp_path/'a.png').shape == ((20, 60) if turn < 5 else (60, 20))


def test_damaged_exif_is_ignored(tmp_path, recwarn):
    picture().save(tmp_path/'a.jpg', exif=b'Exif\0\0MM\0*\0\0\0\x08\xff\xff' + bytes(range(40)))
    assert data.open_image(tmp_path/'a.jpg').shape == (20, 60) and not recwarn.list


def test_every_kind_of_bad_image(tmp_path, recwarn):
    bad = save_bad(tmp_path)
    for name, why in bad.items():
        with pytest.raises(InputError, match=why) as e: data.open_image(tmp_path/name)
        assert one_line(e) and name in str(e.value)
    others = ((tmp_path/'none.png', 'no such file'), (tmp_path, 'folder'), ('a\0b.png', "can't"), ('x'*300, "can't"))
    for path, why in others:
        with pytest.raises(InputError, match=why) as e: data.open_image(path)
        assert one_line(e)
    assert not recwarn.list


def test_mixed_folder_loses_nothing(tmp_path):
    save_kinds(tmp_path)
    bad = save_bad(tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    assert [r['file'] for r in data.verify(tmp_path)] == sorted(bad)
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before
    assert len(data.audit(tmp_path)) == len(before)


@lasting
@given(st.binary(max_size=200), st.integers(0, 200))
def test_damage_anywhere_is_one_clear_line(tmp_path_factory, noise, at):
    path = tmp_path_factory.getbasetemp()/'damaged.png'
    whole = png()
    path.write_bytes(whole[:at] + noise + whole[at + len(noise):])
    try: assert data.open_image(path).dtype == np.uint8
    except InputError as e: assert '\n' not in str(e)


# Manifests

def test_text_manifest(tmp_path):
    for name in ('ab', 'ab_2', 'ba'): picture().save(tmp_path/f'{name}.png')
    rows = data.text_manifest(tmp_path, 'ab')
    assert rows.label.tolist() == ['ab', 'ab', 'ba']
    assert set(rows.width) == {60} and set(rows.height) == {20}
    picture().save(tmp_path/'aX.png')
    with pytest.raises(InputError, match="'X'.*aX.png") as e: data.text_manifest(tmp_path, 'ab')
    assert one_line(e)
    (tmp_path/'aX.png').unlink()
    (tmp_path/'sub').mkdir()
    picture(seed=1).save(tmp_path/'sub/ab.png')
    with pytest.raises(InputError, match='same name'): data.text_manifest(tmp_path)


def test_text_manifest_of_bad_images(tmp_path):
    with pytest.raises(InputError, match='no images'): data.text_manifest(tmp_path)
    picture().save(tmp_path/'ab.png')
    bad = save_bad(tmp_path)
    with pytest.raises(InputError, match='data verify') as e: data.text_manifest(tmp_path)
    assert one_line(e)
    assert data.text_manifest(tmp_path, skip_bad=True).file.tolist() == ['ab.png']
    assert len(list(tmp_path.iterdir())) == 1 + len(bad)


def test_numbers_stay_texts(tmp_path):
    texts = ['22222', '2e5', '007', 'nan']
    rows = pd.DataFrame({'file': [f'{t}.png' for t in texts], 'label': texts, 'group': range(4)})
    data.make_splits(rows, (1/3, 1/3, 1/3), folds=2, stratify=False).to_csv(tmp_path/'a.csv', index=False)
    assert set(data.load_split(tmp_path/'a.csv').label) == set(rows.label)


# Duplicates

def test_audit_is_quick_and_exact():
    "10,000 random images with 20 noisy copies: all found, nothing else"
    rng = np.random.default_rng(0)
    x = rng.standard_normal((10_000, 32, 32), dtype=np.float32)
    x[5000:5020] = x[:20] + .05 * rng.standard_normal((20, 32, 32), dtype=np.float32)
    x -= x.mean((1, 2), keepdims=True)
    x /= x.std((1, 2), keepdims=True)
    begin = time.time()
    assert data.near_pairs(x) == [(i, i + 5000) for i in range(20)]
    assert time.time() - begin < 10


def test_flat_images_are_only_paired_by_checksum(tmp_path):
    for i, level in enumerate((255, 255, 254, 0)): Image.new('L', (60, 20), level).save(tmp_path/f'{i}.png')
    assert data.audit(tmp_path).group.tolist() == [0, 0, 1, 2]


# Splits

def table(classes, sizes):
    groups = np.repeat(np.arange(len(sizes)), sizes)
    files = [f'{i}.png' for i in range(len(groups))]
    return pd.DataFrame({'file': files, 'label': [f'c{g % classes}' for g in groups], 'group': groups})


@lasting
@given(st.lists(st.integers(1, 6), min_size=60, max_size=200), st.integers(1, 3), st.integers(0, 9))
def test_splits_keep_groups_and_sizes(sizes, classes, seed):
    rows = table(classes, sizes)
    out = data.make_splits(rows, seed=seed)
    counted = data.check_split(out)
    assert counted['n'] == len(rows) and counted['groups'] == len(sizes)
    slack = 6 * classes + 1 # one group a class
    assert max(counted['fold'].values()) - min(counted['fold'].values()) <= 2 * slack
    for part, share in zip(('train', 'valid', 'test'), (.7, .15, .15)):
        assert abs(counted['split'][part] - share*len(rows)) <= slack


def test_splits_do_not_depend_on_the_machine():
    out = data.make_splits(table(2, [1]*20))
    assert (''.join(out.split.str[1]), ''.join(map(str, out.fold))) == ('arrerarrrrrerrerrrar', '10230430044112422133')


CORRUPT = {
    'leak': lambda r: r.assign(group=0), 'twice': lambda r: pd.concat([r, r[:1]]),
    'column': lambda r: r.drop(columns='group'), 'parts': lambda r: r.assign(split='train'),
    'folds': lambda r: r.assign(fold=r.fold + 1), 'missing': lambda r: r.assign(label=''), 'parts are': lambda r: r[:0]}


@pytest.mark.parametrize('why', CORRUPT)
def test_corrupt_split_is_refused(tmp_path, why):
    CORRUPT[why](data.load_split('captcha_v2')).to_csv(tmp_path/'a.csv', index=False)
    with pytest.raises(DataError, match=why) as e: data.load_split(tmp_path/'a.csv')
    assert one_line(e) and 'a.csv' in str(e.value)


def test_one_moved_duplicate_is_a_leak(tmp_path):
    rows = data.load_split('tiles')
    i = rows.index[rows.group.duplicated()][0]
    rows.loc[i, 'fold'] = (rows.fold[i] + 1) % 5
    rows.to_csv(tmp_path/'a.csv', index=False)
    with pytest.raises(DataError, match='leak'): data.load_split(tmp_path/'a.csv')


@pytest.mark.parametrize('content', [b'', b'\x89PNG\r\n\x1a\n\xff\xfe', b'"', b'a,b\n1,2,3\n4'])
def test_split_that_is_no_table(tmp_path, content):
    (tmp_path/'a.csv').write_bytes(content)
    with pytest.raises(DataError): data.load_split(tmp_path/'a.csv')


@pytest.mark.parametrize('id', IDS)
def test_committed_split(id):
    entry, rows = data.registry(id), data.load_split(id)
    counted = data.check_split(rows, text=entry['label'] == 'text')
    assert counted['n'] == entry['count'] and counted['missing'] == {'test': [], 'train': [], 'valid': []}
    assert rows.file.is_monotonic_increasing
    assert rows.label.tolist() == [data.file_label(f, entry['label']) for f in rows.file]
    assert max(counted['fold'].values()) - min(counted['fold'].values()) <= 1
    for part, share in zip(('train', 'valid', 'test'), entry['split']['parts']):
        assert abs(counted['split'][part] - share*len(rows)) <= 4
    assert rows.equals(data.make_splits(rows, **entry['split']))
    if entry['alphabet']: assert set(''.join(rows.label)) == set(entry['alphabet'])


def test_registry_is_complete():
    for id, entry in data.registry().items():
        assert {'title', 'task', 'card', 'licence', 'count', 'label', 'alphabet', 'split', 'sources'} == set(entry), id
        for s in entry['sources']: assert {'name', 'root', 'count', 'url', 'page', 'size', 'sha256'} == set(s), id
        assert (core.share_path('splits', f'{id}.csv').exists()) == bool(entry['split'])


def test_write_splits(toy, tmp_path):
    data.fetch('toy', mirror=toy)
    path = data.write_splits('toy')
    first, root = path.read_bytes(), data.data_root('toy')
    assert len(data.load_split(path, root)) == 3
    with pytest.raises(InputError, match='already exists'): data.write_splits('toy')
    assert data.write_splits('toy', force=True).read_bytes() == first
    (root/'ab.png').rename(root/'ab.jpg') # another source, another suffix
    assert 'ab.jpg' in set(data.load_split(path, root).file)
    (root/'ab.jpg').unlink()
    with pytest.raises(DataError, match='1 images of the split are missing, like ab'): data.load_split(path, root)
    with pytest.raises(DataError, match='fixed split'): data.write_splits('toy', force=True)
    assert path.read_bytes() == first


@needs_mirror
def test_real_captcha_v2(tmp_path):
    root = data.fetch('captcha_v2', mirror=MIRROR)
    assert len(data.text_manifest(root, data.registry('captcha_v2')['alphabet'])) == 900 and data.verify(root) == []
    made, kept = data.write_splits('captcha_v2', out=tmp_path/'a.csv'), core.share_path('splits', 'captcha_v2.csv')
    assert made.read_bytes() == kept.read_bytes()


def test_import_is_light():
    code = '''
        import sys
        import captcha_lab.data
        print(sorted({'torch', 'fastai', 'pandas', 'pooch', 'requests', 'scipy'} & set(sys.modules)))'''
    r = subprocess.run([sys.executable, '-c', textwrap.dedent(code)], capture_output=True, text=True, cwd=ROOT)
    assert r.stdout == '[]\n', r.stderr
