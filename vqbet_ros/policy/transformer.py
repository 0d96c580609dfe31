"""A causal pre-norm transformer (GPT-2 layout) on scaled dot-product attention.

Legend: B batch, T tokens, D width, H heads.
"""

import math

import torch
from torch import nn, Tensor
from torch.nn import functional as F


class Block(nn.Module):
    """Attention and MLP, each behind a layer norm and added to its input."""

    def __init__(self, *, width: int, heads: int, dropout: float) -> None:
        """Build one block; `width` must be a multiple of `heads`."""
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.norm_1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.norm_2 = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Map (B, T, D) to (B, T, D); `mask` (B, 1, T, T) bool, None for plain causal."""
        batch, tokens, width = x.shape
        qkv = self.qkv(self.norm_1(x))  # (B, T, 3D)
        q, k, v = qkv.reshape(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # (B,H,T,.)
        mixed = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask,
            is_causal=mask is None,
            dropout_p=self.dropout if self.training else 0.0,
        )
        mixed = mixed.transpose(1, 2).reshape(batch, tokens, width)  # (B, T, D)
        x = x + F.dropout(self.project(mixed), self.dropout, self.training)
        hidden = self.contract(F.gelu(self.expand(self.norm_2(x))))
        return x + F.dropout(hidden, self.dropout, self.training)


class Transformer(nn.Module):
    """A stack of blocks and a final layer norm."""

    def __init__(self, *, layers: int, width: int, heads: int, dropout: float) -> None:
        """Build the stack with GPT-2's initialisation.

        Raises:
            ValueError: `width` is no multiple of `heads`.
        """
        super().__init__()
        if width % heads:
            raise ValueError(f'width must be a multiple of heads, got {width=} and {heads=}')
        self.blocks = nn.ModuleList(
            Block(width=width, heads=heads, dropout=dropout) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2:
                continue
            # GPT-2 shrinks what is added to the residual stream, so that its variance stays the
            # same however many layers add to it.
            into_stream = name.endswith(('project.weight', 'contract.weight'))
            std = 0.02 / math.sqrt(2 * layers) if into_stream else 0.02
            nn.init.normal_(parameter, std=std)
        for name, parameter in self.named_parameters():
            if name.endswith('bias'):
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        """Map tokens (B, T, D) to (B, T, D), each seeing itself and those before it.

        Args:
            x: Tokens with their positions added.
            present: (B, T) bool, False for tokens that nobody may look at; None when all are
                there.
        """
        mask = None if present is None else attention_mask(present)
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x)  # type: ignore[no-any-return]


def attention_mask(present: Tensor) -> Tensor:
    """Return who may look at whom: (B, T) bool to (B, 1, T, T) bool, causal and present.

    A token always sees itself, so that the rows of absent tokens give numbers rather than NaN.
    """
    tokens = present.shape[1]
    causal = torch.ones(tokens, tokens, dtype=torch.bool, device=present.device).tril()
    itself = torch.eye(tokens, dtype=torch.bool, device=present.device)
    return ((causal & present[:, None, :]) | itself)[:, None]
