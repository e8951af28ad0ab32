"Training: what an interruption, early stopping, odd data and another device must not break"
import numpy as np
import pytest
import torch
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.losses import MSELossFlat
from fastai.torch_core import TensorImageBW
from torch import nn

from captcha_lab.core import InputError, seed_everything
from captcha_lab.text import TextAugment, text_dls
from captcha_lab.train import MemoryDL, fit

STEPS = 8


class Doubles:
    "Pairs (a number, twice the number)"
    def __init__(self, n): self.n = n
    def __len__(self): return self.n
    def __getitem__(self, i): return torch.tensor([i/self.n]), torch.tensor([2*i/self.n])


class Wide(nn.Sequential):
    "As many inputs and outputs as `nn.Linear(1, 1)`, other weights"
    def __init__(self): super().__init__(nn.Linear(1, 3), nn.Linear(3, 1))


def learner(n=8*STEPS, n_valid=16, net=None, seed=0):
    seed_everything(seed)
    dls = DataLoaders(MemoryDL(Doubles(n), bs=8, shuffle=True, drop_last=True), MemoryDL(Doubles(n_valid), bs=8))
    return Learner(dls, net or nn.Linear(1, 1), loss_func=MSELossFlat())


class Interrupt(Callback):
    "Ctrl-C at one event of one epoch"
    def __init__(self, event, epoch, training=True, order=90): self.event, self.at, self.part, self.order = event, epoch, training, order

    def __call__(self, event):
        if event == self.event and self.learn.epoch == self.at and self.learn.training == self.part: raise KeyboardInterrupt


def weights(learn): return {k: v.clone() for k, v in learn.model.state_dict().items()}


def same(a, b): return all(torch.equal(a[k], b[k]) for k in a) and a.keys() == b.keys()


@pytest.mark.parametrize('stop', [
    Interrupt('after_batch', 2), # in the middle of an epoch
    Interrupt('after_batch', 2, training=False), # within validation, while the averaged weights are in the model
    Interrupt('after_epoch', 2, training=False, order=56), # between the history's row and the checkpoint
], ids=['training', 'validation', 'before the checkpoint'])
def test_resumed_run_is_the_same(tmp_path, stop):
    whole = learner()
    rows = fit(whole, 5, .1, half=False)
    cut = learner()
    cut.add_cb(stop)
    with pytest.raises(KeyboardInterrupt): fit(cut, 5, .1, tmp_path, half=False)
    resumed = learner(seed=9)
    again = fit(resumed, 5, .1, tmp_path, resume=True, half=False)
    assert same(weights(whole), weights(resumed))
    assert [r['valid_loss'] for r in again] == [r['valid_loss'] for r in rows]
    assert len((tmp_path/'history.csv').read_text().split()) == 6


def test_finished_run_resumes_to_its_average(tmp_path):
    "The checkpoint of the last epoch holds the last weights, but what counts is their average"
    whole = learner()
    fit(whole, 3, .1, tmp_path, half=False)
    again = learner(seed=9)
    assert len(fit(again, 3, .1, tmp_path, resume=True)) == 3
    assert same(weights(whole), weights(again))


def test_early_stop_stays_stopped(tmp_path):
    whole = learner()
    rows = fit(whole, 200, .5, tmp_path, patience=2, half=False)
    assert len(rows) < 200
    again = learner(seed=9)
    assert fit(again, 200, .5, tmp_path, resume=True, patience=2, half=False) == rows
    assert same(weights(whole), weights(again))


def test_checkpoint_of_another_network(tmp_path):
    fit(learner(), 2, .1, tmp_path)
    with pytest.raises(InputError, match='another network.*checkpoint.safetensors'): fit(learner(net=Wide()), 2, .1, tmp_path, resume=True)


def test_optimizer_goes_on_where_it_was(tmp_path):
    "Momentum and step counts come back with the types they had"
    cut = learner()
    cut.add_cb(Interrupt('before_train', 1))
    with pytest.raises(KeyboardInterrupt): fit(cut, 3, .1, tmp_path, half=False)
    before = cut.opt.state_dict()['state']
    resumed = learner()
    resumed.add_cb(Interrupt('before_train', 1))
    with pytest.raises(KeyboardInterrupt): fit(resumed, 3, .1, tmp_path, resume=True, half=False)
    after = resumed.opt.state_dict()['state']
    assert [{k: type(v) for k, v in s.items()} for s in before] == [{k: type(v) for k, v in s.items()} for s in after]
    assert all(torch.equal(torch.as_tensor(a[k]), torch.as_tensor(b[k])) for a, b in zip(before, after) for k in a)


def test_interrupt_ends_half_precision():
    learn = learner()
    learn.add_cb(Interrupt('before_batch', 0))
    try:
        with pytest.raises(KeyboardInterrupt): fit(learn, 1, .1, half=True)
        assert not torch.is_autocast_enabled('cpu')
    finally: torch.set_autocast_enabled('cpu', False)


@pytest.mark.parametrize('sizes, what', [((7, 16), 'not even one batch'), ((0, 16), 'not even one batch'), ((64, 0), 'validate')])
def test_too_few_samples(sizes, what):
    with pytest.raises(InputError, match=what): fit(learner(*sizes), 1, .1)


def test_no_epoch_changes_nothing():
    learn = learner()
    before = weights(learn)
    assert fit(learn, 0, .1) == []
    assert same(before, weights(learn))


@pytest.mark.parametrize('seed', (2, 3, 5, 6, 7)) # of those that add no noise
def test_padded_picture_is_warped_like_itself(seed):
    "A narrow picture in a wide frame is moved, turned and bent as if it were alone"
    y, x = np.mgrid[:50, :80]
    alone = TensorImageBW(torch.tensor(.5 + .4*np.sin(x/9)*np.cos(y/11), dtype=torch.float32)[None, None])
    frame = TensorImageBW(torch.zeros(1, 1, 50, 200))
    frame[..., :80] = alone
    frame.widths = torch.tensor([80])
    augment = TextAugment()
    torch.manual_seed(seed)
    expected = augment(alone, split_idx=0)
    torch.manual_seed(seed)
    assert (augment(frame, split_idx=0)[..., :80] - expected).abs().mean() < .005


@pytest.mark.parametrize('widths', [(80, 80), (60, 80)])
def test_batches_are_made_on_their_device(widths):
    "The `meta` device stands for a GPU: it refuses to mix with tensors of the CPU"
    samples = [(np.full((50, w), 99, np.uint8), 'a') for w in widths]
    x, y = text_dls(samples, samples, 'a', device='meta').valid.one_batch()
    assert (x.device.type, y.device.type, tuple(x.shape)) == ('meta', 'meta', (2, 1, 50, 80))
