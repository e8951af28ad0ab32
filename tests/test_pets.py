"Cats and dogs: labels from names, bad pictures, networks from scratch and pretrained, interrupted runs, submissions"
import csv

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.core import Callback
from fastai.torch_core import TensorImage
from PIL import Image

from captcha_lab.backbones import ResizeBatch
from captcha_lab.bodies import vision_body
from captcha_lab.core import DataError, InputError, seed_everything
from captcha_lab.pet_table import PETS, open_pet, pet_id, pet_rows, write_submission
from captcha_lab.pets import pet_probs, pets_block, pets_learner, train_pets
from captcha_lab.small_cnn import SMALL_CNNS, small_cnn

N = 48


def put(path, label, seed=0):
    "A noisy picture; cats are red, dogs are blue"
    path.parent.mkdir(parents=True, exist_ok=True)
    x = np.random.default_rng(seed).integers(0, 120, (40, 46, 3), dtype=np.uint8)
    x[..., 0 if label == 'cat' else 2] += 100
    Image.fromarray(x).save(path, quality=95)
    return path


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    home = tmp_path_factory.mktemp('shelter')
    for i in range(N): put(home/f'{PETS[i % 2]}.{i}.jpg', PETS[i % 2], i)
    return home


@pytest.fixture(scope='module')
def rows(folder): return pet_rows(folder, None)


def weights(learn): return {k: v.clone() for k, v in learn.model.state_dict().items()}
def same(a, b): return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# ---- small networks

@pytest.mark.parametrize('name', SMALL_CNNS)
def test_every_weight_of_a_small_network_learns(name):
    torch.manual_seed(0)
    net = small_cnn(name)
    for m in net.modules(): # a scale of zero lets no gradient through
        if isinstance(m, torch.nn.BatchNorm2d): torch.nn.init.ones_(m.weight)
    net(torch.randn(4, 3, 48, 40)).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert all((p.grad != 0).any() for p in net.parameters() if p.ndim == 4)


def test_blocks_begin_as_shortcuts():
    for net, n in ((small_cnn('pet_cnn'), 4), (small_cnn('pet_cnn_deep'), 8)):
        assert sum(not m.weight.any() for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)) == n


def test_no_weights_of_imagenet():
    with pytest.raises(InputError, match='no ImageNet weights'): vision_body('plain_cnn', pretrained=True)
    assert not vision_body('plain_cnn').pretrained and not vision_body('resnet10t', False).pretrained and vision_body().pretrained


# ---- the table

def test_known_names_have_their_split(tmp_path, folder):
    table = tmp_path/'own.csv'
    parts = ['train']*32 + ['valid']*8 + ['test']*8
    files = [f'{PETS[i % 2]}.{i}.jpg' for i in range(N)]
    found = pd.DataFrame({'file': files, 'label': [f[:3] for f in files], 'group': range(N), 'split': parts, 'fold': [i % 5 for i in range(N)]})
    found.to_csv(table, index=False)
    got = pet_rows(folder, table)
    assert got.part.tolist() == parts and got.file.tolist() == files and list(got.columns) == ['file', 'path', 'label', 'part', 'fold', 'group']
    found.assign(label='cow').to_csv(table, index=False)
    with pytest.raises(InputError, match="'cow' is not a class"): pet_rows(folder, table)
    with pytest.raises(DataError, match='missing'): pet_rows(folder, 'pets')


def test_copies_stay_together(tmp_path):
    for i in range(30): put(tmp_path/f'{PETS[i % 2]}.{i}.jpg', PETS[i % 2], i)
    for i in range(10): (tmp_path/f'cat.{100 + i}.jpg').write_bytes((tmp_path/f'cat.{2*i}.jpg').read_bytes())
    got = pet_rows(tmp_path, None)
    assert got.groupby('group').part.nunique().max() == 1 and got.group.nunique() == 30
    assert pet_rows(tmp_path, None).equals(got)
    assert not pet_rows(tmp_path, None, seed=3).part.equals(got.part)


