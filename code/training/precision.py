"""Number formats: what is checked at the start, and set once per process."""

from __future__ import annotations

import torch
import torch._functorch.config
from torch import nn

from utils.errors import BadInput

AMP_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def resolve(options) -> None:
    """Fills in the layout that is fastest on the device; raises BadInput for what it cannot do."""
    device = options.device
    if options.channels_last is None:  # measured: 2 to 10 % on a CPU; usual for half precision
        options.channels_last = device == "cpu" or options.amp != "off"
    if device != "cuda":
        for flag in ("tf32", "sync_batchnorm"):
            if vars(options)[flag]:
                raise BadInput(f"--{flag}: needs --device cuda, this run is on {device}")
    if options.amp != "off":
        try:
            supported = device != "cuda" or options.amp == "fp16" or torch.cuda.is_bf16_supported()
            with torch.autocast(device, AMP_DTYPES[options.amp]):
                picture = torch.ones(1, 1, 4, 4, device=device)
                kernel = torch.ones(1, 1, 3, 3, device=device, requires_grad=True)
                torch.nn.functional.conv2d(picture, kernel).float().sum().backward()
        except RuntimeError:
            supported = False
        if not supported:
            raise BadInput(f"--amp {options.amp}: this {device} cannot; use --amp off")


def prepare(options) -> None:
    """Float32 means float32 unless `--tf32`; convolutions are tuned to the shapes they see."""
    torch.backends.cuda.matmul.allow_tf32 = options.tf32
    torch.backends.cudnn.allow_tf32 = options.tf32
    torch.backends.cudnn.benchmark = True


def arrange(options, model: nn.Module) -> nn.Module:
    """The model with the memory layout, compilation and normalisation that were asked for."""
    if options.sync_batchnorm:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    if options.channels_last:
        model = model.to(memory_format=torch.channels_last)
    if options.compile:
        # Each encoder by itself: a loss then still reaches its own encoder only. Two losses pass
        # backward through it, so what it saved must survive the first pass; the tag keeps out code
        # from a cache that was compiled otherwise.
        torch._functorch.config.donated_buffer = False
        torch.compiler.config.cache_key_tag = "several backward passes"
        for encoder in model.encoders.values():
            encoder.compile()
    return model


def autocast(options) -> torch.autocast:
    """The context of the forward pass and the losses."""
    dtype = AMP_DTYPES.get(options.amp)
    return torch.autocast(options.device, dtype, enabled=dtype is not None)


def scaler(options) -> torch.amp.GradScaler:
    """Scales fp16 losses; with the other formats it passes everything through."""
    return torch.amp.GradScaler(options.device, enabled=options.amp == "fp16")
