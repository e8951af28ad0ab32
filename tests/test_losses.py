"Losses for many labels inside fastai, with MixUp and CutMix, and what must hold for any targets"
import copy

import pytest
import torch
from fastai.callback.core import Callback
from fastai.callback.mixup import CutMix, MixUp
from fastai.callback.progress import ProgressCallback
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastai.losses import BCEWithLogitsLossFlat, LabelSmoothingCrossEntropyFlat
from fastai.torch_core import TensorBase, TensorMultiCategory
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy

from captcha_lab.losses import (LOSSES, OTHERS, AssumeNegative, EntropyMax, EntropyMaxAPL, entry_shares, many_label_loss,
                                stack_targets)

N, L = 12, 4
MIXES = {'none': [], 'mixup': [MixUp], 'cutmix': [CutMix]}


def pictures(stacked=False, seed=0):
    "Random pictures with one label each; or with known negatives and pseudo-labels besides"
    g = torch.Generator().manual_seed(seed)
    x, y = torch.randn(N, 3, 8, 8, generator=g), torch.eye(L)[torch.randint(L, (N,), generator=g)]
    if not stacked: return x, y
    pseudo = torch.where((torch.rand(N, L, generator=g) < .7) & (y == 0), .1, torch.nan)
    return x, stack_targets(y, (1 - y)*(torch.arange(N) < 3)[:, None], pseudo)


def learner(loss, data, mix=()):
    "Two batches of six and a linear model"
    torch.manual_seed(0)
    dls = DataLoaders(*(DataLoader(list(zip(*data)), bs=6, num_workers=0) for _ in range(2)))
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, L))
    return Learner(dls, net, loss_func=loss, lr=.1, cbs=[m() for m in mix])


class Look(Callback):
    "Keep the training losses, check the gradients"
    def before_fit(self): self.losses = []

    def before_step(self):
        assert all(p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in self.model.parameters())
        self.losses.append(self.learn.loss.item())


def quiet(learn): return learn.removed_cbs(learn.cbs.filter(lambda o: isinstance(o, ProgressCallback)))


def steps(learn):
    "Losses of the training batches of two epochs"
    learn.add_cb(Look())
    with learn.no_logging(), quiet(learn): learn.fit(2)
    return learn.look.losses


@pytest.mark.parametrize('stacked', [False, True])
@pytest.mark.parametrize('other', OTHERS)
@pytest.mark.parametrize('mix', MIXES)
@pytest.mark.parametrize('name', LOSSES)
def test_trains_with_every_mix(name, mix, other, stacked):
    loss = many_label_loss(name, other=other, column=L - 1)
    loss.epoch = 1
    learn = learner(loss, pictures(stacked), MIXES[mix])
    losses = steps(learn)
    assert len(losses) == 4 and torch.tensor(losses + learn.recorder.values[-1]).isfinite().all()
    assert learn.loss_func is loss and loss.reduction == 'mean'


@pytest.mark.parametrize('mix', MIXES)
def test_one_label_trains_with_every_mix(mix):
    x, y = pictures()
    losses = steps(learner(LabelSmoothingCrossEntropyFlat(), (x, y.argmax(1)), MIXES[mix]))
    assert len(losses) == 4 and torch.tensor(losses).isfinite().all()


def test_fastai_smooths_one_label_as_torch_does():
    scores, target = torch.randn(7, 5), torch.arange(7) % 5
    want = cross_entropy(scores, target, label_smoothing=.2).item()
    assert LabelSmoothingCrossEntropyFlat(eps=.2)(scores, target).item() == pytest.approx(want, abs=1e-6)


def test_assume_negative_trains_like_fastais_own():
    a, b = (learner(o, pictures(), [MixUp]) for o in (AssumeNegative(), BCEWithLogitsLossFlat()))
    for o in (a, b):
        torch.manual_seed(1)
        o.losses = steps(o)
    assert a.losses == pytest.approx(b.losses, abs=1e-6)


