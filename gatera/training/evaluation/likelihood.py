"""How likely a language model finds the labelled tokens of a batch."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from gatera.training.logits import IGNORED, LOGITS_AT_ONCE

# Whether a model returns what its output layer does: some cap or scale it. Found out once.
_IS_RETURNED: weakref.WeakKeyDictionary[nn.Module, bool] = weakref.WeakKeyDictionary()


def token_loss(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """Return the mean cross-entropy over the labelled tokens of a left-padded batch, in nats.

    Only the logits from the first labelled position on are computed: with the loss on short
    answers, most of a large vocabulary's output layer is saved. Where even those are many, they are
    computed for labelled tokens alone, in parts, and never held together.

    Args:
        model: A causal language model whose forward takes `logits_to_keep`.
        batch: input_ids, attention_mask and labels, each (batch, tokens).
    """
    mask, labels = batch["attention_mask"], batch["labels"]
    labelled = (labels != IGNORED).any(dim=0).int()
    kept = labels.shape[1] - int(labelled.argmax())  # from the first labelled column to the end
    forward = {
        "input_ids": batch["input_ids"],
        "attention_mask": mask,
        "position_ids": (mask.cumsum(dim=1) - 1).clamp(min=0),
        "logits_to_keep": kept + 1,  # the logits of a token stand one position before it
        "use_cache": False,
    }
    head = _frozen_head(model)
    if head is not None and len(labels) * kept * head.out_features > LOGITS_AT_ONCE:
        hidden = _inputs_of(head, model, forward)
        if hidden is not None:
            targets = labels[:, -kept:][:, -(hidden.shape[1] - 1) :]
            chosen = targets != IGNORED
            inputs = hidden[:, -targets.shape[1] - 1 : -1][chosen]
            return _in_parts(inputs, head.weight, head.bias, targets[chosen])
    output = model(**forward)
    logits = output.logits[:, -(kept + 1) : -1]  # (batch, kept, vocabulary)
    if logits.dtype in (torch.bfloat16, torch.float16):
        logits = logits.float()
    targets = labels[:, -kept:][:, -logits.shape[1] :]
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)


def _frozen_head(model: Any) -> nn.Linear | None:
    """Return the output layer where it is a plain one that nothing trains."""
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear or not _IS_RETURNED.get(head, True):
        return None
    return None if any(p.requires_grad for p in head.parameters()) else head


def _inputs_of(head: nn.Linear, model: Any, forward: dict[str, Any]) -> Tensor | None:
    """Run a model without most of its output layer; return what that layer would have read.

    The layer sees the last token of each row alone. What the model makes of it must be what the
    layer does: None where it is not, since the model caps its logits, or scales them.
    """
    read: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        read.append(inputs[0])
        return (inputs[0][:, -1:],)

    hook = head.register_forward_pre_hook(keep)
    try:
        logits = model(**forward).logits
    finally:
        hook.remove()
    if head not in _IS_RETURNED:
        with torch.no_grad():
            expected = functional.linear(read[-1][:, -1:], head.weight, head.bias)
        same = torch.equal(logits, expected.to(logits.dtype))
        _IS_RETURNED[head] = len(read) == 1 and same
    return read[0] if _IS_RETURNED[head] else None


def _in_parts(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy of `targets` (tokens,), by what the output layer reads.

    Args:
        hidden: (tokens, width).
        weight: Of the output layer, (vocabulary, width).
        bias: Of the output layer, (vocabulary,), or None.
        targets: The tokens that should come next.
    """
    tokens = max(1, LOGITS_AT_ONCE // len(weight))
    loss: Tensor = _CrossEntropy.apply(hidden, weight, bias, targets, tokens)  # type: ignore[no-untyped-call]
    return loss


class _CrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of an output layer, with the gradient of its input: no logits are kept.

    With p the softmax of the logits of a token and y its target, the gradient of its loss by what
    the layer reads is Wᵀ (p - e_y); it is computed at once, while the logits are there.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, tokens: int
    ) -> Tensor:
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        if hidden.dtype == torch.float64:
            total = total.double()
        for start in range(0, len(hidden), tokens):
            part = slice(start, start + tokens)
            logits = functional.linear(hidden[part], weight, bias).to(total.dtype)
            at = targets[part, None]
            normalizer = logits.logsumexp(dim=1, keepdim=True)
            total += (normalizer - logits.gather(1, at)).sum()
            if gradient is not None:
                shares = logits.sub_(normalizer).exp_()
                shares.scatter_add_(1, at, shares.new_full(at.shape, -1.0))
                gradient[part] = shares.to(weight.dtype) @ weight
        ctx.save_for_backward(gradient)
        ctx.tokens = len(hidden)
        return total / len(hidden)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_loss: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        found = None if gradient is None else gradient * (of_loss / ctx.tokens)
        return found, None, None, None, None
