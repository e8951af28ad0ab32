"Letters: cutting folders without losing or leaking an image, training on what was cut, reading words, and looking inside"
import csv
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch

from captcha_lab.core import DataError, InputError
from captcha_lab.cutting import class_folder, cut_samples, load_letters, save_letters
from captcha_lab.letters import letter_dls, letter_learner, letter_logp, letter_maps, show_filters, show_maps, train_letters
from captcha_lab.render import Renderer, save_rendered
from captcha_lab.split import Splitter
from captcha_lab.words import join_letters, letters_report, read_words

ALPHABET = 'ACEGHKMNRT'
SPLITTER = Splitter()
BLANK = np.full((150, 300), 255, np.uint8)


def write(path, image): path.write_bytes(cv2.imencode('.png', image)[1].tobytes())
def rows_of(path): return list(csv.DictReader(open(path, newline='', encoding='utf-8')))
def hooks(net): return sum(len(m._forward_hooks) for m in net.modules())


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    "60 rendered images of both cases, a blank one, a damaged one, a wrong text, a copy under another name, and a subfolder"
    folder = tmp_path_factory.mktemp('made')/'images'
    save_rendered(Renderer(level=0, alphabet='ABEabe', seed=4), 60, folder)
    first = sorted(folder.glob('*.png'))[0]
    shutil.copy(first, folder/f'{first.stem}_99.png')
    write(folder/'AB.png', BLANK)
    (folder/'BA.png').write_bytes(b'not a picture')
    write(folder/'A.png', Renderer(level=0, seed=4)[0].image)
    (folder/'more').mkdir()
    shutil.copy(sorted(folder.glob('*.png'))[9], folder/'more'/sorted(folder.glob('*.png'))[9].name)
    return folder


@pytest.fixture(scope='module')
def cut(images):
    "The folder of letters cut from them, and the counts"
    out = images.parent/'letters'
    return out, save_letters(images, out, SPLITTER)


@pytest.fixture
def copy(cut, tmp_path):
    "A folder of letters that a test may spoil"
    return shutil.copytree(cut[0], tmp_path/'copy')


@pytest.fixture(scope='module')
def reader():
    "A network trained on the letters of 240 images, with the images it was trained on"
    r = Renderer(level=0, alphabet=ALPHABET, seed=5)
    letters, groups, uncut = cut_samples(r[:240], SPLITTER)
    parts = [[o for o, g in zip(letters, groups) if (g >= 200) == later] for later in (False, True)]
    return (*train_letters(*parts, r.alphabet, epochs=8, half=False), r)


# ---- in memory

def test_groups_tell_the_image():
    samples = [*Renderer(level=0, seed=1)[:4], (BLANK, 'AB'), *Renderer(level=0, seed=2)[:4]]
    letters, groups, uncut = cut_samples(samples, SPLITTER)
    assert [o['sample'] for o in uncut] == [4]
    for k, s in enumerate(samples):
        assert ''.join(letters[i][1] for i in np.flatnonzero(groups == k)) == ('' if k == 4 else s[1])
    assert (np.diff(groups) >= 0).all() and len(groups) == len(letters)


def test_files_are_read_like_arrays(tmp_path):
    r = Renderer(level=0, seed=1)
    for k in range(3): write(tmp_path/f'{k}.png', r[k].image)
    from_files = cut_samples([(tmp_path/f'{k}.png', r[k].text) for k in range(3)], SPLITTER, size=20)[0]
    from_arrays = cut_samples(r[:3], SPLITTER, size=20)[0]
    assert all(np.array_equal(a[0], b[0]) and a[1] == b[1] for a, b in zip(from_files, from_arrays))


# ---- folders

def test_no_image_is_lost(images, cut):
    out, counts = cut
    files = {p.relative_to(images).as_posix() for p in images.rglob('*.png')}
    cut_files, uncut = {r['image'] for r in rows_of(out/'manifest.csv')}, rows_of(out/'uncut.csv')
    assert cut_files | {r['image'] for r in uncut} == files and not cut_files & {r['image'] for r in uncut}
    assert counts['images'] == len(files) == counts['train'] + counts['valid'] + counts['test']
    assert {r['image'] for r in uncut} == {'A.png', 'AB.png', 'BA.png'} and all(r['reason'] and r['part'] for r in uncut)
    for r in uncut: assert (out/'uncut'/r['image']).read_bytes() == (images/r['image']).read_bytes()


