"Tiles and grids: what is in the folder, who says so, what a screenshot is cut into, and a clear line for everything else"
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.core import Callback
from fastai.callback.progress import ProgressCallback
from fastai.data.transforms import RandomSplitter, get_image_files, parent_label
from fastai.vision.augment import RandomResizedCrop
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from captcha_lab.core import DataError, InputError, share_path
from captcha_lab.data import load_split
from captcha_lab.grid import cut_grid, draw_grid, grid_boxes, read_grid
from captcha_lab.losses import LOSSES, OTHERS, stack_targets
from captcha_lab.tile_table import TILE_CLASSES, balanced_rows, open_tile, read_corrections, tile_rows, tile_targets, trimmed_rows
from captcha_lab.tiles import PseudoNegatives, cached_heads, class_priors, tile_block, tile_probs, tiles_learner, top1_seen, train_tiles

NAMES = ('Bus', 'Car', 'Other')


def picture(seed, side=36): return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


@pytest.fixture
def street(tmp_path):
    "12 tiles of each of three classes"
    for k, label in enumerate(NAMES):
        (tmp_path/'street'/label).mkdir(parents=True)
        for i in range(12): Image.fromarray(picture(100*k + i)).save(tmp_path/'street'/label/f'{label} ({i + 1}).png')
    return tmp_path/'street'


@pytest.fixture
def rows(street): return tile_rows(street, classes=NAMES)


def one_line(error, *words):
    "The message of an error of ours is one line, and names what it is about"
    text = str(error.value)
    assert '\n' not in text and all(w in text for w in words), text


def table(folder, text, head='file,labels,unsure'):
    path = folder/'labels.csv'
    path.write_text(f'{head}\n{text}\n')
    return path


# ---- single pictures

@pytest.mark.parametrize('mode', ['L', 'LA', 'RGBA', 'P', '1', 'CMYK', 'I;16'])
def test_tiles_of_any_kind(tmp_path, mode):
    im = Image.fromarray(picture(0)).convert('L').convert('I') if mode == 'I;16' else Image.fromarray(picture(0))
    path = tmp_path/f'a.{"tif" if mode == "CMYK" else "png"}'
    im.convert(mode).save(path)
    x = open_tile(path)
    assert x.shape == (36, 36, 3) and x.dtype == np.uint8


@pytest.mark.parametrize('size', [(16, 16), (30, 100), (5000, 16)])
def test_tiles_of_any_shape(tmp_path, size):
    Image.new('RGB', size, 'red').save(tmp_path/'a.png')
    assert open_tile(tmp_path/'a.png').shape == (*size[::-1], 3)


@pytest.mark.parametrize('damage, words', [
    (lambda p: Image.new('RGB', (10, 10)).save(p), 'too small (10x10)'), (lambda p: Image.new('1', (20000, 20)).save(p), 'too large'),
    (lambda p: p.write_bytes(b''), 'empty'), (lambda p: p.write_text('no picture'), 'not an image'), (lambda p: p.mkdir(), 'folder'),
    (lambda p: (Image.fromarray(picture(0)).save(p), p.write_bytes(p.read_bytes()[:900])), 'cut off'), (lambda p: None, 'no such file')])
def test_bad_tile(tmp_path, damage, words):
    path = tmp_path/'a.png'
    damage(path)
    with pytest.raises(InputError) as e: open_tile(path)
    one_line(e, words, 'a.png')


def test_a_bad_tile_in_training_is_named(street, rows):
    path = street/'Bus'/'Bus (3).png'
    path.write_bytes(path.read_bytes()[:700])
    rows.loc[rows.path == str(path), 'part'] = 'train'
    dls = tile_block(size=32, classes=NAMES).dataloaders(rows, bs=8, device='cpu')
    with pytest.raises(InputError) as e: dls.train.load()
    one_line(e, 'cut off', 'Bus (3).png')


# ---- folders

@pytest.mark.parametrize('change, words', [
    (lambda d: (d/'Car2').mkdir(), ('no image', 'Car2')), (lambda d: (d/'Car').rename(d/'Train'), ("'Train' is not a class", 'Known: Bus')),
    (lambda d: ((d/'Car2').mkdir(), (d/'Bus'/'Bus (1).png').rename(d/'Car2'/'a.png')), ("'Car2' is not a class",)),
    (lambda d: [p.unlink() for p in sorted((d/'Car').iterdir())[1:]], ('one image', 'Car')),
    (lambda d: [p.unlink() for p in (d/'Car').iterdir()], ('no image', 'Car')),
    (lambda d: (d/'Car'/'Car (1).png').rename(d/'Car (1).png'), ('outside class folders',)),
    (lambda d: [p.unlink() for p in d.rglob('*.png')], ('no images',))])
