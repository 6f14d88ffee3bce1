"""The losses of the deep methods: pure functions of outputs u [N, L] and labels [N].

Each returns the mean over the batch as a scalar tensor. A label is the number of a class, and
two images are similar iff their labels are equal.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

# Cosines stay below this, so that no distance is 0, whose logarithm is infinite.
NEARLY_ONE = 0.99


def latent_ce(u: Tensor, labels: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Cross-entropy of a softmax on the latent layer: −log softmax(σ(u)·Wᵀ + b)[y].

    Lin, Yang, Hsiao & Chen, "Deep learning of binary hash codes for fast image retrieval",
    CVPR workshops 2015.

    Args:
        u: outputs [N, L].
        labels: int64 [N].
        weight, bias: W [C, L] and b [C].
    """
    return functional.cross_entropy(torch.sigmoid(u) @ weight.T + bias, labels)


def triplet(u: Tensor, labels: Tensor, margin: float) -> Tensor:
    """The triplet ranking loss on h = σ(u): max(0, m + ‖h_a − h_p‖² − ‖h_a − h_n‖²).

    Lai, Pan, Liu & Yan, "Simultaneous feature learning and hash coding with deep neural
    networks", CVPR 2015, eq. 2. Over all triplets of the batch: anchor and positive are two
    images of a class, the negative is of another; the mean is over those that violate the
    margin ("batch all" of Hermans, Beyer & Leibe, arXiv:1703.07737, 2017), since most soon
    do not, and would drown the others.

    Args:
        u: outputs [N, L].
        labels: int64 [N].
        margin: m, in bits.
    """
    h = torch.sigmoid(u)
    squares = h.square().sum(1)
    distance = (squares[:, None] + squares - 2 * h @ h.T).clamp(min=0)
    same = labels[:, None] == labels
    positive = same & ~torch.eye(len(u), dtype=torch.bool, device=u.device)
    # Not every triplet is looked at: a distance counts as often as it violates the margin with
    # another of its row, which sorted rows tell.
    far, limit = distance.detach(), distance.detach() + margin
    negatives = far.masked_fill(same, torch.inf).sort(1).values
    limits = limit.masked_fill(~positive, torch.inf).sort(1).values
    as_positive = torch.searchsorted(negatives, limit) * positive
    within = torch.searchsorted(limits, far, right=True)
    as_negative = (positive.sum(1, keepdim=True) - within) * ~same
    violations = as_positive.sum()
    hinge = ((as_positive - as_negative) * distance).sum() + margin * violations
    return hinge / violations.clamp(min=1)


def hashnet(u: Tensor, labels: Tensor, alpha: float, beta: float) -> Tensor:
    """Weighted maximum likelihood of the pairs' similarity s, with h = tanh(β·u):

        w_ij·[log(1 + exp(α⟨h_i, h_j⟩)) − α·s_ij·⟨h_i, h_j⟩]

    where w is |S|/|S₁| for similar and |S|/|S₀| for dissimilar pairs, as S₁ and S₀ are among
    the pairs S of the batch. Training raises β, by which tanh becomes the sign.

    Cao, Long, Wang & Yu, "HashNet: deep learning to hash by continuation", ICCV 2017, eq. 4.

    Args:
        u: outputs [N, L].
        labels: int64 [N].
        alpha: α of the adaptive sigmoid, less than 1: the more bits the less.
        beta: β.
    """
    h = torch.tanh(beta * u)
    inner = alpha * (h @ h.T)
    similar = _similar(labels, u.dtype)
    return (_weights(similar) * (functional.softplus(inner) - similar * inner)).mean()


