"""The Vector-Quantized Behavior Transformer (Lee et al. 2024), goal-conditioned.

    goal_1 … goal_g | o_1 … o_h                 each step: [camera_1 … camera_n, state, query]
                              └► trunk ► codes ► decoder(sum of codes) + offsets = chunk

The output is read at each step's last token. Goal steps have no query token. Steps that are not
there (goals that were dropped, history before an episode began) are masked from attention, which
gives the same numbers as leaving their tokens out: positions are counted from the newest step.

Legend: B batch, h history steps, g goal steps, n cameras, F features, S state channels,
K tokens a step, D width, W chunk steps, A action channels, G code layers, C codes a layer.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn, Tensor
from vqbet_ros.policy.heads import CodeHead, focal_loss, gumbel_noise, OffsetHead, Stay
from vqbet_ros.policy.tokenizer import ActionTokenizer
from vqbet_ros.policy.transformer import Transformer


@dataclass(frozen=True)
class Steps:
    """Consecutive observations, normalised: what the trunk sees of history or goal.

    Attributes:
        features: (B, steps, n, F) of the cameras, None without cameras.
        state: (B, steps, S), None where the policy takes no state.
        present: (B, steps) bool, None when all steps are there.
    """

    features: Tensor | None
    state: Tensor | None
    present: Tensor | None = None


@dataclass(frozen=True)
class Decoded:
    """A decision: chunk (B, W, A) normalised, codes (B, G), code probabilities (B, G, C)."""

    actions: Tensor
    codes: Tensor
    probabilities: Tensor


class VQBeT(nn.Module):
    """Trunk and heads over feature vectors.

    Cameras are encoded outside, so that features can be computed once and kept.
    """

    def __init__(
        self,
        *,
        tokenizer: ActionTokenizer,
        cameras: int,
        feature_dim: int,
        state_dim: int,
        history: int,
        goal_steps: int = 0,
        goal_state: bool = False,
        query_token: bool = True,
        layers: int = 8,
        heads: int = 8,
        width: int = 512,
        dropout: float = 0.1,
        head_hidden: int | None = None,
        code_mode: Literal['joint', 'sequential'] = 'joint',
    ) -> None:
        """Build the policy.

        Args:
            tokenizer: Defines chunk, action channels, code layers and codebook size.
            cameras: Number of cameras n, 0 without images.
            feature_dim: Width F of a camera's feature vector.
            state_dim: State channels S, 0 without state.
            history: Observation steps h at most.
            goal_steps: Goal steps g at most, 0 for a policy without goals.
            goal_state: Whether goal steps have a state token; without cameras they must.
            query_token: Whether each step ends with a learned query token.
            layers: Trunk layers.
            heads: Attention heads.
            width: Trunk width D.
            dropout: Dropout in the trunk.
            head_hidden: Hidden width of code and offset head; None for linear heads.
            code_mode: See `CodeHead`.

        Raises:
            ValueError: There is neither camera nor state, or a goal step would have no token.
        """
        super().__init__()
        if cameras == 0 and state_dim == 0:
            raise ValueError('a policy needs at least one camera or a state')
        if goal_steps > 0 and cameras == 0 and not goal_state:
            raise ValueError('goals of a policy without cameras need goal_state: true')
        self.tokenizer = tokenizer
        self.cameras, self.history, self.goal_steps = cameras, history, goal_steps
        self.goal_state = goal_state and state_dim > 0
        self.feature_token = nn.Linear(feature_dim, width) if cameras else None
        self.state_token = nn.Linear(state_dim, width) if state_dim else None
        self.query = nn.Parameter(torch.zeros(width)) if query_token else None
        self.step_tokens = cameras + (state_dim > 0) + query_token  # K
        self.goal_tokens = cameras + self.goal_state
        self.position = nn.Parameter(torch.zeros(history, self.step_tokens, width))
        self.goal_position = nn.Parameter(torch.zeros(goal_steps, self.goal_tokens, width))
        self.trunk = Transformer(layers=layers, width=width, heads=heads, dropout=dropout)
        self.code_head = CodeHead(
            width=width,
            layers=tokenizer.layers,
            codebook_size=tokenizer.codebook_size,
            mode=code_mode,
            hidden=head_hidden,
        )
        self.offset_head = OffsetHead(
            width=width,
            layers=tokenizer.layers,
            codebook_size=tokenizer.codebook_size,
            chunk=tokenizer.chunk,
            action_dim=tokenizer.action_dim,
            hidden=head_hidden,
        )
        for parameter in (self.query, self.position, self.goal_position):
            if parameter is not None:
                nn.init.normal_(parameter, std=0.02)

    def train(self, mode: bool = True) -> 'VQBeT':
        """Switch mode; the tokenizer stays frozen, as its codes are this model's targets."""
        super().train(mode)
        self.tokenizer.eval()
        return self

    def forward(self, observed: Steps, goal: Steps | None = None) -> Tensor:
        """Return the trunk's output (B, steps, D) at each observed step.

        Args:
            observed: At most `history` steps, oldest first, the newest last.
            goal: At most `goal_steps` steps; None runs without a goal.

        Raises:
            ValueError: More steps than the policy has positions for.
        """
        tokens, present = self.embed(observed, self.position, state=True, query=True)
        steps = tokens.shape[1] // self.step_tokens
        if goal is not None:
            goals, goal_present = self.embed(
                goal, self.goal_position, state=self.goal_state, query=False
            )
            present = _join(goals, goal_present, tokens, present)
            tokens = torch.cat([goals, tokens], dim=1)
        hidden: Tensor = self.trunk(tokens, present)
        hidden = hidden[:, -steps * self.step_tokens :]
        return hidden[:, self.step_tokens - 1 :: self.step_tokens]  # each step's last token

    def decode(
        self,
        hidden: Tensor,
        temperature: float = 0.0,
        noise: Tensor | None = None,
        stay: Stay | None = None,
    ) -> Decoded:
        """Turn trunk outputs (B, D) into chunks; see `CodeHead.choose` for the arguments."""
        codes, probabilities = self.code_head.choose(hidden, temperature, noise, stay)
        actions = self.tokenizer.decode(codes) + self.offset_head(hidden, codes)
        return Decoded(actions, codes, probabilities)

    def loss(
        self,
        observed: Steps,
        goal: Steps | None,
        actions: Tensor,
        mask: Tensor,
        *,
        gamma: float = 2.0,
        primary_weight: float = 5.0,
        secondary_weight: float = 0.5,
        offset_weight: float = 100.0,
        offset_codes: Literal['sampled', 'true'] = 'sampled',
        temperature: float = 1.0,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the policy's loss, every position of the window counting.

        Args:
            observed: h steps.
            goal: g steps or None.
            actions: (B, h, W, A) normalised, the chunk of each step.
            mask: (B, h, W) bool, False for padding. Codes are learned from whole chunks only,
                offsets from every real step.
            gamma: Focal exponent.
            primary_weight: Weight of the first layer's code loss.
            secondary_weight: Weight of each further layer's code loss.
            offset_weight: Weight of the L1 between predicted and true chunk.
            offset_codes: Whether the chunk is predicted with codes drawn from the code head, as
                published, or with the true ones.
            temperature: Of that draw.

        Returns:
            The scalar loss and the metrics `code_loss`, `offset_loss`, `code_accuracy_1..G`.
        """
        hidden = self(observed, goal).flatten(0, 1)  # (N, D) with N = B*h
        actions, mask = actions.flatten(0, 1), mask.flatten(0, 1)  # (N, W, A), (N, W)
        codes = self.tokenizer.encode(actions)  # (N, G)
        whole = mask.all(-1).float()  # (N,)
        whole_share = whole / whole.sum().clamp(min=1)
        logits = self.code_head(hidden, codes).float()  # (N, G, C)
        per_layer = (focal_loss(logits, codes, gamma) * whole_share[:, None]).sum(0)  # (G,)
        code_loss = primary_weight * per_layer[0] + secondary_weight * per_layer[1:].sum()

        used = codes
        if offset_codes == 'sampled':
            noise = gumbel_noise(tuple(logits.shape), device=logits.device)
            with torch.no_grad():
                used, _ = self.code_head.choose(hidden, temperature, noise)
        with torch.no_grad():
            base = self.tokenizer.decode(used)  # the tokenizer gets no gradient from the policy
        predicted = base + self.offset_head(hidden, used).float()
        error = (predicted - actions).abs().mean(-1)  # (N, W)
        offset_loss = (error * mask).sum() / mask.sum().clamp(min=1)

        hit = (logits.detach().argmax(-1) == codes).float()  # (N, G)
        accuracy = (hit * whole_share[:, None]).sum(0)
        metrics = {'code_loss': code_loss.detach(), 'offset_loss': offset_loss.detach()}
        for layer in range(accuracy.shape[0]):
            metrics[f'code_accuracy_{layer + 1}'] = accuracy[layer]
        return code_loss + offset_weight * offset_loss, metrics

    def embed(
        self, steps: Steps, position: Tensor, *, state: bool, query: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return tokens (B, steps*K, D) with positions, and their presence (B, steps*K).

        Args:
            steps: History or goal.
            position: The positions of it.
            state: Whether its steps have a state token.
            query: Whether its steps have a query token.
        """
        parts: list[Tensor] = []
        if self.feature_token is not None:
            assert steps.features is not None, 'the policy has cameras: features are needed'
            parts.append(self.feature_token(steps.features))  # (B, steps, n, D)
        if self.state_token is not None and state:
            assert steps.state is not None, 'the policy has a state: it is needed'
            parts.append(self.state_token(steps.state)[:, :, None])  # (B, steps, 1, D)
        batch, count = parts[0].shape[:2]
        if self.query is not None and query:
            parts.append(self.query.expand(batch, count, 1, -1))
        if count > len(position):
            raise ValueError(f'got {count} steps, the policy was built for {len(position)}')
        tokens = torch.cat(parts, dim=2)  # (B, steps, K, D)
        tokens = tokens + position[len(position) - count :]
        present = steps.present
        if present is not None:
            present = present.repeat_interleave(tokens.shape[2], dim=1)
        return tokens.flatten(1, 2), present


def _join(
    goals: Tensor, goal_present: Tensor | None, tokens: Tensor, present: Tensor | None
) -> Tensor | None:
    if goal_present is None and present is None:
        return None
    both = []
    for part, there in ((goals, goal_present), (tokens, present)):
        everywhere = torch.ones(part.shape[:2], dtype=torch.bool, device=part.device)
        both.append(everywhere if there is None else there)
    return torch.cat(both, dim=1)