def test_bad_folder(street, change, words):
    change(street)
    with pytest.raises(InputError) as e: tile_rows(street, classes=NAMES)
    one_line(e, *words)


def test_no_folder(tmp_path):
    with pytest.raises(InputError, match='no such folder'): tile_rows(tmp_path/'none')


def test_any_folder(street, rows):
    "Nested, with other names; duplicates stay together, whatever they're filed under; the same each time"
    (street/'Bus').rename(street/'Tram')
    (street.parent/'deep').mkdir()
    street.rename(street.parent/'deep'/'Large')
    Image.fromarray(picture(100)).save(street.parent/'deep'/'Large'/'Other'/'copy.png') # that of a car
    found = tile_rows(street.parent/'deep', classes=None)
    assert set(found.label) == {'Tram', 'Car', 'Other'} and found.file[0].startswith('Large/')
    same = found[found.group == found.group[found.file.str.endswith('copy.png')].item()]
    assert len(same) == 2 and same.part.nunique() == 1
    pd.testing.assert_frame_equal(found, tile_rows(street.parent/'deep', classes=None))
    assert (tile_rows(street.parent/'deep', classes=None, seed=1).part != found.part).any()


def test_committed_split(street, rows, tmp_path):
    split = rows.assign(split=rows.part)[['file', 'label', 'group', 'split', 'fold']]
    split.to_csv(tmp_path/'mine.csv', index=False)
    pd.testing.assert_frame_equal(tile_rows(street, tmp_path/'mine.csv', classes=NAMES), rows)
    with pytest.raises(InputError, match="'Bus' is not a class"): tile_rows(street, tmp_path/'mine.csv', classes=NAMES[1:])
    (street/'Bus'/'Bus (1).png').unlink()
    with pytest.raises(DataError) as e: tile_rows(street, tmp_path/'mine.csv', classes=NAMES)
    one_line(e, 'missing', 'Bus (1).png')


# ---- corrections

@pytest.mark.parametrize('text, words', [
    ('Bus/Bus (1).png,Bus|Tram,', ('line 2', "unknown class 'Tram'", 'Known: Bus, Car, Other')),
    ('Bus/Bus (1).png,Bus,Lorry', ('line 2', "'Lorry'")), ('Bus/Bus (1).png,Bus,\nBus/Bus (1).png,Car,', ('line 3', 'listed twice')),
    ('Bus/Bus (1).png,Bus,\nBus/Bus (77).png,Car,', ('1 tiles', 'Bus (77).png')), ('Bus/Bus (1).png,,', ('line 2', 'no label')),
    ('Bus/Bus (1).png,Bus|Other,', ('line 2', 'Other together')), ('Bus/Bus (1).png,Bus,Bus', ('both seen and unsure',))])
def test_bad_corrections(street, text, words):
    with pytest.raises(InputError) as e: tile_rows(street, corrections=table(street.parent, text), classes=NAMES)
    one_line(e, 'labels.csv', *words)


@pytest.mark.parametrize('raw', [b'', b'\x89PNG\xff\xfe\x00', b'file\na.png', b'labels\nBus', b'a,b\n1,2,3,4\n5,6,7,8,9'])
def test_no_table(tmp_path, raw):
    (tmp_path/'labels.csv').write_bytes(raw)
    with pytest.raises(InputError) as e: read_corrections(tmp_path/'labels.csv')
    one_line(e, 'labels.csv')
    with pytest.raises(InputError): read_corrections(tmp_path)


def test_corrections_change_labels_and_nothing_else(street, rows):
    found = tile_rows(street, corrections=table(street.parent, 'Bus/Bus (2).jpg,Bus|Car\nOther/Other (1).png,Car', 'file,labels'), classes=NAMES)
    assert found[found.checked].labels.tolist() == ['Bus|Car', 'Car'] and found[found.checked].label.tolist() == ['Bus', 'Other']
    same = ['file', 'path', 'label', 'part', 'fold', 'group']
    pd.testing.assert_frame_equal(found[same], rows[same])
    pd.testing.assert_frame_equal(found[~found.checked], rows[~found.checked])