def dch(u: Tensor, labels: Tensor, gamma: float, quantisation: float) -> Tensor:
    """Cauchy cross-entropy of the pairs and Cauchy quantisation of the outputs:

        w_ij·[s_ij·log(d_ij/γ) + log(1 + γ/d_ij)] + λ·log(1 + d(|u_i|, 1)/γ)

    with d(a, b) = L/2·(1 − cos(a, b)), which is the Hamming distance of ±1 vectors, and w as
    in `hashnet`.

    Cao, Long, Liu & Wang, "Deep Cauchy hashing for Hamming space retrieval", CVPR 2018,
    eqs. 6–9.

    Args:
        u: outputs [N, L].
        labels: int64 [N].
        gamma: γ, in bits: beyond it pairs hardly attract each other.
        quantisation: λ.
    """
    bits = u.shape[1]
    unit = functional.normalize(u, dim=1)
    distance = bits / 2 * (1 - (unit @ unit.T).clamp(max=NEARLY_ONE))
    similar = _similar(labels, u.dtype)
    pairs = similar * torch.log(distance / gamma) + torch.log1p(gamma / distance)
    to_ones = bits / 2 * (1 - unit.abs().sum(1) / math.sqrt(bits))
    quantised = torch.log1p(to_ones.clamp(min=0) / gamma)
    return (_weights(similar) * pairs).mean() + quantisation * quantised.mean()


def greedyhash(
    u: Tensor, labels: Tensor, weight: Tensor, bias: Tensor, quantisation: float
) -> Tensor:
    """Cross-entropy of a softmax on the very code h = sign(u), whose gradient passes to u
    unchanged, and a penalty: −log softmax(h·Wᵀ + b)[y] + λ·mean |u − h|³.

    Su, Zhang, Han & Tian, "Greedy hash: towards fast optimization for accurate hash coding in
    CNN", NeurIPS 2018.

    Args:
        u: outputs [N, L].
        labels: int64 [N].
        weight, bias: W [C, L] and b [C].
        quantisation: λ.
    """
    code = torch.where(u > 0, 1.0, -1.0).to(u.dtype)
    straight = u + (code - u).detach()
    penalty = (u - code).abs().pow(3).mean()
    return functional.cross_entropy(straight @ weight.T + bias, labels) + quantisation * penalty


def csq(u: Tensor, labels: Tensor, targets: Tensor, quantisation: float) -> Tensor:
    """Binary cross-entropy between h = (tanh(u) + 1)/2 and the bits c of the class's hash
    centre, and a penalty:

        −mean [c·log h + (1 − c)·log(1 − h)] + λ·mean (|tanh u| − 1)²

    Yuan, Wang, Zhang, Tay, Jie, Liu & Feng, "Central similarity quantization for efficient
    image and video retrieval", CVPR 2020; the penalty in the form of the authors' program.

    Args:
        u: outputs [N, L].
        labels: int64 [N].
        targets: ±1, [C, L].
        quantisation: λ.
    """
    centres = (targets[labels] + 1) / 2
    # (tanh(u) + 1)/2 is σ(2u).
    central = functional.binary_cross_entropy_with_logits(2 * u, centres)
    return central + quantisation * (torch.tanh(u).abs() - 1).square().mean()


def orthohash(u: Tensor, labels: Tensor, targets: Tensor, scale: float, margin: float) -> Tensor:
    """Cross-entropy over the cosines to the classes' targets, less a margin at the true one:

        −log exp(s·(cos θ_y − m)) / [exp(s·(cos θ_y − m)) + Σ_{c≠y} exp(s·cos θ_c)]

    Hoe, Ng, Zhang, Chan, Song & Xiang, "One loss for all: deep hashing with a single cosine
    similarity based learning objective", NeurIPS 2021.

    Args:
        u: outputs [N, L]; of mean 0, by a batch normalisation, so that the bits are balanced.
        labels: int64 [N].
        targets: ±1, [C, L].
        scale: s.
        margin: m.
    """
    cosines = functional.normalize(u, dim=1) @ functional.normalize(targets, dim=1).T
    lessened = cosines - margin * functional.one_hot(labels, len(targets))
    return functional.cross_entropy(scale * lessened, labels)


def _similar(labels: Tensor, dtype: torch.dtype) -> Tensor:
    """s [N, N]: 1 where two labels are equal, else 0."""
    return (labels[:, None] == labels).to(dtype)


def _weights(similar: Tensor) -> Tensor:
    """w [N, N]: similar and dissimilar pairs weigh the same in total; 1 where one kind lacks."""
    ones = similar.sum()
    zeros = similar.numel() - ones
    weights = similar.numel() * (similar / ones + (1 - similar) / zeros)
    # An `if` would wait for the device.
    return torch.where((ones > 0) & (zeros > 0), weights, 1.0)