def test_parts_share_no_image(images, cut):
    rows = load_letters(cut[0])
    assert (rows.groupby('image').part.nunique() == 1).all()
    part = dict(zip(rows.image, rows.part))
    same = {}
    for name in part: same.setdefault((images/name).read_bytes(), []).append(name)
    twins = [names for names in same.values() if len(names) > 1]
    assert len(twins) >= 2  # the copy, and the one in the subfolder
    assert all(len({part[n] for n in names}) == 1 for names in twins)


def test_both_cases_have_their_own_folders(cut):
    rows = load_letters(cut[0])
    assert {p.name for p in (cut[0]/'letters').iterdir()} == {'A', 'B', 'E', 'a_', 'b_', 'e_'}
    assert all(f'/{class_folder(c, "ABEabe")}/' in f.replace('\\', '/') for f, c in zip(rows.file, rows.label))
    assert len({f.casefold() for f in rows.file}) == len(rows)  # also where the file system ignores case


def test_seed_decides_the_parts(images, cut, tmp_path):
    save_letters(images, tmp_path/'same', SPLITTER)
    save_letters(images, tmp_path/'other', SPLITTER, seed=1)
    text = lambda d: (d/'manifest.csv').read_text(encoding='utf-8')
    assert text(cut[0]) == text(tmp_path/'same') != text(tmp_path/'other')


def test_an_interrupted_cut_leaves_nothing(images, tmp_path):
    calls = []
    def fails(image):
        calls.append(1)
        if len(calls) > 5: raise KeyboardInterrupt
        return SPLITTER(image)
    with pytest.raises(KeyboardInterrupt): save_letters(images, tmp_path/'out', fails)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('change, what', [
    (lambda t: '', 'not a manifest'),
    (lambda t: t.replace('label', 'lebal', 1), 'not a manifest'),
    (lambda t: t.split('\n')[0], 'without letters'),
    (lambda t: t.replace(',train', ',', 1), 'unknown part'),
    (lambda t: t.replace('letters/', '../', 1), 'not the name of a letter'),
    (lambda t: t.replace('letters/', '/letters/', 1), 'not the name of a letter'),
    (lambda t: t.replace(',train\n', ',test\n', 1), 'more than one part'),
    (lambda t: t + 'letters/A/none.png,A,none.png,0,0,0,9,9,one contour,test\n', '1 of'),
    (lambda t: t + 'letters/A/none.png,A,none.png,zero,0,0,9,9,one contour,test\n', 'not a number'),
    (lambda t: t + '"letters', ''),
], ids=['empty', 'columns', 'no rows', 'part', 'outside', 'absolute', 'two parts', 'missing', 'number', 'cut off'])
def test_damage_gives_one_line(copy, change, what):
    path = copy/'manifest.csv'
    path.write_text(change(path.read_text(encoding='utf-8')), encoding='utf-8')
    with pytest.raises(DataError) as e: load_letters(copy)
    assert what in e.value.what and '\n' not in str(e.value) and 'manifest.csv' in str(e.value)


def test_letters_from_files_train_like_arrays(cut):
    rows = load_letters(cut[0])
    parts = [list(zip(rows.file[rows.part == p], rows.label[rows.part == p])) for p in ('train', 'valid')]
    x, y = letter_dls(*parts, 'ABEabe', augment=0).valid.one_batch()
    first = cv2.imread(parts[1][0][0], cv2.IMREAD_GRAYSCALE)
    assert np.allclose(x[0, 0].numpy(), (first/255 - .5)/.25, atol=1e-4)
    assert [dict(enumerate('ABEabe'))[i] for i in y.tolist()] == [c for _, c in parts[1]][:len(y)]


# ---- training and reading

def test_a_small_training_reaches_a_floor(reader):
    learn, history, r = reader
    fresh = r[1000:1100]
    read = read_words([s.image for s in fresh], lambda o: letter_logp(learn, o), r.alphabet, SPLITTER)
    report = letters_report(read, [s.text for s in fresh], [s.boxes for s in fresh], pad=5)
    assert history[-1]['accuracy'] > .97
    assert report['exact_match']['value'] >= .9 and report['cut_iou']['value'] >= .97
    assert report['product'] == pytest.approx(report['exact_match']['value'])