def test_corrections_go_to_the_file_they_name(street):
    "Two files of one name but for the suffix; then one alone, named by another suffix, or by both"
    Image.fromarray(picture(7)).save(street/'Bus'/'Bus (1).jpg')
    found = tile_rows(street, corrections=table(street.parent, 'Bus/Bus (1).jpg,Car,\nBus/Bus (1).png,Bus|Car,\nBus/Bus (2).jpg,Bus,Car'), classes=NAMES)
    found = found[found.checked].set_index('file')
    assert found.labels.to_dict() == {'Bus/Bus (1).jpg': 'Car', 'Bus/Bus (1).png': 'Bus|Car', 'Bus/Bus (2).png': 'Bus'}
    assert found.unsure['Bus/Bus (2).png'] == 'Car'


@pytest.mark.parametrize('text, words', [('Bus/Bus (1).png,Bus,\nBus/Bus (1).jpg,Car,', ('line 3: Bus/Bus (1).png is listed twice', 'line 2')),
                                         ('Bus/Bus (2).gif,Bus,', ('1 tiles', 'Bus (2).gif')), ('', ('without corrections',))])
def test_corrections_that_name_no_one_file(street, text, words):
    Image.fromarray(picture(7)).save(street/'Bus'/'Bus (2).jpg')
    with pytest.raises(InputError) as e: tile_rows(street, corrections=table(street.parent, text), classes=NAMES)
    one_line(e, 'labels.csv', *words)


def test_our_corrections_fit_our_split():
    "Without any image: names and classes agree, and none of validation was looked through"
    split, found = load_split('tiles'), read_corrections(share_path('labels', 'tiles_multilabel.csv'))
    part = split.set_index('file').split[found.file]
    assert len(found) >= 900 and (part == 'test').sum() >= 600 and (part == 'train').sum() >= 300
    assert set(split.label) == set(TILE_CLASSES)


def test_targets_never_contradict(street):
    path = table(street.parent, 'Bus/Bus (2).png,Car,Bus\nOther/Other (1).png,Other,Car')
    seen, absent = tile_targets(tile_rows(street, corrections=path, classes=NAMES), NAMES)
    assert not (seen & absent).any()
    assert seen[1].tolist() + absent[1].tolist() != [0]*6 and seen.sum() == 35 # an Other that may show a car is neither


# ---- small sets

def test_balanced_rows_repeat_training_tiles_of_rare_classes(rows):
    more = balanced_rows(rows, 40, most=3)
    once, now = (r[r.part == 'train'].label.value_counts() for r in (rows, more))
    assert now.to_dict() == {c: max(n, min(40, 3*n)) for c, n in once.items()}
    assert (more.part != 'train').sum() == (rows.part != 'train').sum() and set(more.file) == set(rows.file)
    assert more[more.part == 'train'].file.value_counts().max() <= 3 and more.index.is_unique
    assert len(balanced_rows(rows, 1)) == len(rows)


def test_trimmed_rows_are_few_and_nested(rows):
    few, more = trimmed_rows(rows, 2), trimmed_rows(rows, 4)
    assert few[few.part == 'train'].label.value_counts().tolist() == [2, 2, 2]
    assert set(few.file) <= set(more.file) <= set(rows.file)
    shuffled = trimmed_rows(rows.sample(frac=1, random_state=0), 2)
    assert set(shuffled.file) == set(few.file)


# ---- recipes

def test_seed_recipe_to_the_letter(street):
    block = tile_block('seed')
    crop, = [t for t in block.item_tfms if isinstance(t, RandomResizedCrop)]
    assert block.get_items is get_image_files and crop.size == (128, 128) and crop.min_scale == .35
    assert [type(t).__name__ for t in block.batch_tfms] == ['IntToFloatTensor']
    sets, files = block.datasets(street), get_image_files(street)
    assert list(sets.splits[1]) == list(RandomSplitter(0.2, seed=42)(files)[1])
    assert [sets.vocab[int(i)] for i in sets[0][1].nonzero()] == [parent_label(files[0])]


def test_ours_keeps_the_test_out(rows):
    dls = tile_block(size=32, classes=NAMES).dataloaders(rows, bs=4, device='cpu')
    used = {o['path'] for d in (dls.train_ds, dls.valid_ds) for o in d.items}
    assert used == set(rows.path[rows.part != 'test'])