def test_fastai_gets_probabilities_answers_and_losses():
    learn = learner(EntropyMax(), pictures())
    with quiet(learn): probs, y, answers, losses = learn.get_preds(with_decoded=True, with_loss=True)
    assert ((0 < probs) & (probs < 1)).all() and (answers == (probs > .5)).all()
    assert losses.shape == (N,) and learn.loss_func.reduction == 'mean'  # one a picture
    assert losses.mean().item() == pytest.approx(EntropyMax()(probs.logit(), y).item(), abs=1e-5)


def test_a_mix_with_nothing_has_no_pseudo_label():
    y, pseudo = torch.tensor([[0., 0, 1]]*2), torch.tensor([[.1, .1, torch.nan], [.3, torch.nan, torch.nan]])
    one, two = stack_targets(y, None, pseudo)
    mixed = torch.lerp(one, two, .5)[None]
    loss, plain, scores = EntropyMaxAPL(reduction='none'), EntropyMax(reduction='none'), torch.tensor([[1., 1, 1]])
    assert loss(scores, mixed)[0, 0] > 0 and (loss(scores, mixed) == plain(scores, y[:1]))[0].tolist() == [False, True, True]


@pytest.mark.parametrize('name', LOSSES)
def test_fastais_tensors_whole_numbers_and_copies(name):
    loss, scores, y = many_label_loss(name), torch.randn(3, L), torch.eye(L)[:3]
    want = loss(scores, y)
    assert type(want) is torch.Tensor
    for s, t in ((TensorBase(scores), TensorMultiCategory(y)), (scores, y.long()), (scores, y.bool())):
        assert loss(s, t) == want
    other = copy.deepcopy(loss)
    other.epoch = 7
    assert loss.epoch == 0 and other(scores, y).isfinite()


@pytest.mark.parametrize('name', LOSSES)
def test_half_precision_under_autocast(name):
    net, loss = nn.Linear(5, L), many_label_loss(name)
    loss.epoch = 3
    with torch.autocast('cpu', dtype=torch.bfloat16): out = loss(net(torch.randn(6, 5)), torch.eye(L)[[0, 1, 2, 3, 0, 1]])
    out.backward()
    assert out.dtype == torch.float32 and net.weight.grad.isfinite().all()


labels = st.lists(st.integers(0, L - 1), min_size=3, max_size=3)


@pytest.mark.parametrize('name', [n for n in LOSSES if n != 'll-r'])
@given(labels, labels, st.sampled_from(OTHERS), st.floats(0, 1))
def test_loss_of_a_mix_is_the_mix_of_losses(name, one, two, other, share):
    "True of all that look at each entry alone"
    loss, scores = many_label_loss(name, other=other, column=1), torch.linspace(-3, 3, 3*L).view(3, L)
    a, b = torch.eye(L)[one], torch.eye(L)[two]
    want = share*loss(scores, a) + (1 - share)*loss(scores, b)
    assert loss(scores, share*a + (1 - share)*b).item() == pytest.approx(want.item(), abs=1e-5)


@given(st.lists(st.tuples(*[st.floats(0, 1)]*L), min_size=1, max_size=4), st.sampled_from(OTHERS))
def test_shares_are_shares(rows, other):
    targets = torch.tensor(rows)
    parts = entry_shares(targets, (1 - targets)/2, other, -1)
    assert all((p >= 0).all() for p in parts) and (sum(parts) <= 1 + 1e-5).all()
    assert (parts[0] == targets).all() and torch.allclose(sum(parts)[:, -1], torch.ones(len(rows)))


@pytest.mark.parametrize('name', LOSSES)
def test_known_negatives_are_pushed_down_alike(name):
    "Whatever a loss thinks of silence, what is known not to be there costs -log(1 - f)"
    scores, zero = torch.linspace(-5, 5, L)[None], torch.zeros(1, L)
    loss = many_label_loss(name, reduction='none')
    loss.epoch = 100
    assert torch.allclose(loss(scores, stack_targets(zero, zero + 1)), -torch.nn.functional.logsigmoid(-scores))
