"""The losses against values computed by hand, and their gradients."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from retrieval_db.encoder.hashing.methods import METHODS
from retrieval_db.encoder.hashing.nesting import widths
from retrieval_db.encoder.hashing.recipes import Recipe
from retrieval_db.encoder.training import losses
from retrieval_db.encoder.training.objectives import (
    OBJECTIVES,
    HashNet,
    Nested,
    OrthoHash,
    linear,
    objective,
)
from retrieval_db.errors import UsageError

LABELS = torch.tensor([0, 0, 1])


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def logit(h: float) -> float:
    return math.log(h / (1 - h))


def double(rows: list[list[float]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def test_latent_ce() -> None:
    """σ(0) = ½ and σ(ln 3) = ¾: scores ½·1 + ¾·2 = 2 and 0.25 + bias."""
    u = double([[0.0, math.log(3)]])
    weight, bias = double([[1, 2], [0.5, 0]]), torch.tensor([0.0, 1.0], dtype=torch.float64)
    expected = -math.log(math.exp(2) / (math.exp(2) + math.exp(1.25)))
    assert losses.latent_ce(u, torch.tensor([0]), weight, bias).item() == pytest.approx(expected)


def test_triplet() -> None:
    """h = (.2, .2), (.6, .2), (.2, .9): ‖a − p‖² = .16; to the negative .49 and .65. With
    margin .4 the anchors violate by .4 + .16 − .49 = .07 and by −.09, which is no violation."""
    u = double([[logit(0.2), logit(0.2)], [logit(0.6), logit(0.2)], [logit(0.2), logit(0.9)]])
    assert losses.triplet(u, LABELS, 0.4).item() == pytest.approx(0.07)
    assert losses.triplet(u, LABELS, 0.6).item() == pytest.approx((0.27 + 0.11) / 2)
    assert losses.triplet(u, LABELS, 0.1).item() == 0
    assert losses.triplet(u, torch.tensor([0, 1, 2]), 0.4).item() == 0


def test_hashnet() -> None:
    """h = tanh(βu). Of nine pairs five are similar, four are not: weights 9/5 and 9/4."""
    h = np.array([[0.5, 0.5], [0.5, -0.5], [-0.8, 0.6]])
    u = torch.from_numpy(np.arctanh(h) / 2)
    alpha, total = 0.3, 0.0
    for i in range(3):
        for j in range(3):
            inner = alpha * float(h[i] @ h[j])
            similar = (i < 2) == (j < 2)
            total += (9 / 5 if similar else 9 / 4) * (softplus(inner) - similar * inner)
    assert losses.hashnet(u, LABELS, alpha, 2.0).item() == pytest.approx(total / 9)


def test_hashnet_continues_from_tanh_towards_the_sign() -> None:
    objective = HashNet(2, 2, 0, {"alpha": 0.3, "growth": 3.0})
    u = double([[0.5, 0.1], [0.5, -0.2], [-0.8, 0.6]])
    for progress, beta in ((0.0, 1.0), (1.0, 2.0)):
        expected = losses.hashnet(u, LABELS, 0.3, beta).item()
        assert objective(u, LABELS, progress).item() == pytest.approx(expected)


def test_dch() -> None:
    """cos of (3, 4) and (4, 3) is .96, so d = 2/2·.04; of either and (−4, 3) ±.. by hand."""
    rows = [[3.0, 4.0], [4.0, 3.0], [-4.0, 3.0]]
    gamma, weight, total = 5.0, 0.2, 0.0
    unit = np.array(rows) / 5
    for i in range(3):
        for j in range(3):
            d = 1 - min(float(unit[i] @ unit[j]), 0.99)
            similar = (i < 2) == (j < 2)
            pair = similar * math.log(d / gamma) + math.log(1 + gamma / d)
            total += (9 / 5 if similar else 9 / 4) * pair
    to_ones = 1 - 7 / (5 * math.sqrt(2))
    expected = total / 9 + weight * math.log(1 + to_ones / gamma)
    assert losses.dch(double(rows), LABELS, gamma, weight).item() == pytest.approx(expected)


def test_greedyhash() -> None:
    """The code of (.5, −2) is (1, −1); |u − h|³ is .125 and 1."""
    u = double([[0.5, -2.0]])
    weight, bias = double([[1, 0], [0, 1]]), torch.zeros(2, dtype=torch.float64)
    expected = math.log(1 + math.exp(-2)) + 0.1 * (0.125 + 1) / 2
    found = losses.greedyhash(u, torch.tensor([0]), weight, bias, 0.1)
    assert found.item() == pytest.approx(expected)
    zero = losses.greedyhash(double([[0.0, -1.0]]), torch.tensor([0]), weight, bias, 0.0)
    assert zero.item() == pytest.approx(math.log(2))  # u = 0 is the bit 0


def test_greedyhash_hands_the_gradient_of_the_code_to_the_output() -> None:
    u = double([[0.5, -2.0]]).requires_grad_()
    weight, bias = double([[1, 0], [0, 1]]), torch.zeros(2, dtype=torch.float64)
    loss = losses.greedyhash(u, torch.tensor([0]), weight, bias, 0.0)
    torch.autograd.backward(loss)
    wrong = 1 / (1 + math.exp(2))  # the softmax's share of class 1 at the code (1, −1)
    assert u.grad is not None
    assert u.grad.tolist()[0] == pytest.approx([-wrong, wrong])


def test_csq() -> None:
    u = double([[0.7, -0.3]])
    targets = double([[1, 1], [-1, -1]])
    h = [(math.tanh(0.7) + 1) / 2, (math.tanh(-0.3) + 1) / 2]
    penalty = ((math.tanh(0.7) - 1) ** 2 + (math.tanh(0.3) - 1) ** 2) / 2
    expected = -(math.log(h[0]) + math.log(h[1])) / 2 + 0.5 * penalty
    assert losses.csq(u, torch.tensor([0]), targets, 0.5).item() == pytest.approx(expected)


def test_orthohash() -> None:
    """(3, 4)/5 has cosine 7/(5√2) to (1, 1) and −1/(5√2) to (1, −1)."""
    targets = double([[1, 1], [1, -1]])
    true, other = 7 / (5 * math.sqrt(2)) - 0.2, -1 / (5 * math.sqrt(2))
    expected = math.log(1 + math.exp(8 * (other - true)))
    found = losses.orthohash(double([[3.0, 4.0]]), torch.tensor([0]), targets, 8.0, 0.2)
    assert found.item() == pytest.approx(expected)


RANDOM = torch.Generator().manual_seed(0)
U = torch.randn(6, 4, generator=RANDOM, dtype=torch.float64)
Y = torch.tensor([0, 1, 2, 0, 1, 2])
W = torch.randn(3, 4, generator=RANDOM, dtype=torch.float64)
B = torch.randn(3, generator=RANDOM, dtype=torch.float64)
T = torch.tensor([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1]], dtype=torch.float64)


@pytest.mark.parametrize(
    "loss",
    [
        lambda u: losses.latent_ce(u, Y, W, B),
        lambda u: losses.triplet(u, Y, 0.7),
        lambda u: losses.hashnet(u, Y, 0.4, 1.5),
        lambda u: losses.dch(u, Y, 2.0, 0.1),
        lambda u: losses.csq(u, Y, T, 0.1),
        lambda u: losses.orthohash(u, Y, T, 8.0, 0.2),
    ],
    ids=["latent_ce", "triplet", "hashnet", "dch", "csq", "orthohash"],
)
def test_gradients_are_those_of_finite_differences(loss: Callable[[Tensor], Tensor]) -> None:
    assert torch.autograd.gradcheck(loss, (U.clone().requires_grad_(),))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_learns_separable_outputs(name: str) -> None:
    """Free outputs, moved by gradient descent, end with codes that are nearer within classes."""
    bits, labels = 16, torch.arange(60) % 4
    torch.manual_seed(0)
    u = torch.randn(60, bits, requires_grad=True)
    objective = OBJECTIVES[name](bits, 4, 0, METHODS[name].settings(bits))
    optimizer = torch.optim.Adam([u, *objective.parameters()], lr=0.1)
    first = last = 0.0
    for step in range(80):
        loss = objective(u, labels, step / 80)
        first, last = first or loss.item(), loss.item()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    assert last < first
    codes = (u > 0).numpy()
    distance = (codes[:, None] != codes).sum(axis=2)
    same = np.equal.outer(labels.numpy(), labels.numpy())
    assert distance[same].mean() + 2 < distance[~same].mean()
    classifier = objective.classifier()
    if classifier is not None:
        found = classifier(u.detach().numpy()).argmax(axis=1)
        assert np.mean(found == labels.numpy()) > 0.9


@pytest.mark.parametrize("name", OBJECTIVES)
def test_nested_codes_take_the_mean_loss_of_their_prefixes(name: str) -> None:
    """Of 4, 8 and 12 bits, each with its own targets or classifier; the gradient of the first bits
    comes from all three."""
    recipe = Recipe(method=name, bits=(12,), options={"nested": 4})
    nested = objective(recipe, 12, 3).double()
    assert isinstance(nested, Nested)
    u = torch.randn(6, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    parts = [
        nested.parts[index](u[:, :bits], Y, 0.5).item() for index, bits in enumerate((4, 8, 12))
    ]
    assert nested(u, Y, 0.5).item() == pytest.approx(sum(parts) / 3)
    assert nested.normalises == (name == "orthohash")
    if name == "greedyhash":  # its gradient passes the sign, so finite differences are no check
        return
    assert torch.autograd.gradcheck(lambda x: nested(x, Y, 0.5), (u.requires_grad_(),))


def test_a_nested_loss_by_hand() -> None:
    """Targets of 4 bits are the first of those of 8, so −cos is that of each prefix."""
    recipe = Recipe(method="csq", bits=(8,), options={"nested": 4, "quantisation": 0})
    nested = objective(recipe, 8, 3)
    targets = nested.get_buffer("parts.1.targets")
    assert torch.equal(nested.get_buffer("parts.0.targets"), targets[:, :4])
    u = torch.zeros(1, 8)
    u[0, 4:] = 0.5 * targets[0, 4:]
    # Bits at 0 cost ln 2; those half a unit on the right side ln(1 + e⁻¹).
    half = (math.log(2) + math.log1p(math.exp(-1))) / 2
    expected = (math.log(2) + half) / 2
    assert nested(u, torch.tensor([0]), 0.0).item() == pytest.approx(expected)


def test_prefixes_that_are_codes_by_themselves() -> None:
    assert widths(64, 16) == (16, 32, 64)
    assert widths(48, 16) == (16, 32, 48)
    assert widths(12, 16) == widths(12, 0) == widths(12, 12) == (12,)
    both = Recipe(bits=(12, 48), options={"nested": 16})
    assert isinstance(objective(both, 12, 3), OrthoHash)
    assert isinstance(objective(both, 48, 3), Nested)
    for wrong in (3, 10, 2.5, -4):
        with pytest.raises(UsageError, match="try nested=16"):
            Recipe(options={"nested": wrong})


def test_one_kind_of_pairs_weighs_one() -> None:
    u = double([[0.3, 0.1], [0.2, -0.4]])
    inner = 0.5 * torch.tanh(u) @ torch.tanh(u).T
    expected = (torch.nn.functional.softplus(inner) - inner).mean().item()
    assert losses.hashnet(u, torch.tensor([1, 1]), 0.5, 1.0).item() == pytest.approx(expected)


def test_normalisations_are_folded_into_the_head() -> None:
    before, after = (torch.nn.BatchNorm1d(width, affine=False) for width in (3, 4))
    layer, x = torch.nn.Linear(3, 4), torch.randn(50, 3) * 3 + 1
    for _ in range(5):
        after(layer(before(x) * 0.5))
    before.eval()
    after.eval()
    with torch.inference_mode():
        expected = after(layer(before(x) * 0.5)).numpy()
    head = linear(layer, before=before, after=after, scale=0.5)
    np.testing.assert_allclose(head(x.numpy()), expected, atol=1e-5)


def test_every_trained_method_has_its_objective() -> None:
    assert {name for name, method in METHODS.items() if method.trained} == set(OBJECTIVES)