def test_ours_decodes_once(rows, monkeypatch):
    opened = []
    monkeypatch.setattr('captcha_lab.tiles.open_tile', lambda p: (opened.append(p), open_tile(p))[1])
    dls = tile_block(size=32, classes=NAMES).dataloaders(rows, bs=4, device='cpu')
    dls.train.load()
    n = len(opened)
    batches = [x for _ in range(2) for x, _ in dls.train]
    assert len(opened) == n and not torch.equal(batches[0], batches[len(batches)//2]) # the augmentation is new each time


@pytest.mark.parametrize('options, words', [({'recipe': 'x'}, 'unknown recipe'), ({'size': 8}, 'too small'), ({'min_scale': 0}, 'min_scale')])
def test_bad_block(options, words):
    with pytest.raises(InputError, match=words): tile_block(**options)


@pytest.mark.parametrize('part, words', [('train', 'validate'), ('valid', 'learn'), ('test', 'learn')])
def test_parts_that_lack(rows, part, words):
    with pytest.raises(InputError, match=words): tile_block(classes=NAMES).dataloaders(rows.assign(part=part))


# ---- training

class Tiny(torch.nn.Sequential):
    "A body that costs nothing"
    def __init__(self, weights=None):
        conv = torch.nn.Conv2d(3, 4, 3, stride=4)
        super().__init__(conv, torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 5))


def tiny(rows, loss='n-ls', **kwargs):
    dls = tile_block(size=32, classes=NAMES, augment=0).dataloaders(rows, bs=4, device='cpu')
    learn = tiles_learner(dls, Tiny, loss, False, **kwargs)
    learn.remove_cbs(learn.cbs.filter(lambda c: isinstance(c, ProgressCallback)))
    return learn


@pytest.mark.parametrize('checked', [False, True])
@pytest.mark.parametrize('mixup', [0., .4])
@pytest.mark.parametrize('other', OTHERS)
@pytest.mark.parametrize('loss', LOSSES)
def test_every_loss_trains(street, loss, other, mixup, checked):
    path = table(street.parent, 'Bus/Bus (2).png,Bus|Car,\nCar/Car (1).png,Car,\nCar/Car (2).png,Car,Bus') if checked else None
    rows = tile_rows(street, corrections=path, classes=NAMES)
    rows['part'] = np.where(np.arange(len(rows)) % 3 == 2, 'valid', 'train')
    learn = tiny(rows, loss, other=other, mixup=mixup, warm_up=1)
    with learn.no_logging(): learn.fit(2)
    assert np.isfinite(learn.recorder.values[-1]).all()


def test_begins_at_the_priors(rows):
    learn = tiny(rows)
    priors = class_priors(torch.stack(list(learn.dls.train_ds.tls[1])))
    probs = tile_probs(learn, rows.path.tolist()[:3], 32)
    assert np.allclose(probs, priors.numpy(), atol=1e-5)
    assert np.allclose(tile_probs(tiny(rows, prior_bias=False), rows.path.tolist()[:3], 32), .5)


class Spy(Callback):
    "The state of the loss in each batch, and the targets"
    order = 80
    def __init__(self): self.told, self.shapes = [], []
    def before_batch(self):
        self.told.append((self.training, self.epoch, self.loss_func.epoch))
        if self.training: self.shapes.append(tuple(self.yb[0].shape[1:]))


def test_epochs_reach_the_loss(rows):
    learn = tiny(rows, 'll-r', cbs=Spy())
    with learn.no_logging(): learn.fit(3)
    assert {(t, e, told) for t, e, told in learn.spy.told} == {(t, e, e if t else 0) for t in (True, False) for e in range(3)}


def test_pseudo_labels_come_and_go(rows):
    learn = tiny(rows, 'em-apl', cbs=Spy(), warm_up=2)
    with learn.no_logging(): learn.fit(4)
    n = len(learn.dls.train)
    assert learn.spy.shapes == [(3,)]*2*n + [(3, 3)]*2*n
    assert learn.dls.train.load()[1].ndim == 2 and learn.pseudo_negatives.pseudo.shape == (len(learn.dls.train_ds), 3)
    seen = torch.stack(list(learn.dls.train_ds.tls[1])) == 1
    assert learn.pseudo_negatives.pseudo.isnan()[seen].all() # what was seen never gets one


def test_pseudo_labels_are_taken_out_after_an_interruption(rows):
    class Stop(Callback):
        order = 95
        def after_epoch(self):
            if self.epoch == 1: raise KeyboardInterrupt
    learn = tiny(rows, 'em-apl', cbs=Stop(), warm_up=1)
    with learn.no_logging(), pytest.raises(KeyboardInterrupt): learn.fit(4)
    learn.remove_cb(learn.stop)
    learn.add_cb(Spy())
    with learn.no_logging(): learn.fit(1)
    assert set(learn.spy.shapes) == {(2, 3)} # seen, and known absent: no pseudo-labels


def test_pseudo_labels_need_memory(street):
    dls = tile_block('seed', 32).dataloaders(street, bs=4, num_workers=0)
    learn = tiles_learner(dls, Tiny, 'em-apl', False)
    with learn.no_bar(), learn.no_logging(), pytest.raises(InputError, match='in memory'): learn.fit(1)


def test_train_runs_and_resumes(rows, tmp_path):
    options = dict(classes=NAMES, size=32, bs=4, learner={'arch': Tiny, 'pretrained': False}, half=False, frozen=1)
    learn, whole = train_tiles(rows, 2, **options)
    assert [r['phase'] for r in whole] == ['frozen', 'all', 'all']
    train_tiles(rows, 2, folder=tmp_path, **options)
    again, resumed = train_tiles(rows, 2, folder=tmp_path, resume=True, **options)
    assert all(torch.equal(a, b) for a, b in zip(learn.model.state_dict().values(), again.model.state_dict().values()))
    with pytest.raises(InputError, match='cannot be resumed'): train_tiles(rows, 2, 'em-apl', folder=tmp_path, resume=True, **options)


@pytest.mark.parametrize('options, words', [({'loss': 'bce'}, 'unknown loss'), ({'other': 'maybe'}, 'other is one of'), ({'head': 'x'}, 'unknown head'),
                                            ({'loss_args': {'eps': 2}}, 'eps')])
def test_bad_learner(rows, options, words):
    with pytest.raises(InputError, match=words): tiny(rows, **options)


def test_other_needs_its_column(rows):
    few = rows[rows.label != 'Other']
    dls = tile_block(size=32, classes=NAMES[:2]).dataloaders(few, bs=4, device='cpu')
    with pytest.raises(InputError, match='no class Other'): tiles_learner(dls, Tiny, 'an', False, other='unknown')


def test_top1_of_mixed_and_stacked_targets():
    y = torch.eye(3)[[0, 1, 2, 2]]
    assert top1_seen(torch.eye(3)[[0, 1, 2, 0]], y) == .75 == top1_seen(torch.eye(3)[[0, 1, 2, 0]], stack_targets(y, 1 - y))


# ---- heads on cached features

@pytest.mark.parametrize('mixup', [0., .4])
@pytest.mark.parametrize('loss', LOSSES)
def test_heads_learn(loss, mixup):
    g = np.random.default_rng(0)
    y = np.eye(3, dtype=np.float32)[g.integers(0, 3, 120)]
    x = (100 + 5*(y @ g.normal(size=(3, 8)) + .1*g.normal(size=(120, 8)))).astype(np.float32)
    heads = cached_heads(x, y, loss, (0, 1), epochs=15, lr=.02, mixup=mixup, warm_up=5)
    for h in heads: assert (h(torch.tensor(x)).argmax(1).numpy() == y.argmax(1)).mean() > .95
    assert not torch.equal(heads[0].weight, heads[1].weight)


def test_heads_leave_chance_alone():
    x, y = np.random.default_rng(0).normal(size=(20, 4)), np.eye(2)[np.arange(20) % 2]
    torch.manual_seed(3)
    want = torch.rand(3)
    torch.manual_seed(3)
    cached_heads(x, y, epochs=1)
    assert torch.equal(torch.rand(3), want)


@pytest.mark.parametrize('x, y', [(np.zeros((3, 4)), np.zeros((2, 2))), (np.zeros(3), np.zeros((3, 2))), (np.full((3, 4), np.nan), np.zeros((3, 2))),
                                  (np.zeros((0, 4)), np.zeros((0, 2)))])
def test_bad_features(x, y):
    with pytest.raises(InputError): cached_heads(x, y)


# ---- grids

def assembled(cells, size, gutters, border=0):
    "Cells with gutters of the widths given, across and down alike"
    h, w = cells.shape[1:3]
    at = [border + i*h + sum(gutters[:i]) for i in range(size)]
    out = np.full((at[-1] + h + border, at[-1] + w + border, 3), 255, np.uint8)
    for i, c in enumerate(cells): out[at[i//size]:at[i//size] + h, at[i % size]:at[i % size] + w] = c
    return out


@given(st.sampled_from([3, 4]), st.integers(16, 60), st.integers(0, 9), st.integers(0, 12), st.integers(1, 3), st.integers(0, 9))
def test_grids_come_back_exactly(size, side, gutter, border, scale, seed):
    assume(gutter < side/4)
    cells = np.stack([picture(seed*100 + i, side) for i in range(size*size)])
    shot = assembled(cells, size, [gutter]*(size - 1), border).repeat(scale, 0).repeat(scale, 1)
    assert np.array_equal(cut_grid(shot, size), cells.repeat(scale, 1).repeat(scale, 2))


@given(st.integers(0, 12), st.integers(0, 12), st.integers(20, 60))
def test_gutters_of_different_widths(one, other, side):
    assume(abs(one - other) > 1)
    with pytest.raises(InputError) as e: cut_grid(assembled(np.stack([picture(i, side) for i in range(9)]), 3, [one, other]))
    one_line(e, 'white lines at 1' if 0 in (one, other) else 'different widths')


@pytest.mark.parametrize('widths', [[4, 9, 4], [9, 4, 4], [2, 4, 8]])
def test_gutters_of_different_widths_in_sixteen(widths):
    with pytest.raises(InputError, match='different widths'): cut_grid(assembled(np.stack([picture(i, 40) for i in range(16)]), 4, widths), 4)


SHOT = assembled(np.stack([picture(i, 30) for i in range(9)]), 3, [4, 4])


@pytest.mark.parametrize('image, size, words', [
    (SHOT, 2, 'size 2'), (SHOT, '3', 'size'), (SHOT, 4, '3x3 grid'), (SHOT.astype(float), 3, 'uint8'), (SHOT[:, :, :2], 3, 'uint8'), (SHOT[0, 0], 3, 'uint8'),
    ([[1]], 3, 'uint8'), (SHOT[:20], 3, 'too few'), (SHOT[:0], 3, 'too few'), (picture(0, 100), 3, 'cannot be divided into 3'),
    (picture(0, 90)[:60], 3, 'not square'), (np.insert(SHOT, [31]*4, 255, 1), 3, 'different widths'), (picture(0, 99), 4, 'divided into 4')])
def test_bad_screenshot(image, size, words):
    with pytest.raises(InputError) as e: cut_grid(image, size)
    one_line(e, words)


def even(cells): return [{'Bus': i/len(cells), 'Car': 0.} for i in range(len(cells))]


def test_answers_count_as_people_do():
    cells = read_grid(even, SHOT, threshold={'Bus': 4/9})
    assert [(c['row'], c['col']) for c in cells] == [(r, c) for r in (1, 2, 3) for c in (1, 2, 3)]
    assert [c['chosen'] for c in cells] == [False]*4 + [True]*5
    before = SHOT.copy()
    drawn = draw_grid(SHOT, cells)
    assert np.array_equal(SHOT, before) and drawn.shape == SHOT.shape and drawn[-1, -1].tolist() == [0, 120, 255] != drawn[0, 0].tolist()
    for x0, y0, x1, y1 in grid_boxes(SHOT): assert (drawn[y0:y1, x0:x1] != SHOT[y0:y1, x0:x1]).any() # the number


@pytest.mark.parametrize('options, words', [({'target': 'Lorry'}, "unknown class 'Lorry'"), ({'threshold': 2}, '0..1'), ({'threshold': {}}, 'no threshold')])
def test_bad_question(options, words):
    with pytest.raises(InputError) as e: read_grid(even, SHOT, **options)
    one_line(e, words)


def test_cutting_needs_no_torch():
    code = "import sys, captcha_lab.grid, captcha_lab.tile_table; print(*{'torch', 'fastai'} & set(sys.modules))"
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert (out.returncode, out.stdout.strip()) == (0, ''), out.stderr
