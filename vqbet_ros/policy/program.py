"""The forward pass of one decision: a policy's, less what a decision does not need.

It gives the numbers of `Policy.act`, to rounding. Of the last trunk layer only the last token goes
through to the heads; of the offsets only those of the codes that were taken are computed; and what
later tokens see of a goal is computed once a goal. More cannot be kept from one decision to the
next: a step's position is counted from the newest one, so its tokens change as it grows old.

Legend: N frames, h history steps, n cameras, F features, S state channels, g goal steps, T tokens,
P goal tokens, D width, H heads, E width of a head, G code layers, C codes a layer.
"""

from dataclasses import dataclass

import torch
from torch import nn, Tensor
from torch.nn import functional as F
from vqbet_ros.policy.heads import Stay
from vqbet_ros.policy.packed import Convolution, Dense, Numbers, PLAIN, Residual
from vqbet_ros.policy.policy import Goal, Policy
from vqbet_ros.policy.transformer import attention_mask, Block
from vqbet_ros.policy.vision import ImageEncoder
from vqbet_ros.policy.vqbet import Decoded


@dataclass(frozen=True)
class Prefix:
    """What later tokens see of a goal.

    Attributes:
        layers: Keys and values (H, P, E) in each layer.
        present: (1, P) bool, False for tokens of goal frames that are not there; nobody sees them.
    """

    layers: list[tuple[Tensor, Tensor]]
    present: Tensor


class Encoder(nn.Module):
    """An image encoder of frames as they come, uint8."""

    mean: Tensor

    def __init__(self, encoder: ImageEncoder, *, side: tuple[int, int], numbers: Numbers) -> None:
        """Take over an encoder; it is left as it is.

        Args:
            encoder: In evaluation mode.
            side: (height, width) of the frames that it will mostly see.
            numbers: What the convolutions compute with.
        """
        super().__init__()
        shapes = _shapes(encoder.trunk, torch.zeros(1, 3, *side, device=encoder.mean.device))
        conv, norm, _, pool, *stages = encoder.trunk
        assert isinstance(conv, nn.Conv2d), 'a ResNet begins with one'
        # What pixels are divided by goes into the first weights. The mean cannot: the padding is
        # zero where it has been taken off.
        scaled = _with_weights(conv, conv.weight / (255.0 * encoder.std))
        self.first = Convolution(scaled, norm, shape=shapes[conv], numbers=numbers)
        self.pool = pool
        self.stages = nn.Sequential(
            *(Residual(block, shapes, numbers) for stage in stages for block in stage.children())
        )
        self.head, self.out, self.dtype = encoder.pool, encoder.out, numbers.dtype
        self.register_buffer('mean', 255.0 * encoder.mean.reshape(3))

    def forward(self, pixels: Tensor) -> Tensor:
        """Map frames (N, H, W, 3) uint8 to features (N, F) float32."""
        images = (pixels - self.mean).to(self.dtype).permute(0, 3, 1, 2)  # so channels are last
        maps = self.stages(self.pool(self.first(images)))
        return F.relu(self.out(self.head(maps.float())))


