"""The training loop: phase after phase, saved as it goes, resumable at any step.

RUN/config.yaml            the whole configuration
RUN/metrics.jsonl          one line a record; TensorBoard events beside it
RUN/checkpoints/last/      a checkpoint, and what --resume needs
RUN/report.html            at the end
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from vqbet_ros import __version__
from vqbet_ros.config import TrainConfig
from vqbet_ros.data.store import Dataset
from vqbet_ros.errors import BadCheckpoint, ConfigError, listed, VqbetError
from vqbet_ros.policy.checkpoint import read_json, save_checkpoint
from vqbet_ros.policy.policy import Policy
from vqbet_ros.structured import to_mapping
from vqbet_ros.training.card import model_card
from vqbet_ros.training.data import load_data, TrainingData
from vqbet_ros.training.html import require_matplotlib
from vqbet_ros.training.interrupts import Interrupts
from vqbet_ros.training.journal import Journal, rewind, Silence
from vqbet_ros.training.phases.common import Phase
from vqbet_ros.training.phases.encoder import EncoderTraining
from vqbet_ros.training.phases.policy import PolicyTraining
from vqbet_ros.training.phases.tokenizer import TokenizerTraining
from vqbet_ros.training.processes import ALONE, Processes
from vqbet_ros.training.report import write_report
from vqbet_ros.training.resume import (
    read_resume,
    restore_phase,
    restore_policy,
    resume_state,
)
from vqbet_ros.training.step import Stepper
import yaml

AGREE_EVERY = 10  # steps after which several processes ask each other whether to stop
PhaseBuilder = Callable[[Policy, TrainingData, TrainConfig], Phase]


class Trainer:
    """Trains one policy on one dataset into one run directory."""

    def __init__(
        self,
        dataset: Dataset,
        config: TrainConfig,
        run: Path,
        device: Literal['cpu', 'cuda'],
        processes: Processes = ALONE,
    ) -> None:
        """Load the data and build the policy.

        Args:
            dataset: The demonstrations.
            config: The whole training.
            run: Directory that the main process writes, and all can read.
            device: Where to train.
            processes: Those that train together.

        Raises:
            VqbetError: Dataset and configuration do not fit.
        """
        self.config, self.run_dir, self.processes = config, run, processes
        self.device = torch.device(device)
        torch.manual_seed(config.seed)
        self.data = load_data(dataset, config, self.device, processes)
        stats = {key: self.data.stats[key] for key in ('state', 'action')}
        try:
            self.policy = Policy(config.model, dataset.spec, stats).to(self.device)
        except ValueError as error:
            raise ConfigError(f'model: {error}') from error
        self.val_metrics: dict[str, dict[str, float]] = {}
        # Of metrics since the last record, and over how many steps.
        self._resumed_sums: tuple[dict[str, float], int] = ({}, 0)
        self._stop = False

    @property
    def last(self) -> Path:
        """The newest checkpoint's directory."""
        return self.run_dir / 'checkpoints' / 'last'

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stop

    def stop(self) -> None:
        """Ask `run` to save and return after the step that it is at; safe in a signal handler."""
        self._stop = True

    def run(self, resume: bool = False) -> bool:
        """Train all phases; returns False when it was interrupted and can be resumed.

        Raises:
            VqbetError: The run directory is taken, there is nothing to resume, loss or gradient
                are no longer finite, or the disk is full.
        """
        builders: list[tuple[str, PhaseBuilder]] = [
            ('tokenizer', TokenizerTraining),
            ('policy', PolicyTraining),
        ]
        if self.config.encoder.steps:
            builders.insert(0, ('encoder', EncoderTraining))
        names = [name for name, _ in builders]
        require_matplotlib()
        saved: tuple[dict[str, torch.Tensor], dict[str, Any]] | None = None
        first, start = 0, 0
        if resume:
            saved = read_resume(self.last, self.config)
            self._check_dataset()
            restore_policy(self.policy, saved[0])
            first, start = names.index(saved[1]['phase']), int(saved[1]['step'])
            self.val_metrics = dict(saved[1].get('val_metrics', {}))
            self._resumed_sums = (saved[1].get('sums', {}), int(saved[1].get('counted', 0)))
            if self.processes.main:
                rewind(self.run_dir, names, names[first], start)
        elif self.last.exists():
            raise VqbetError(f'{self.run_dir} holds a run: give --resume, or another --out')
        self.processes.any(False)  # all have looked before one of them writes
        if not self.processes.main:
            with Interrupts(self):
                return self._run_phases(builders, first, start, saved, Silence())
        self.run_dir.mkdir(parents=True, exist_ok=True)
        if not resume:  # what a run left that ended before its first checkpoint
            (self.run_dir / 'metrics.jsonl').unlink(missing_ok=True)
        text = yaml.safe_dump(to_mapping(self.config), sort_keys=False)
        (self.run_dir / 'config.yaml').write_text(text, encoding='utf-8')
        with Journal(self.run_dir) as journal, Interrupts(self):
            if not self._run_phases(builders, first, start, saved, journal):
                return False
            journal.end_phase()
            journal.say('writing the report')
            journal.say(f'report: {write_report(self.run_dir, self.data.dataset)}')
        return True

    def _run_phases(
        self,
        builders: list[tuple[str, PhaseBuilder]],
        first: int,
        start: int,
        saved: tuple[dict[str, torch.Tensor], dict[str, Any]] | None,
        journal: Journal | Silence,
    ) -> bool:
        for index, (_, build) in enumerate(builders[first:], start=first):
            self.processes.equal(self.policy)
            phase = build(self.policy, self.data, self.config)
            if saved is not None:
                restore_phase(phase, *saved)
                saved = None
            if not self._run_phase(phase, index, start, journal):
                return False
            start = 0
            if self.processes.any(self._stop) and index + 1 < len(builders):
                journal.say(f'stopped after phase {phase.name}; saved {self.last}')
                return False
        return True

    def _run_phase(self, phase: Phase, index: int, start: int, journal: Journal | Silence) -> bool:
        config = self.config
        processes = self.processes
        stepper = Stepper(self.policy, phase, config, index, processes)
        stepper.restore(*self._resumed_sums)
        self._resumed_sums = ({}, 0)
        total = sum(p.numel() for p in stepper.parameters)
        journal.end_phase()
        journal.say(f'phase {phase.name}: {phase.steps} steps, {total / 1e6:.2f} M parameters')
        journal.begin_phase(phase.name, start, phase.steps)
        for step in range(start, phase.steps):
            factor = stepper.step(step)
            done = step + 1
            last = done == phase.steps
            log, validate = (last or done % n == 0 for n in (config.log_every, config.val_every))
            # Read once: a signal may come at any point below. Several have to agree on it.
            stop = self._stop
            if processes.count > 1:
                stop = done % AGREE_EVERY == 0 and processes.any(stop)
            save = last or stop or done % config.save_every == 0
            # On a GPU asking for a figure waits for all that was begun: only now and then.
            alone_on_cpu = self.device.type == 'cpu' and processes.count == 1
            if log or validate or save or alone_on_cpu:
                self._require_finite(stepper)
            if log:
                figures = {**stepper.clear(), 'lr_factor': factor}
                journal.write(phase.name, done, phase.steps, figures, 'train')
            if validate and processes.main:
                values = self._validate(phase)
                self.val_metrics[phase.name] = values
                journal.write(phase.name, done, phase.steps, values, 'val')
            if save:
                self._save(stepper, done)
            if stop and not last:
                journal.say(f'stopped in phase {phase.name} after step {done}; saved {self.last}')
                return False
        return True

    def _require_finite(self, stepper: Stepper) -> None:
        bad = stepper.bad_step()
        if bad is None:
            return
        (step, loss, norm), phase = bad, stepper.phase
        saved = f'the last good state is {self.last}' if self.last.exists() else ''
        raise VqbetError(
            f'phase {phase.name}, step {step}: got loss {loss:g} and norm {norm:g} of the '
            'gradient, expected finite numbers; episodes in the batch: '
            f'{sorted(set(phase.episodes(step).tolist()))}\n'
            f'Look at them, or lower {phase.name}.lr; {saved or "nothing was saved yet"}.'
        )

    def _validate(self, phase: Phase) -> dict[str, float]:
        """Validate with the averaged weights, where there are some, and put back the others."""
        self.policy.eval()
        phase.module.eval()
        if phase.average is None:
            return {key: float(value) for key, value in phase.validate().items()}
        live = {key: value.clone() for key, value in self.policy.state_dict().items()}
        self.policy.load_state_dict(phase.average.state)
        try:
            return {key: float(value) for key, value in phase.validate().items()}
        finally:
            self.policy.load_state_dict(live)

    def _save(self, stepper: Stepper, step: int) -> None:
        phase = stepper.phase
        sums = stepper.sums
        if not self.processes.main:
            return
        tensors, meta = resume_state(phase, step, self.policy, self.config)
        training = {
            'package_version': __version__,
            'torch_version': torch.__version__,
            'device': self.device.type,
            'dataset': self._dataset(),
            'phase': phase.name,
            'step': step,
            'config': to_mapping(self.config),
            'validation': self.val_metrics,
        }
        save_checkpoint(
            self.last,
            self.policy,
            card=model_card(self.policy, training),
            training=training,
            weights=phase.average.state if phase.average else None,
            extra_tensors={'resume': tensors},
            extra_json={
                'resume': {
                    **meta,
                    'val_metrics': self.val_metrics,
                    'sums': sums,
                    'counted': stepper.counted,
                }
            },
        )

    def _dataset(self) -> dict[str, Any]:
        dataset = self.data.dataset
        return {
            'source': dataset.source,
            'episodes': dataset.num_episodes,
            'frames': dataset.num_frames,
        }

    def _check_dataset(self) -> None:
        """Refuse to go on with other data than the checkpoint in `last` was trained on."""
        old = read_json(self.last / 'config.json').get('training', {}).get('dataset', {})
        stats = {name: item.to_mapping() for name, item in self.policy.stats.items()}
        problems = [
            f'{key}: was {old.get(key)!r}, now {value!r}'
            for key, value in self._dataset().items()
            if old.get(key) != value
        ]
        if not problems and read_json(self.last / 'stats.json') != stats:
            problems.append('the values in it')
        if problems:
            raise BadCheckpoint(listed(f'{self.last} was trained on another dataset', problems))
