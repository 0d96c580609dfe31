"""Layers for running alone: batch norm folded in, weights arranged once, what follows them fused.

Layers that see few rows lose most of their time where weights are arranged anew at each call, as
PyTorch's CPU layers do. oneDNN, which PyTorch brings along, runs on weights that were arranged
once; these are the operators that torch.compile uses for that, called without a compiler. What is
left is mostly waiting for weights to be read. FBGEMM, which PyTorch brings along too, reads half
as much: it keeps them in float16 and multiplies in float32. Where one of them is not to be had the
next best runs; `Numbers.best` chooses.

Legend: N frames, C channels, T rows, D width.
"""

from collections.abc import Callable
from dataclasses import dataclass
import logging
from typing import Literal

import torch
from torch import nn, Tensor
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

Activation = Literal['none', 'relu', 'gelu']
_PLAIN: dict[Activation, Callable[[Tensor], Tensor]] = {
    'none': lambda x: x,
    'relu': F.relu,
    'gelu': F.gelu,
}
_ALGORITHM: dict[Activation, str] = {'none': '', 'relu': '', 'gelu': 'none'}  # gelu by erf
Precision = Literal['float32', 'bfloat16', 'float16']
"""What a user asks for; see `Numbers.best`."""
Packing = Literal['none', 'onednn', 'float16']
"""Weights as PyTorch has them; as oneDNN wants them; the same, but FBGEMM's in linear layers."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Numbers:
    """What layers compute with.

    Attributes:
        dtype: Of activations, and of weights that are not packed as float16.
        packing: How weights are held.
    """

    dtype: torch.dtype = torch.float32
    packing: Packing = 'none'

    @classmethod
    def best(cls, device: torch.device, precision: Precision | None = None) -> 'Numbers':
        """Choose the fastest that is there and gives what PyTorch's layers give; logs why not.

        Args:
            device: Where the layers run.
            precision: None is float16. On a GPU it is that of everything, on a CPU of the linear
                layers' weights alone: there is hardly a CPU that computes in it.
        """
        # Not bfloat16, which changes one decision in 40 of models/pusht_image, float16 none.
        precision = precision or 'float16'
        if device.type != 'cpu':
            return cls(getattr(torch, precision))
        dtype = torch.float32 if precision == 'float16' else getattr(torch, precision)
        wanted: tuple[Packing, ...] = ('onednn',)
        if precision == 'float16':
            wanted = ('float16', *wanted)
        for packing in wanted:
            numbers = cls(dtype, packing)
            if numbers.work():
                return numbers
        return cls(dtype)

    def work(self) -> bool:
        """Tell whether packed layers are there and give what plain ones give; logs why not."""
        try:
            error = _difference(self)
        except (AttributeError, RuntimeError, TypeError) as problem:
            # AttributeError: no such operator; RuntimeError: not for this CPU; TypeError: it takes
            # other arguments than those known here.
            reason = str(problem).partition('\n')[0]
        else:
            # Rounded as often, but not in the same order: about a hundredth of 1 in bfloat16.
            if error <= (5e-2 if self.dtype == torch.bfloat16 else 1e-2):
                return True
            reason = f'they differ by {error:g} from plain ones'
        log.warning('layers packed as %s are not used: %s', self.packing, reason)
        return False

    @property
    def name(self) -> str:
        """The name of `dtype`."""
        return str(self.dtype).removeprefix('torch.')

    def __str__(self) -> str:
        """Name them in a line."""
        return f'{self.name}, trunk weights float16' if self.packing == 'float16' else self.name


PLAIN = Numbers()
"""As in training."""


class Dense(nn.Module):
    """A linear layer, and what follows it."""

    weight: Tensor
    bias: Tensor

    def __init__(self, linear: nn.Linear, *, rows: int, numbers: Numbers) -> None:
        """Take over a layer's weights.

        Args:
            linear: The layer; it is left as it is.
            rows: Rows that it will mostly see.
            numbers: What it computes with.
        """
        super().__init__()
        self.packing = numbers.packing
        weight, bias = (t.detach().to(numbers.dtype) for t in (linear.weight, linear.bias))
        self.register_buffer('bias', bias)
        if self.packing == 'float16':
            self.packed = torch.ops.quantized.linear_prepack_fp16(weight.contiguous(), bias)
            return
        if self.packing == 'onednn':
            weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), rows)
        self.register_buffer('weight', weight)

    def forward(
        self, x: Tensor, activation: Activation = 'none', add: Tensor | None = None
    ) -> Tensor:
        """Map rows (T, in) to activation(rows), or to rows + `add`; (T, out)."""
        x = x.to(self.bias.dtype)
        if self.packing == 'onednn':
            linear = torch.ops.mkldnn._linear_pointwise
            if add is not None and add.dtype == x.dtype:
                return linear.binary(x, add, self.weight, self.bias, 'add')  # type: ignore
            y: Tensor = linear(x, self.weight, self.bias, activation, [], _ALGORITHM[activation])
        elif self.packing == 'float16':
            y = _PLAIN[activation](torch.ops.quantized.linear_dynamic_fp16(x, self.packed))
        else:
            y = _PLAIN[activation](F.linear(x, self.weight, self.bias))
        return y if add is None else add + y


class Convolution(nn.Module):
    """A convolution with its norm, and what follows it."""

    weight: Tensor
    bias: Tensor | None

    def __init__(
        self,
        conv: nn.Conv2d,
        norm: nn.Module,
        *,
        shape: tuple[int, ...],
        numbers: Numbers,
    ) -> None:
        """Take over the weights of a convolution and of its norm.

        Args:
            conv: The convolution; it is left as it is.
            norm: Batch norm is folded into the weights, another one stays behind them.
            shape: (N, C, h, w) that it will mostly see.
            numbers: What it computes with.
        """
        super().__init__()
        self.norm: nn.Module | None = None
        if isinstance(norm, nn.BatchNorm2d):
            conv = fuse_conv_bn_eval(conv, norm)
        else:
            self.norm = norm
        assert not isinstance(conv.padding, str), 'a ResNet has numbers'
        self.padding, self.stride = list(conv.padding), list(conv.stride)
        self.pack, dtype = numbers.packing != 'none', numbers.dtype
        weight = conv.weight.detach().to(dtype).contiguous(memory_format=torch.channels_last)
        if self.pack:
            weight = torch.ops.mkldnn._reorder_convolution_weight(
                weight, self.padding, self.stride, [1, 1], 1, list(shape)
            )
        self.register_buffer('weight', weight)
        self.register_buffer('bias', None if conv.bias is None else conv.bias.detach().to(dtype))

    def forward(
        self, x: Tensor, activation: Activation = 'relu', add: Tensor | None = None
    ) -> Tensor:
        """Map maps (N, C, h, w) to activation(maps + `add`)."""
        if not self.pack or self.norm is not None:
            y = self._convolve(x)
            if self.norm is not None:
                y = self.norm(y.float()).to(y.dtype)
            return _PLAIN[activation](y if add is None else y + add)
        if add is None:
            return self._convolve(x, activation)
        how = (self.weight, self.bias, self.padding, self.stride, [1, 1], 1)
        convolve = torch.ops.mkldnn._convolution_pointwise.binary
        return convolve(x, add, *how, 'add', 1.0, activation, [], None)  # type: ignore

    def _convolve(self, x: Tensor, activation: Activation = 'none') -> Tensor:
        if not self.pack:
            return F.conv2d(x, self.weight, self.bias, self.stride, self.padding)
        how = (self.weight, self.bias, self.padding, self.stride, [1, 1], 1)
        return torch.ops.mkldnn._convolution_pointwise(x, *how, activation, [], '')  # type: ignore


class Residual(nn.Module):
    """A residual block of torchvision's ResNets, basic or bottleneck."""

    def __init__(
        self, block: nn.Module, shapes: dict[nn.Module, tuple[int, ...]], numbers: Numbers
    ) -> None:
        """Take over a block.

        Args:
            block: It is left as it is.
            shapes: What each of its convolutions sees.
            numbers: What it computes with.
        """
        super().__init__()

        def take(conv: nn.Conv2d, norm: nn.Module) -> Convolution:
            return Convolution(conv, norm, shape=shapes[conv], numbers=numbers)

        depths = [n for n in (1, 2, 3) if hasattr(block, f'conv{n}')]
        pairs = [(getattr(block, f'conv{n}'), getattr(block, f'bn{n}')) for n in depths]
        *first, last = (take(*pair) for pair in pairs)
        self.first, self.last = nn.ModuleList(first), last
        shorter = getattr(block, 'downsample', None)
        self.shortcut = None if shorter is None else take(*shorter)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, h, w) to (N, C', h', w')."""
        shortcut = x if self.shortcut is None else self.shortcut(x, 'none')
        for convolution in self.first:
            x = convolution(x)
        return self.last(x, add=shortcut)  # type: ignore[no-any-return]


@torch.inference_mode()
def _difference(numbers: Numbers) -> float:
    """Return by how much packed layers differ from plain ones, of values around 1."""
    with torch.random.fork_rng(devices=[]):  # what the caller draws is not ours to move
        torch.manual_seed(0)
        linear, norm = nn.Linear(32, 32), nn.BatchNorm2d(16).eval()
        conv = nn.Conv2d(16, 16, 3, padding=1, bias=False).eval()
        x, maps = torch.randn(5, 32), torch.randn(1, 16, 6, 6)
    maps = maps.to(numbers.dtype, memory_format=torch.channels_last)
    results = []
    for these in (Numbers(numbers.dtype), numbers):
        dense = Dense(linear, rows=5, numbers=these)
        convolution = Convolution(conv, norm, shape=(1, 16, 6, 6), numbers=these)
        results.append(
            (
                dense(x),
                dense(x, 'gelu'),
                dense(x, add=x.to(numbers.dtype)),
                convolution(maps),
                convolution(maps, add=maps),
            )
        )
    return max(float((a - b).abs().max()) for a, b in zip(*results, strict=True))