class Layer(nn.Module):
    """A layer of the trunk, for a single sequence; the batch dimension is left out."""

    def __init__(self, block: Block, *, rows: int, only_last: bool, numbers: Numbers) -> None:
        """Take over a block; it is left as it is.

        Args:
            block: In evaluation mode.
            rows: Tokens that it will mostly see.
            only_last: Compute the last row alone.
            numbers: What the linear layers compute with; norms and the sum are float32.
        """
        super().__init__()

        def dense(linear: nn.Linear, rows: int) -> Dense:
            return Dense(linear, rows=rows, numbers=numbers)

        self.heads, self.only_last = block.heads, only_last
        self.norm_1, self.norm_2 = block.norm_1, block.norm_2
        width = block.qkv.in_features
        if only_last:
            self.query = dense(_rows(block.qkv, 0, width), 1)
            self.keys = dense(_rows(block.qkv, width, 3 * width), rows)
            rows = 1
        else:
            self.qkv = dense(block.qkv, rows)
        self.project = dense(block.project, rows)
        self.expand, self.contract = dense(block.expand, rows), dense(block.contract, rows)

    def forward(
        self, x: Tensor, mask: Tensor, before: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Map rows (T, D) to rows (T, D), or to the last one (1, D).

        Args:
            x: The rows.
            mask: (1, 1, T, P+T) bool, who may look at whom.
            before: Keys and values (H, P, E) of what stands before the rows.

        Returns:
            The new rows, and keys and values (H, T, E) of those given.
        """
        normal = self.norm_1(x)
        if self.only_last:
            k, v = self._split(self.keys(normal))
            (q,) = self._split(self.query(normal[-1:]))
            x, mask = x[-1:], mask[:, :, -1:]
        else:
            q, k, v = self._split(self.qkv(normal))
        own = (k, v)
        if before is not None:
            k, v = torch.cat([before[0], k], dim=1), torch.cat([before[1], v], dim=1)
        mixed = F.scaled_dot_product_attention(q[None], k[None], v[None], attn_mask=mask)[0]
        x = self.project(mixed.transpose(0, 1).flatten(1), add=x)
        return self.contract(self.expand(self.norm_2(x), 'gelu'), add=x), own

    def _split(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Turn (T, m*D) into m times (H, T, E)."""
        parts = rows.unflatten(1, (-1, self.heads, self.norm_1.weight.shape[0] // self.heads))
        return tuple(parts.permute(1, 2, 0, 3).unbind(0))


class Program(nn.Module):
    """What a policy computes while it runs."""

    def __init__(self, policy: Policy, numbers: Numbers = PLAIN) -> None:
        """Take over a policy's weights; those of the codes and all that decodes are shared.

        Args:
            policy: In evaluation mode, on its device.
            numbers: What encoder and trunk compute with.
        """
        super().__init__()
        self.policy, vqbet = policy, policy.vqbet
        self.encoder: Encoder | None = None
        if policy.encoder is not None:
            camera, crop = policy.spec.cameras[0], policy.config.vision.crop
            side = (camera.height, camera.width) if crop is None else (crop, crop)
            self.encoder = Encoder(policy.encoder, side=side, numbers=numbers)
        blocks = [block for block in vqbet.trunk.blocks if isinstance(block, Block)]
        self.layers = nn.ModuleList(
            Layer(
                block,
                rows=vqbet.history * vqbet.step_tokens,
                only_last=block is blocks[-1],
                numbers=numbers,
            )
            for block in blocks
        )

    def encode(self, pixels: Tensor) -> Tensor:
        """Return the features (N, F) of cropped frames (N, H, W, 3) uint8."""
        assert self.encoder is not None, 'the policy has no camera'
        features: Tensor = self.encoder(pixels)
        return features

    def goal(self, goal: Goal) -> Prefix:
        """Return what later tokens see of a goal, a batch of one."""
        vqbet = self.policy.vqbet
        steps = self.policy.steps(goal.features, goal.state, goal.present)
        tokens, there = vqbet.embed(
            steps, vqbet.goal_position, state=vqbet.goal_state, query=False
        )
        if there is None:
            there = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        x, mask = tokens[0], attention_mask(there)  # (P, D), (1, 1, P, P)
        layers = []
        for layer in self.layers:
            x, own = layer(x, mask)
            layers.append(own)
        return Prefix(layers, there)

    def decide(
        self,
        features: Tensor | None,
        state: Tensor,
        present: Tensor,
        prefix: Prefix | None = None,
        *,
        temperature: float = 0.0,
        noise: Tensor | None = None,
        stay: Stay | None = None,
    ) -> Decoded:
        """Decide on a chunk as `Policy.act` does, for a batch of one.

        Args:
            features: (1, h, n, F), None without cameras.
            state: (1, h, S) in the robot's units.
            present: (1, h) bool.
            prefix: Of a goal, None without one.
            temperature: See `CodeHead.choose`.
            noise: See `CodeHead.choose`.
            stay: See `CodeHead.choose`.
        """
        policy, vqbet = self.policy, self.policy.vqbet
        steps = policy.steps(features, state, present)
        tokens, there = vqbet.embed(steps, vqbet.position, state=True, query=True)
        assert there is not None, 'presence is given'
        mask = attention_mask(there)  # (1, 1, T, T)
        if prefix is not None:
            goals = prefix.present[:, None, None].expand(-1, -1, mask.shape[2], -1)
            mask = torch.cat([goals, mask], dim=-1)  # (1, 1, T, P+T)
        x = tokens[0]  # (T, D)
        for number, layer in enumerate(self.layers):
            x, _ = layer(x, mask, None if prefix is None else prefix.layers[number])
        hidden = vqbet.trunk.norm(x)  # (1, D)
        codes, probabilities = vqbet.code_head.choose(hidden, temperature, noise, stay)
        chunk = vqbet.tokenizer.decode(codes) + vqbet.offset_head.chosen(hidden, codes)
        return Decoded(policy.to_robot(chunk, state[:, -1]), codes, probabilities)


def _with_weights(conv: nn.Conv2d, weight: Tensor) -> nn.Conv2d:
    new = nn.utils.skip_init(
        nn.Conv2d,
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        stride=conv.stride,
        padding=conv.padding,
        bias=False,
    )
    new.weight = nn.Parameter(weight.detach(), requires_grad=False)
    return new.eval()  # type: ignore[no-any-return]


def _rows(linear: nn.Linear, begin: int, end: int) -> nn.Linear:
    """Cut a linear layer that gives only some of the outputs."""
    new = nn.utils.skip_init(nn.Linear, linear.in_features, end - begin)
    new.weight = nn.Parameter(linear.weight[begin:end].detach(), requires_grad=False)
    new.bias = nn.Parameter(linear.bias[begin:end].detach(), requires_grad=False)
    return new  # type: ignore[no-any-return]


@torch.inference_mode()
def _shapes(trunk: nn.Module, images: Tensor) -> dict[nn.Module, tuple[int, ...]]:
    """Return what each convolution sees when the trunk sees images (N, 3, H, W)."""
    shapes: dict[nn.Module, tuple[int, ...]] = {}
    hooks = [
        module.register_forward_hook(
            lambda module, args, _: shapes.__setitem__(module, tuple(args[0].shape))
        )
        for module in trunk.modules()
        if isinstance(module, nn.Conv2d)
    ]
    trunk(images)
    for hook in hooks:
        hook.remove()
    return shapes