@pytest.mark.parametrize('names', [('Cat.1.JPG', 'DOG.1.jpg'), ('Cat/1.jpg', 'Dog/1.jpg'), ('a/cat/x/dog.5.jpg', 'cat.dog.jpg')])
def test_labels_of_names_and_folders(tmp_path, names):
    for f in names: put(tmp_path/f, 'cat', len(f))
    assert set(pet_rows(tmp_path, None).label) == set(PETS)


@pytest.mark.parametrize('names, what', [
    (('1.jpg', '2.jpg'), 'without labels'), (('cat.1.jpg', 'dog.1.jpg', 'cats.2.jpg'), '1 of 3 pictures have no label.*cats.2.jpg'),
    (('dog.1.jpg', 'dog.2.jpg'), 'only dogs'), ((), 'no images')])
def test_folders_that_cannot_be_learnt_from(tmp_path, names, what):
    for f in names: put(tmp_path/f, 'cat')
    with pytest.raises(InputError, match=what) as e: pet_rows(tmp_path, None)
    assert '\n' not in str(e.value)


@pytest.mark.parametrize('name, number', [('cat.0.jpg', 0), ('train/dog.012499.jpg', 12499), ('7.png', 7), ('a1/dog3', 3)])
def test_number_of_a_picture(name, number): assert pet_id(name) == number


@pytest.mark.parametrize('name', ['rex.jpg', '', 'dog.1.copy2.jpg', '1/rex.jpg'])
def test_names_without_a_number(name):
    with pytest.raises(InputError, match='number'): pet_id(name)


# ---- bad pictures

@pytest.mark.parametrize('keep', [0, 10, 300, 900])
def test_training_names_the_bad_picture(tmp_path, rows, keep):
    "Empty and cut off JPEGs, as the full set has them"
    bad = put(tmp_path/'cat.666.jpg', 'cat')
    bad.write_bytes(bad.read_bytes()[:keep])
    found = pd.concat([rows, rows[rows.part == 'train'].tail(1).assign(path=str(bad))])
    with pytest.raises(InputError, match='cat.666.jpg') as e: train_pets(found, 1, size=32, bs=8)
    assert '\n' not in str(e.value)


def test_grey_and_transparent_pictures(tmp_path):
    Image.new('L', (20, 30), 77).save(tmp_path/'a.png')
    Image.new('RGBA', (20, 30), (0, 0, 0, 0)).save(tmp_path/'b.png')
    assert (open_pet(tmp_path/'a.png') == 77).all() and (open_pet(tmp_path/'b.png') == 255).all()
    Image.new('L', (15, 30)).save(tmp_path/'c.png')
    with pytest.raises(InputError, match='c.png'): open_pet(tmp_path/'c.png')


# ---- training

def test_validation_is_not_augmented(rows):
    dls = pets_block(32).dataloaders(rows, bs=8, device='cpu')
    a, b = (torch.cat([x for x, _ in dls.valid]) for _ in range(2))
    assert torch.equal(a, b) and len(a) == (rows.part == 'valid').sum()
    stored = torch.as_tensor(dls.valid.load()[0]).float()/255
    torch.testing.assert_close(a.as_subclass(torch.Tensor), stored.as_subclass(torch.Tensor), atol=1e-4, rtol=0)


def test_at_least_the_share_stays():
    "A square in the middle, a quarter of the picture, fills at most what it would if only the share were left"
    x = torch.zeros(3, 64, 64)
    x[:, 16:48, 16:48] = 1
    for share, low, high in ((1., .2, .3), (.35, .2, .25/.35 + .05)):
        zoom, = [t for t in pets_block(64, min_scale=share, augment=1e-6).batch_tfms if type(t).__name__ in ('Flip', 'Zoom')]
        seed_everything(0)
        seen = zoom(TensorImage(x.expand(200, -1, -1, -1).clone()), split_idx=0).mean((1, 2, 3))
        assert low < seen.min() and seen.max() < high


