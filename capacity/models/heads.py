"""What makes logits of last hidden states: a linear map where it measures as one, else the model's own tail."""

import copy
from typing import Any

import torch
import transformers  # what is quoted below takes it seconds to import: not before a model is loaded
from torch import Tensor


@torch.no_grad()
def linear(model: "transformers.PreTrainedModel") -> tuple[Tensor | None, Tensor | None]:
    """Return (W, b) if logits are base_model's last hidden states times Wᵀ plus b, measured; else (None, None).

    Measured at the scale that the model itself gives, and where logits reach 300, which a cap bends at the latest.
    """
    head = model.get_output_embeddings()
    if not isinstance(head, torch.nn.Linear) or model.base_model is model or head.weight.device.type == "meta":
        return None, None
    table: Any = model.get_input_embeddings()
    embeds = table(torch.arange(8, device=table.weight.device).unsqueeze(0) % len(table.weight))
    states = getattr(model.base_model(inputs_embeds=embeds, use_cache=False), "last_hidden_state", None)
    if states is None or states.shape[-1] != head.weight.shape[1]:
        return None, None
    states = states.to(head.weight)  # some recurrent models keep theirs wider
    larger = states * (300 / head(states).abs().max().clamp_min(1e-3))
    own = model(inputs_embeds=embeds, use_cache=False).logits
    handle = head.register_forward_pre_hook(lambda *_: (larger,))
    try:
        own_larger = model(inputs_embeds=embeds, use_cache=False).logits
    finally:
        handle.remove()
    for hidden, expected in ((states, own), (larger, own_larger)):
        logits = torch.nn.functional.linear(hidden, head.weight, head.bias).to(expected)
        tolerance = 8 * torch.finfo(logits.dtype).eps * expected.abs().max().clamp_min(1.0)
        if logits.shape != expected.shape or not (logits - expected).abs().max() <= tolerance:  # NaN is not equal
            return None, None
    # Beside [mem], also where the model is spread over devices: a fit needs them side by side.
    return head.weight.to(embeds.device), None if head.bias is None else head.bias.to(embeds.device)


class _Given(torch.nn.Module):
    """A base model whose last hidden states are what it is given."""

    def forward(self, *, inputs_embeds: Tensor, **_: Any) -> Any:
        from transformers.modeling_outputs import BaseModelOutputWithPast

        return BaseModelOutputWithPast(last_hidden_state=inputs_embeds)  # pyright: ignore[reportArgumentType]


@torch.no_grad()
def tail(model: "transformers.PreTrainedModel") -> "transformers.PreTrainedModel | None":
    """Return the model without its base, so that it makes logits of hidden states; None where it does not, measured."""
    prefix = model.base_model_prefix
    if model.base_model is model or prefix not in model._modules:
        return None
    rest = copy.copy(model)
    rest._modules = model._modules | {prefix: _Given()}
    table: Any = model.get_input_embeddings()
    embeds = table(torch.arange(8, device=table.weight.device).unsqueeze(0) % len(table.weight))
    expected = model(inputs_embeds=embeds, use_cache=False).logits
    try:
        logits = rest(inputs_embeds=model.base_model(inputs_embeds=embeds, use_cache=False).last_hidden_state).logits
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError):  # it asks more of its base than states
        return None
    return rest if logits.shape == expected.shape and torch.allclose(logits, expected, rtol=1e-4, atol=1e-5) else None
