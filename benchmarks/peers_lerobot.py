"""Measure LeRobot's VQBeTPolicy and DiffusionPolicy beside ours, in turns, in one process.

    make bench-peers
    .peers/bin/python benchmarks/peers_lerobot.py inference --threads 2 --json out/bench/peers.json

Runs in an environment with LeRobot 0.4.4 (Apache-2.0), which `make bench-peers` makes. All have
random weights and the configuration of LeRobot's VQ-BeT for PushT: one 96x96 camera cropped to 84,
a state of two numbers, 5 observation steps, chunks of 5. `inference` times decisions, each planned
anew with one new frame. Ours is timed from uint8 pictures and a state in the robot's units to
actions in the robot's units in numpy; LeRobot's from float tensors that are on the device already
to a normalised tensor there. `training` times steps of the whole model: ours with reading,
cropping, clipping and a moving average of the weights; LeRobot's on one batch that lies ready,
with clipping and the optimiser of its preset.

All train in float32, and so do LeRobot's decide; ours decides in what it would take on that device
and in float32 besides. On a GPU decisions are timed until they are there, steps of training by the
GPU's clock with nothing waiting in between, ours and theirs alike.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from itertools import islice
from pathlib import Path
import sys
import tempfile
import time
from typing import Any
import warnings

from measuring import parser_of, peer_training, SIDE_PX
import numpy as np
import torch
from torch import Tensor
from vqbet_ros.cli.bench_machine import machine
from vqbet_ros.cli.bench_policy import (
    EngineTimer,
    in_onnx_runtime,
    observations,
    peer_config,
    peer_spec,
    percentiles_ms,
    random_policy,
    TABLE_PX,
)
from vqbet_ros.cli.bench_training import durations_of, TrainingTimer
from vqbet_ros.cli.figures import write_json
from vqbet_ros.policy.engine import Engine

OURS = 'vqbet_ros VQ-BeT'
IMAGE, STATE, ACTION = 'observation.image', 'observation.state', 'action'
CROP = (84, 84)
CLIP = 10.0  # LeRobot's training clips the norm of the gradient at this


@dataclass
class Contender:
    """One that is measured: what a call does, what the calls took.

    Attributes:
        name: In the table.
        parameters: Of the whole model.
        call: One decision, or one step of training.
        warm_up: Calls that do not count.
        calls: Calls that do.
        device: Where.
        delivers: Whether each call is waited for, as who asks for a decision does.
        timer: Ours times itself.
    """

    name: str
    parameters: int
    call: Callable[[], Any]
    warm_up: int
    calls: int
    device: torch.device
    delivers: bool
    timer: EngineTimer | TrainingTimer | None = None
    durations_s: list[float] = field(default_factory=list)

    def prepare(self) -> None:
        """Make the calls that do not count."""
        if self.timer is not None:
            self.timer.warm_up()
            self.durations_s = self.timer.durations_s
            return
        self.run(self.warm_up)
        self.durations_s.clear()

    def run(self, calls: int) -> None:
        """Time so many calls."""
        if self.timer is not None:
            self.timer.run(calls)
            return
        if not self.delivers:
            self.durations_s += durations_of(self.call, calls, self.device)
            return
        for _ in range(calls):
            started_s = time.perf_counter()
            self.call()
            if self.device.type == 'cuda':
                torch.cuda.synchronize(self.device)
            self.durations_s.append(time.perf_counter() - started_s)


def _count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def lerobot_policy(kind: str, device: str, **settings: Any) -> Any:
    """Build a policy of LeRobot's for one 96x96 camera, a state of 2 and actions of 2."""
    from lerobot.configs.types import FeatureType, PolicyFeature
    from lerobot.policies.factory import get_policy_class, make_policy_config

    config = make_policy_config(
        kind,
        device=device,
        crop_shape=CROP,
        input_features={
            IMAGE: PolicyFeature(FeatureType.VISUAL, (3, SIDE_PX, SIDE_PX)),
            STATE: PolicyFeature(FeatureType.STATE, (2,)),
        },
        output_features={ACTION: PolicyFeature(FeatureType.ACTION, (2,))},
        **settings,
    )
    policy = get_policy_class(kind)(config).to(device)
    if kind == 'vqbet':  # past the training of its codes
        codes = policy.vqbet.action_head.vqvae_model
        codes.discretized.fill_(True)
        codes.vq_layer.freeze_codebook.fill_(True)
    return policy


def lerobot_inputs(device: str, seed: int) -> list[dict[str, Tensor]]:
    """Return our observations' newest frames and states as LeRobot takes them."""
    spec = peer_spec()
    inputs = []
    for seen in islice(observations(spec, 1, seed), 16):
        newest = seen.frames[-1] or {}  # which there always is one of
        pixels = torch.from_numpy(newest[spec.cameras[0].name].image).to(device)
        state = torch.from_numpy(seen.state).to(device)  # (1, 2)
        inputs.append(
            {
                IMAGE: (pixels.movedim(-1, 0).float() / 255.0)[None].contiguous(),
                STATE: state / (TABLE_PX / 2) - 1.0,
            }
        )
    return inputs