@pytest.mark.parametrize('arch', ['pet_cnn', 'pet_cnn_shallow', 'plain_cnn'])
def test_learns_from_scratch(rows, arch):
    learn, history = train_pets(rows, 5, arch, 32, bs=8, lr=.01, decay=.8)
    assert history[-1]['accuracy'] > .85
    test = rows[rows.part == 'test']
    probs = pet_probs(learn, test.path, 32)
    assert probs.dtype == np.float32 and ((probs[:, 1] > .5) == (test.label == 'dog')).mean() > .8


def test_learns_with_known_weights(rows):
    learn, history = train_pets(rows, 1, 'lite0', 32, bs=8, lr=.01, decay=.5, still=1)
    assert [r['phase'] for r in history] == ['frozen', 'all'] and hasattr(learn, 'fixed_stats')
    random, history = train_pets(rows, 1, 'resnet10t', 32, bs=8, learner={'pretrained': False, 'wd': .1})
    assert len(history) == 1 and random.wd == .1


def test_same_seed_same_weights(rows):
    a, b, c = (train_pets(rows, 2, 'pet_cnn_shallow', 32, bs=8, seed=s)[0] for s in (1, 1, 2))
    assert same(weights(a), weights(b)) and not same(weights(a), weights(c))


class Interrupt(Callback):
    "Ctrl-C in the middle of an epoch"
    order = 90
    def __init__(self, epoch): self.at = epoch
    def after_batch(self):
        if self.learn.training and self.learn.epoch == self.at: raise KeyboardInterrupt


@pytest.mark.parametrize('options', [{'sizes': (32, 40)}, {'size': 32, 'schedule': 'plateau', 'patience': 3}], ids=['growing', 'plateau'])
def test_interrupted_run_goes_on(rows, tmp_path, options):
    options = options | {'arch': 'pet_cnn_shallow', 'bs': 8}
    whole, history = train_pets(rows, 4, **options)
    with pytest.raises(KeyboardInterrupt): train_pets(rows, 4, folder=tmp_path, learner={'cbs': Interrupt(2)}, **options)
    again, resumed = train_pets(rows, 4, folder=tmp_path, resume=True, **options)
    assert same(weights(whole), weights(again))
    assert [(r['valid_loss'], r['lr']) for r in resumed] == [(r['valid_loss'], r['lr']) for r in history]


def test_sizes_share_the_epochs(rows):
    seen = []
    class Note(Callback):
        def before_batch(self): seen.append((self.learn.epoch, self.x.shape[-1]))
    learn, _ = train_pets(rows, 5, 'pet_cnn_shallow', sizes=(32, 40, 48), bs=16, learner={'cbs': Note()})
    assert list(dict.fromkeys(seen)) == [(0, 32), (1, 32), (2, 40), (3, 40), (4, 48)]
    assert not [t for t in learn.dls.valid.after_batch.fs if isinstance(t, ResizeBatch)] # augmentation scales; without it:
    plain, _ = train_pets(rows, 1, 'pet_cnn_shallow', sizes=(32,), bs=16, block={'augment': 0})
    assert [t.size for t in plain.dls.valid.after_batch.fs if isinstance(t, ResizeBatch)] == [32]
    assert 'grow' not in [c.name.strip('_') for c in learn.cbs]
    files = rows.path[:4].tolist() # asked at any size, whatever it was trained at last
    assert not np.array_equal(pet_probs(learn, files, 32), pet_probs(learn, files, 48))