def test_reading_is_free_of_chance(reader):
    "Neither dropout nor augmentation, whatever the learner did before"
    learn, _, r = reader
    crops = np.stack([o for o, _ in cut_samples(r[:5], SPLITTER)[0]])
    before = letter_logp(learn, crops)
    learn.dls.train.one_batch()
    learn.model.train()
    assert np.array_equal(letter_logp(learn, crops), before)
    assert learn.model.training


def test_hooks_are_freed(reader):
    learn, _, r = reader
    crop = cut_samples(r[:1], SPLITTER)[0][0][0]
    for _ in range(5): letter_maps(learn, crop)
    import matplotlib.pyplot as plt
    for draw in (lambda: show_filters(learn), lambda: show_maps(learn, crop, layer=1)):
        assert len(draw()) in (16, 32)
        plt.close('all')
    with pytest.raises(InputError): letter_maps(learn, crop[:10, :10])
    assert hooks(learn.model) == 0


def test_resume(tmp_path, reader):
    "A run that was cut off ends like one that wasn't"
    r = reader[2]
    letters = cut_samples(r[:20], SPLITTER)[0]
    options = dict(bs=32, half=False, arch=dict(channels=(4, 8), hidden=16))
    whole, _ = train_letters(letters, letters, r.alphabet, epochs=3, folder=tmp_path/'a', **options)
    again, _ = train_letters(letters, letters, r.alphabet, epochs=3, folder=tmp_path/'a', resume=True, **options)
    assert all(torch.equal(a, b) for a, b in zip(whole.model.state_dict().values(), again.model.state_dict().values()))


def test_letters_of_another_size(reader):
    r = reader[2]
    letters = cut_samples(r[:10], SPLITTER, size=20)[0]
    learn = letter_learner(letter_dls(letters, letters, r.alphabet))
    assert learn.model.size == 20
    with pytest.raises(InputError, match='takes'): letter_logp(learn, np.zeros((2, 28, 28), np.uint8))


# ---- texts that keep to one alphabet

def test_the_neighbours_decide_the_case():
    "o and O look the same; the other letters of the word know"
    alphabet, cases = 'ROGrog', ['ROG', 'rog']
    p = np.full((3, 6), .001)
    p[0, [1, 4]] = .51, .45  # looks a little more like O than o
    p[1, 3] = p[2, 5] = .9
    assert join_letters(np.log(p), alphabet)[0] == 'Org'
    text, conf = join_letters(np.log(p), alphabet, cases)
    assert text == 'org' and .9 < conf < 1


@pytest.mark.parametrize('shape', [(8, 8), (1, 1), (2000, 30), (30, 2000)])
@pytest.mark.parametrize('grey', [0, 128, 255, None])
def test_odd_images_get_a_row(reader, shape, grey):
    learn, _, r = reader
    noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    image = noise if grey is None else np.full(shape, grey, np.uint8)
    row, = read_words([image], lambda o: letter_logp(learn, o), r.alphabet, SPLITTER)
    assert 0 <= row['confidence'] <= 1 and len(row['text']) == len(row['boxes'])
    assert 'reason' in row or row['boxes']


# ---- fastai imported by a reader

def test_results_are_drawn_whatever_is_imported_later():
    "All of fastai's vision after our module of text: its `show_results` for pictures must not be taken for ours"
    program = '''if True:
        import captcha_lab.text
        from fastai.vision.all import plt
        from captcha_lab.ctc import ctc_learner
        from captcha_lab.render import Renderer
        from captcha_lab.text import text_dls
        samples = [(s.image, s.text) for s in Renderer(level=1, alphabet='ABC', seed=1)[:8]]
        learn = ctc_learner(text_dls(samples, samples[:4], 'ABC', bs=4, device='cpu'))
        with learn.no_bar(): learn.show_results(max_n=4)
        titles = [ax.get_title() for ax in plt.gcf().axes]
        assert sorted(t.split()[-1] for t in titles) == sorted(t for _, t in samples[:4]), titles
        assert any(', not ' in t for t in titles), titles # an untrained network'''
    p = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True)
    assert p.returncode == 0, p.stderr