def inference(args: argparse.Namespace, folder: Path) -> list[Contender]:
    """Return what decides."""
    inputs = lerobot_inputs(args.device, args.seed)

    def deciding(policy: Any) -> Callable[[], Any]:
        policy.eval()
        policy.reset()
        turn = iter(range(1 << 62))

        def call() -> Any:
            policy._queues[ACTION].clear()  # plan anew, whatever is left of the last chunk
            return policy.select_action(inputs[next(turn) % len(inputs)])

        return call

    policy = random_policy(peer_config(SIDE_PX).model, peer_spec(), args.seed)
    engines = [Engine(policy.to(args.device), seed=args.seed)]
    if args.device == 'cpu':  # the fastest first: the others are compared with it
        engines.insert(0, in_onnx_runtime(policy, folder, args.seed))
    engines.append(Engine(policy, seed=args.seed, precision='float32'))
    contenders, where = [], (torch.device(args.device), True)
    for engine in engines:
        timer, name = EngineTimer(engine, args.seed), f'{OURS}, {engine.runtime}, {engine.numbers}'
        contenders.append(Contender(name, _count(policy), timer.run, 0, args.calls, *where, timer))
    diffusion = {'ddim_calls': ('DDIM', 10), 'ddpm_calls': ('DDPM', 100)}
    torch.manual_seed(args.seed)
    peer = lerobot_policy('vqbet', args.device)
    contenders.append(
        Contender('LeRobot VQ-BeT', _count(peer), deciding(peer), 20, args.calls, *where)
    )
    for option, (scheduler, steps) in diffusion.items():
        calls = getattr(args, option)
        if calls:
            peer = lerobot_policy(
                'diffusion',
                args.device,
                noise_scheduler_type=scheduler,
                num_inference_steps=steps,
            )
            name = f'LeRobot Diffusion Policy, {scheduler} {steps} steps'
            contenders.append(
                Contender(
                    name, _count(peer), deciding(peer), min(20, 1 + calls // 10), calls, *where
                )
            )
    return contenders


def training(args: argparse.Namespace, folder: Path) -> list[Contender]:
    """Return what takes steps."""
    timer = peer_training(folder, args, args.device)
    parameters = _count(timer.policy)
    where = (torch.device(args.device), False)
    contenders = [Contender(OURS, parameters, timer.run, 0, args.calls, *where, timer)]
    generator = torch.Generator().manual_seed(args.seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator).to(args.device)

    def stepping(policy: Any, history: int, actions: int) -> Callable[[], Any]:
        policy.train()
        optimizer = policy.config.get_optimizer_preset().build(policy.get_optim_params())
        batch = {
            IMAGE: uniform(args.batch, history, 3, SIDE_PX, SIDE_PX),
            STATE: 2 * uniform(args.batch, history, 2) - 1,
            ACTION: 2 * uniform(args.batch, actions, 2) - 1,
            f'{ACTION}_is_pad': torch.zeros(args.batch, actions, dtype=torch.bool).to(args.device),
        }

        def call() -> None:
            loss, _ = policy.forward(batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(policy.parameters(), CLIP)
            optimizer.step()
            optimizer.zero_grad()

        return call

    torch.manual_seed(args.seed)
    peers = {'LeRobot VQ-BeT': 'vqbet', 'LeRobot Diffusion Policy': 'diffusion'}
    for name, kind in list(peers.items())[: 1 if args.no_diffusion else 2]:
        peer = lerobot_policy(kind, args.device)
        settings = peer.config
        actions = len(settings.action_delta_indices)
        call = stepping(peer, settings.n_obs_steps, actions)
        contenders.append(Contender(name, _count(peer), call, 3, args.calls, *where))
    return contenders


def take_turns(contenders: list[Contender], rounds: int) -> None:
    """Measure all in turns, so that what else the machine does meets all of them."""
    for contender in contenders:
        print(f'{contender.name}: {contender.parameters / 1e6:.1f} M parameters', flush=True)
        contender.prepare()
    for turn in range(rounds):
        for contender in contenders:
            due = contender.calls * (turn + 1) // rounds - len(contender.durations_s)
            contender.run(due)


def main() -> int:
    """Run the comparison; returns the exit status."""
    parser = parser_of(__doc__)
    parser.add_argument('what', choices=('inference', 'training'), help='what is timed')
    parser.add_argument('--calls', type=int, default=None, help='(200; of training 12)')
    parser.add_argument('--ddim-calls', type=int, default=30, help='of DDIM; 0 leaves it out')
    parser.add_argument('--ddpm-calls', type=int, default=5, help='of DDPM; 0 leaves it out')
    parser.add_argument('--no-diffusion', action='store_true', help='leave it out of training')
    parser.add_argument('--rounds', type=int, default=5, help='turns that each gets')
    parser.add_argument('--device', choices=('cpu', 'cuda'), default='cpu', help='for all')
    args = parser.parse_args()
    args.calls = args.calls or (200 if args.what == 'inference' else 12)
    warnings.filterwarnings('ignore')
    torch.set_num_threads(args.threads)
    about = machine()
    with tempfile.TemporaryDirectory() as folder:
        contenders = {'inference': inference, 'training': training}[args.what](args, Path(folder))
        take_turns(contenders, args.rounds)
    ours = float(np.median(contenders[0].durations_s))
    rows = []
    for contender in contenders:
        figures = percentiles_ms(contender.durations_s)
        ratio = round(float(np.median(contender.durations_s)) / ours, 2)
        rows.append(
            {
                'name': contender.name,
                'parameters': contender.parameters,
                **figures,
                'calls': len(contender.durations_s),
                'times_ours': ratio,
            }
        )
        print(
            f'{contender.name:<42} median {figures["p50_ms"]:10.2f} ms, p99 '
            f'{figures["p99_ms"]:10.2f} ms, {ratio:8.2f} times ours'
        )
    about['versions'] |= {
        name: metadata.version(name) for name in ('lerobot', 'diffusers', 'onnxruntime')
    }
    result = {
        'what': args.what,
        'device': args.device,
        'threads': args.threads,
        **({'batch': args.batch} if args.what == 'training' else {}),
        'rounds': args.rounds,
        'seed': args.seed,
        'rows': rows,
        **about,
    }
    write_json(result, args.json)
    return 0


if __name__ == '__main__':
    sys.exit(main())