def test_zooming_shows_detail(tmp_path):
    "A small picture of a part is cut from the large one in memory: fine stripes are still there"
    stripes = (np.indices((96, 96, 3))[1]//3 % 2*255).astype(np.uint8)
    items = pd.DataFrame([{'path': str(tmp_path/f'cat.{i}.png'), 'label': PETS[i % 2], 'part': 'train' if i < 30 else 'valid'} for i in range(32)])
    for path in items.path: Image.fromarray(stripes).save(path)
    def contrast(**options):
        seen = []
        class Note(Callback):
            def before_batch(self): seen.append(self.x.std((1, 2, 3)).mean().item()) if self.training else None
        train_pets(items, 1, 'pet_cnn_shallow', bs=30, block={'min_scale': .3}, learner={'cbs': Note()}, **options)
        return seen[0]
    assert contrast(sizes=(48, 96)) > 1.3*contrast(size=48)


def test_begins_with_a_probe(rows, tmp_path, monkeypatch):
    monkeypatch.setenv('CAPTCHA_LAB_DATA', str(tmp_path))
    hardly = dict(epochs=1, arch='lite0', size=32, bs=8, lr=1e-7, frozen=0)
    (_, cold), (_, warm) = (train_pets(rows, probe=probe, **hardly) for probe in (False, True))
    assert warm[-1]['valid_loss'] < .5 < cold[-1]['valid_loss'] and [r['phase'] for r in warm] == ['all']
    assert list(tmp_path.rglob('*.npy')) # the features, for the next time


@pytest.mark.parametrize('options, what', [({'size': 16}, 'too small'), ({'arch': 'pet_net'}, 'unknown network'), ({'schedule': 'cosine'}, 'unknown schedule'),
    ({'learner': {'pretrained': True}}, 'no ImageNet weights'), ({'arch': 'lite0', 'sizes': (32, 40)}, 'from scratch'), ({'bs': 64}, 'not even one batch'),
    ({'block': {'min_scale': 0}}, 'min_scale'), ({'resume': True}, 'no checkpoint')])
def test_options_that_do_not_fit(rows, options, what):
    with pytest.raises(InputError, match=what) as e: train_pets(rows, 1, **{'size': 32, 'bs': 8} | options)
    assert '\n' not in str(e.value)


# ---- asking

def test_probabilities_do_not_depend_on_batches_or_mode(rows):
    dls = pets_block(32).dataloaders(rows, bs=8, device='cpu')
    learn = pets_learner(dls)
    torch.manual_seed(0)
    torch.nn.init.normal_(learn.model[1][-1].weight, std=.1)
    learn.model.train()
    files = rows.path[:9].tolist()
    a = pet_probs(learn, files, 32)
    assert learn.model.training and np.allclose(pet_probs(learn, files, 32, bs=2), a, atol=1e-5)
    x = [open_pet(f) for f in files]
    assert np.allclose(pet_probs(learn, (o for o in x), 32), a, atol=1e-5) # also what can be asked only once
    flipped = [np.ascontiguousarray(o[:, ::-1]) for o in x]
    both = (np.log(a) + np.log(pet_probs(learn, flipped, 32)))/2
    expected = np.exp(both)/np.exp(both).sum(1, keepdims=True)
    assert np.allclose(pet_probs(learn, files, 32, mirror=True), expected, atol=1e-4)


def test_error_leaves_the_mode(rows, tmp_path):
    learn = pets_learner(pets_block(32).dataloaders(rows, bs=8, device='cpu'))
    learn.model.train()
    with pytest.raises(InputError, match='none.jpg'): pet_probs(learn, [tmp_path/'none.jpg'], 32)
    assert learn.model.training


# ---- submission

def test_submission_is_in_the_order_of_numbers(tmp_path):
    path = tmp_path/'new'/'out.csv'
    write_submission(pd.DataFrame({'file': ['test/100.jpg', 'test/9.jpg', 'test/20.jpg'], 'label': ['dog', 'cat', 'dog']}), path)
    with open(path, newline='') as f: assert list(csv.reader(f)) == [['id', 'label'], ['9', '0'], ['20', '1'], ['100', '1']]


@pytest.mark.parametrize('files, label, what', [(('1.jpg', 'a/01.jpg'), 'cat', 'same number as 1.jpg.*a/01.jpg'), (('1.jpg', 'rex.jpg'), 'cat', 'no number.*rex.jpg'),
    (('1.jpg',), 'cow', "'cow'"), ((), 'cat', 'no pictures')])
def test_no_half_submission(tmp_path, files, label, what):
    with pytest.raises(InputError, match=what): write_submission([{'file': f, 'label': label} for f in files], tmp_path/'out.csv')
    assert list(tmp_path.iterdir()) == []
