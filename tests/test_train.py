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


class Pretend(Callback):
    "Validation losses that are known beforehand"
    order = 50 # before the history
    def __init__(self, *losses): self.losses = losses
    def after_epoch(self):
        if len(self.recorder.log) > 2: self.recorder.log[2] = self.losses[self.epoch] # an epoch that is skipped has none


@pytest.mark.parametrize('losses, rates', [
    ((5, 4, 3, 2, 1), [1]*5), # always better
    ((1, 1, 1, 1, 1, 1, 1), [1, 1, 1, .5, .5, .25, .25]), # an equal loss is no better one
    ((3, 4, 4, 2, 3, 1, 2, 2), [1, 1, 1, .5, .5, .5, .5, .5]), # the best so far begins the count again
    ((1, 9, 9, 5, 4, 3), [1, 1, 1, .5, .5, .25])], ids=['better', 'equal', 'now and then', 'never as good again'])
def test_plateau_lowers_the_rate(losses, rates):
    "As Keras does with a patience of 2"
    learn = learner()
    learn.add_cb(Pretend(*losses))
    rows = fit(learn, len(losses), .01, schedule='plateau', half=False)
    assert [r['lr'] for r in rows] == pytest.approx([.01*r for r in rates])


def test_plateau_has_a_floor():
    for lr, rates in ((2e-5, [2e-5]*3 + [1e-5]*6), (1e-6, [1e-6]*9)): # a rate that is lower to begin with stays
        learn = learner()
        learn.add_cb(Pretend(*[1]*9))
        assert [r['lr'] for r in fit(learn, 9, lr, schedule='plateau', half=False)] == pytest.approx(rates)


def test_plateau_keeps_the_ratio_of_groups():
    learn = Learner(learner().dls, Wide(), loss_func=MSELossFlat(), splitter=lambda m: [list(m[0].parameters()), list(m[1].parameters())])
    learn.add_cb(Pretend(1, 1, 1, 1))
    fit(learn, 4, slice(.001, .1), schedule='plateau', half=False)
    assert [h['lr'] for h in learn.opt.hypers] == pytest.approx([.0005, .05])


@pytest.mark.parametrize('epoch', [1, 3, 4, 6])
def test_plateau_is_resumed(tmp_path, epoch):
    "Before the first drop, at one, between two, and after them"
    pretend = Pretend(5, 6, 6, 5.5, 6, 4, 4.5, 4.5)
    whole = learner()
    whole.add_cb(pretend)
    rows = fit(whole, 8, .1, schedule='plateau', half=False)
    assert len({r['lr'] for r in rows}) == 3
    cut = learner()
    cut.add_cbs([pretend, Interrupt('after_batch', epoch)])
    with pytest.raises(KeyboardInterrupt): fit(cut, 8, .1, tmp_path, schedule='plateau', half=False)
    resumed = learner(seed=9)
    resumed.add_cb(pretend)
    again = fit(resumed, 8, .1, tmp_path, resume=True, schedule='plateau', half=False)
    assert same(weights(whole), weights(resumed))
    assert [r['lr'] for r in again] == [r['lr'] for r in rows]


def test_plateau_and_patience_end_a_run():
    learn = learner()
    learn.add_cb(Pretend(3, 2, *[4]*50))
    rows = fit(learn, 50, .1, schedule='plateau', patience=10, half=False)
    assert len(rows) == 12 and rows[-1]['lr'] == pytest.approx(.1*.5**4)


def test_unknown_schedule():
    with pytest.raises(InputError, match='one-cycle or plateau'): fit(learner(), 1, .1, schedule='cosine')


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
