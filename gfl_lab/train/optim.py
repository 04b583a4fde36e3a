"""Additions to mmengine's optimizer wrapper: parameter groups by our settings, and autocast on a CPU as well as on a GPU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS
from torch import nn
from torch.amp.grad_scaler import GradScaler

from gfl_lab.errors import FailureKind, TrialError

INITIAL_LOSS_SCALE = 512.0
"""Initial loss scale of ViT-Adapter's published training (``fp16 = dict(loss_scale=dict(init_scale=512))``)."""
LEAST_LOSS_SCALE = 2.0**-10
"""Below this no step can succeed any more: the gradients are not finite at any scale."""

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class SettingsOptimConstructor(DefaultOptimWrapperConstructor):
    """Parameter groups by ``paramwise_cfg`` = {no_decay: substrings of names, bias_lr: factor}.

    A parameter whose full name (``bbox_head.gfl_cls.bias``) contains one of ``no_decay`` has no weight decay; a bias has
    ``bias_lr`` times the rate unless it is a norm's, as mmdet 1.x had it. Both may hold for one parameter, as in GFL's
    first code (bias rate doubled, bias decay 0), which mmengine's own ``custom_keys`` cannot express.
    """

    def add_params(self, params: list[dict[str, Any]], module: nn.Module, prefix: str = "", is_dcn_module: Any = None) -> None:
        """Append at most four groups, that of the plain parameters first: its rate is the one that is logged."""
        of_norms = {id(norm.bias) for norm in module.modules() if isinstance(norm, _NORMS)}
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            is_bias = name.rpartition(".")[2] == "bias" and id(parameter) not in of_norms
            faster = is_bias and self.paramwise_cfg["bias_lr"] != 1
            undecayed = any(part in name for part in self.paramwise_cfg["no_decay"])
            groups.setdefault((faster, undecayed), []).append(parameter)
        for (faster, undecayed), members in sorted(groups.items(), key=lambda group: group[0]):
            rate = self.base_lr * (self.paramwise_cfg["bias_lr"] if faster else 1)
            params.append({"params": members, "lr": rate, "weight_decay": 0.0 if undecayed else self.base_wd})


@OPTIM_WRAPPERS.register_module()
class TrialOptimWrapper(OptimWrapper):
    """mmengine's wrapper, which clips gradients without waiting for a GPU: mmengine records their norm at each step, for no reader."""

    def step(self, **kwargs: Any) -> None:
        """Clip the gradients, if a limit is set, and take a step of the optimizer."""
        self.clip_gradients()
        self.optimizer.step(**kwargs)

    def clip_gradients(self) -> None:
        """Clip the gradients of all parameters together to ``clip_grad_kwargs``; None leaves them as they are."""
        if self.clip_grad_kwargs:
            parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
            self.clip_func([parameter for parameter in parameters if parameter.grad is not None], **self.clip_grad_kwargs)


@OPTIM_WRAPPERS.register_module()
class AutocastOptimWrapper(TrialOptimWrapper):
    """The forward pass under autocast; for float16 the loss is scaled so that small gradients survive.

    mmengine's AmpOptimWrapper needs a GPU, and its autocast takes only bfloat16 on a CPU. The scale doubles after 2,000 good
    steps and halves after a step whose gradients overflow, which is left out; both are torch's ``GradScaler``. With float16 a step on
    a GPU waits for the scale, and for whether a gradient overflows unless the optimizer is a fused one; with bfloat16 it does not.

    Args:
        precision: ``bfloat16`` or ``float16``.
    """

    def __init__(self, *args: Any, precision: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.dtype = getattr(torch, precision)
        device = self.optimizer.param_groups[0]["params"][0].device.type
        self.scaler = GradScaler(device, init_scale=INITIAL_LOSS_SCALE, enabled=self.dtype is torch.float16)

    @contextlib.contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Use autocast on the model's device."""
        with super().optim_context(model), torch.autocast(next(model.parameters()).device.type, dtype=self.dtype):
            yield

    def backward(self, loss: torch.Tensor, **kwargs: Any) -> None:
        """Run the backward pass of the scaled loss."""
        super().backward(self.scaler.scale(loss), **kwargs)

    def step(self, **kwargs: Any) -> None:
        """Take a step of the optimizer, or none when a gradient is not finite.

        Raises:
            TrialError: gradients are not finite at any scale.
        """
        if self.clip_grad_kwargs:
            self.scaler.unscale_(self.optimizer)
            self.clip_gradients()
        self.scaler.step(self.optimizer, **kwargs)
        self.scaler.update()
        if self.scaler.is_enabled() and (scale := self.scaler.get_scale()) < LEAST_LOSS_SCALE:
            raise OverflowingGradients(
                f"gradients overflow float16 at any scale of the loss (it is down to {scale:g}); "
                "precision: bfloat16 or float32, or a lower lr, is the usual cure"
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the optimizer's state, and the loss scale's."""
        return super().state_dict() | {"loss_scaler": self.scaler.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what ``state_dict`` returned."""
        state = dict(state_dict)
        self.scaler.load_state_dict(state.pop("loss_scaler"))
        super().load_state_dict(state)


class OverflowingGradients(TrialError):
    """No loss scale keeps the gradients finite in float16."""

    kind = FailureKind.NON_FINITE_LOSS
