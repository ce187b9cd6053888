"""Expert-guided group relative policy optimisation: rewards, advantages and the loss, as arithmetic on tensors.

CQ-SID + EG-GRPO (arXiv 2605.14434). For every request the policy samples 8 SIDs; K true SIDs of its clicked or exposed
set join the group as pseudo-outputs ("experts"). Rewards are normalised over the enlarged group,

    A_i = (r_i - mean(r)) / (std(r) + 1e-4),                              std with n - 1, as TRL has it

and the clipped policy gradient is taken over all its rows (ratio rho_t = exp(log pi(o_t) - log pi_old(o_t))):

    L = mean_i 1/T sum_t [ -min(rho_t A_i, clip(rho_t, 1 - eps, 1 + eps) A_i) + beta KL_t ]
    KL_t = exp(log pi_ref - log pi) - (log pi_ref - log pi) - 1

With K = 0 and the switches off this is GRPO to the letter: a test compares it with TRL's `loss_type="grpo"` (without
TRL's correction of the KL, which is DeepSeek-V3.2's). The paper prints no KL term but lists a weight of 1.0: `beta` is
a setting. It gives no off-policy correction for the experts, which the policy did not sample; see `expert_weights`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

EPS = 1e-4
"""Added to a group's standard deviation."""


class Advantages(NamedTuple):
    """What the rewards of N rows in G groups come to."""

    values: Tensor
    """(N,) float."""
    flat: Tensor
    """(N,) bool: the row's group has rewards all alike, so it teaches nothing."""


class Loss(NamedTuple):
    """The objective on N rows."""

    total: Tensor
    """() what is minimised."""
    policy: Tensor
    """() its policy part."""
    kl: Tensor
    """() mean KL to the reference over the rows that count; 0 without one."""
    clipped: Tensor
    """() share of tokens whose ratio the clip stopped."""


def rewards_of(
    sids: Tensor, group: Tensor, *, table_group: Tensor, table_sid: Tensor, table_reward: Tensor, valid: Tensor
) -> Tensor:
    """Rewards from a table: the request's own entry for the SID, else what a valid or an invalid SID earns.

    The table holds one row a (request, SID), so the first match of the paper's order (bought or clicked 1.0, only
    exposed 0.5, valid 0.1, invalid 0) has been made before and nothing is summed.

    Args:
        sids: (N,) packed SIDs, as generated.
        group: (N,) request of each row.
        table_group: (R,) request of each entry, ascending; entries of a request ascending by SID.
        table_sid: (R,) packed.
        table_reward: (R,) float.
        valid: (N,) float: reward of the row's SID where the table has no entry.

    Raises:
        ValueError: the table is not in order, or holds a (request, SID) twice.
    """
    step_group, step_sid = table_group.diff(), table_sid.diff()
    if bool(((step_group < 0) | ((step_group == 0) & (step_sid <= 0))).any()):
        raise ValueError("The reward table must ascend by request and SID and hold each pair once.")
    rewards = valid.clone()
    begin, end = torch.searchsorted(table_group, group), torch.searchsorted(table_group, group, right=True)
    longest = int((end - begin).max()) if len(group) else 0
    for offset in range(longest):
        place = begin + offset
        inside = place < end
        place = place.clamp(max=len(table_sid) - 1)
        hit = inside & (table_sid[place] == sids)
        rewards = torch.where(hit, table_reward[place].to(rewards.dtype), rewards)
    return rewards


def group_advantages(rewards: Tensor, group: Tensor) -> Advantages:
    """Rewards normalised over each group, whatever the sizes of the groups and the order of rows.

    Args:
        rewards: (N,) float.
        group: (N,) int64 group of each row, 0..G-1. A group of one row has no spread: its advantage is 0.
    """
    groups = int(group.max()) + 1 if len(group) else 0
    size = torch.zeros(groups, dtype=rewards.dtype, device=rewards.device).index_add_(
        0, group, torch.ones_like(rewards)
    )
    mean = torch.zeros_like(size).index_add_(0, group, rewards) / size.clamp_min(1)
    centred = rewards - mean[group]
    variance = torch.zeros_like(size).index_add_(0, group, centred.square()) / (size - 1).clamp_min(1)
    std = variance.sqrt()
    # Rewards all alike may differ from their mean by a rounding; the same test as TRL's.
    flat = torch.isclose(std, torch.zeros_like(std))
    return Advantages(centred / (std[group] + EPS), flat[group])


def expert_weights(logps_old: Tensor, expert: Tensor, *, truths: Tensor) -> Tensor:
    """(N,) truncated importance weights of the rows, 1 for what the policy sampled itself.

    An expert is drawn from the n true SIDs of its request alike, so its behaviour probability is q = 1 / n. Weighed by
    min(1, pi_old(o) / q), a SID that the policy would hardly sample pulls as little as it would under the policy's own
    sampling: unbiased where the weight is below 1, and bounded (V-trace's truncation, arXiv 1802.01561). The paper has
    no such correction; without it experts count in full, which is what guides where the policy finds nothing.

    Args:
        logps_old: (N, T) log-probabilities under the policy that sampled.
        expert: (N,) bool.
        truths: (N,) n, true SIDs of the row's request; read where `expert`.
    """
    ratio = (logps_old.sum(dim=1) + truths.clamp_min(1).to(logps_old.dtype).log()).exp()
    return torch.where(expert, ratio.clamp(max=1.0), torch.ones_like(ratio))


def eg_grpo_loss(
    logps: Tensor,
    logps_old: Tensor,
    advantages: Tensor,
    *,
    clip: float = 0.2,
    beta: float = 0.0,
    logps_ref: Tensor | None = None,
    weights: Tensor | None = None,
    keep: Tensor | None = None,
) -> Loss:
    """The clipped policy gradient over all rows of all groups.

    Args:
        logps: (N, T) log-probability of each of T tokens under the policy; carries the gradient.
        logps_old: (N, T) the same under the policy that sampled, or for an expert at that moment; no gradient.
        advantages: (N,).
        clip: eps.
        beta: weight of the KL; 0 needs no reference.
        logps_ref: (N, T) under the reference (the stage-3 model).
        weights: (N,) importance weights, multiplied into the advantages; None: 1.
        keep: (N,) bool, rows that the mean is taken over (leaving groups without variance out); None: all.

    Returns:
        Loss; 0 throughout where `keep` leaves no row.

    Raises:
        ValueError: beta above 0 without a reference.
    """
    if beta > 0 and logps_ref is None:
        raise ValueError("A KL weight above 0 needs log-probabilities of the reference.")
    ratio = (logps - logps_old).exp()
    scaled = (advantages if weights is None else advantages * weights)[:, None]
    bounded = ratio.clamp(1 - clip, 1 + clip)
    policy = -torch.min(ratio * scaled, bounded * scaled)
    kl = torch.zeros_like(logps)
    if logps_ref is not None:
        gap = logps_ref - logps
        kl = gap.exp() - gap - 1
    stopped = ((ratio > 1 + clip) & (scaled > 0)) | ((ratio < 1 - clip) & (scaled < 0))
    counts = torch.ones_like(advantages) if keep is None else keep.to(logps.dtype)

    def mean(values: Tensor) -> Tensor:
        return (values.mean(dim=1) * counts).sum() / counts.sum().clamp_min(1)

    return Loss(mean(policy + beta * kl), mean(policy), mean(kl.detach()), mean(stopped.to(logps.dtype)))
