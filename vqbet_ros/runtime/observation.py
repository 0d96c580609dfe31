"""From samples with stamps to what the policy sees.

The thread that receives messages stores raw payloads only; the thread that asks for an observation
decodes the few that it needs, once each. All times are in ns of one clock.

h: history steps, C: channels of one stream, S: channels of the whole state.
"""

from collections.abc import Mapping
import dataclasses
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray
from vqbet_ros.errors import BadMessage
from vqbet_ros.gate_spec import GateSettings
from vqbet_ros.message_types import JOINT_STATE
from vqbet_ros.runtime.gate import age_ns, Reason
from vqbet_ros.runtime.observed import Frame, Observation
from vqbet_ros.runtime.sampling import Missing, newest_vector, Read, Step, step_at
from vqbet_ros.runtime.stream import decode, Decoder, Sample, Stream, StreamCounts
from vqbet_ros.runtime.trust import Same, Trust
from vqbet_ros.spec import RobotSpec

__all__ = ['CLOCK_RESET_NS', 'Frame', 'Observation', 'ObservationBuffer']

CLOCK_RESET_NS = 1_000_000_000
"""A stamp further back than this is a clock that was set back, not a late message."""

_Taken = dict[str, tuple[Sample, ...]]
_OPEN = GateSettings()


class ObservationBuffer:
    """Keeps each stream's recent samples; one thread may put while others observe.

    Args:
        spec: The robot.
        decoders: By message type.
        history: The most steps that will be asked for, at least 1.
        jitter_ns: Of a camera that runs at the policy's rate, a history step also takes a frame
            stamped up to this much after the step's time (never one after the observation's), so
            that it does not skip or repeat a frame when its stamps tremble. Less than half a
            period.
        gate: What is not trusted, though it is fresh and whole.
        same: Compares two pictures' payloads; needed where `gate` looks for frozen ones.
    """

    def __init__(
        self,
        spec: RobotSpec,
        decoders: Mapping[str, Decoder],
        history: int,
        jitter_ns: int = 0,
        *,
        gate: GateSettings = _OPEN,
        same: Same | None = None,
    ) -> None:
        if history < 1:
            raise ValueError(f'history: got {history}, expected 1 or more')
        if not 0 <= jitter_ns < spec.period_ns / 2:
            raise ValueError(f'jitter_ns: got {jitter_ns}, expected 0 to half a period')
        self._lock = threading.RLock()
        self._spec = spec
        self._history = history
        self._jitter_ns = jitter_ns
        self._trust = Trust(spec, gate, same)
        # Of a faster camera any step has a frame that is nearly as new; in a dataset it is the one
        # before the tick, so it is here.
        self._trembling = [c.name for c in spec.cameras if c.rate_hz < 1.5 * spec.rate_hz]
        self._start_ns: int | None = None
        # Steps go back from the stream that lags most, and a step's sample may be as old again;
        # where a state comes in parts, the oldest part once more.
        slack_ns = history * spec.period_ns + 2 * max(part.max_age_ns for part in spec.streams)
        self._streams = {
            part.stream: Stream(
                part,
                decoders[part.type],
                slack_ns + (part.max_age_ns if part.type == JOINT_STATE else 0),
            )
            for part in spec.streams
        }
        self._readers = {name: self._reader(stream) for name, stream in self._streams.items()}

    def put(self, stream: str, stamp_ns: int | None, receive_ns: int, payload: Any) -> bool:
        """Store one message.

        Args:
            stream: Name of the stream.
            stamp_ns: `header.stamp`; None or 0 where there is none or nobody filled it in.
            receive_ns: When the message came.
            payload: What the decoder takes; kept as it is.

        Returns:
            False if the message is dropped (and counted): not newer than the newest one, or from
            before the last reset.
        """
        with self._lock:
            target = self._streams[stream]
            target.counts.received += 1
            if not stamp_ns:
                target.counts.unstamped += 1
            sample_ns = (stamp_ns or receive_ns) - target.spec.latency_ns
            if target.newest_ns is not None and sample_ns < target.newest_ns - CLOCK_RESET_NS:
                target.counts.clock_resets += 1
                self.forget()
            if self._start_ns is not None and sample_ns < self._start_ns:
                target.counts.before_reset += 1
                return False
            if target.is_stale(sample_ns):
                target.counts.not_newer += 1
                return False
            target.append(Sample(sample_ns, payload))
            return True

    def put_bad(self, stream: str, text: str) -> None:
        """Count a message whose stamp cannot even be read.

        Args:
            stream: Name of the stream.
            text: What is wrong with it.
        """
        with self._lock:
            self._streams[stream].counts.received += 1
            self._streams[stream].note_bad(text)

    def reset_history(self, stamp_ns: int) -> None:
        """Forget every sample from before a time, also those that are still to come.

        Call it when the past is no history of what follows: at enabling, after a simulator's
        reset.
        """
        with self._lock:
            self._start_ns = stamp_ns
            for stream in self._streams.values():
                stream.forget_before(stamp_ns)

    def forget(self) -> None:
        """Begin without any sample, as when the clock was set: stamps of before mean nothing."""
        with self._lock:
            self._start_ns = None
            for stream in self._streams.values():
                stream.forget_all()

    def check(self, now_ns: int) -> list[Reason]:
        """Say which streams are missing, stale or unreadable now, and what else is not trusted.

        Cheap: decodes nothing, but for the newest numbers where `gate` looks at their ranges.
        """
        with self._lock:
            reasons = self._check(now_ns, trust_undecoded=False)
            taken = self._taken() if self._trust.looks else {}
        return reasons + self._distrust(taken)

    def counts(self) -> dict[str, StreamCounts]:
        """Return what happened to the messages of each stream so far."""
        with self._lock:
            return {n: dataclasses.replace(s.counts) for n, s in self._streams.items()}

    def ages_ns(self, now_ns: int) -> dict[str, int | None]:
        """Return the age of each stream's newest sample, None where there is none."""
        with self._lock:
            return {
                name: age_ns(now_ns, stream.samples[-1].stamp_ns) if stream.samples else None
                for name, stream in self._streams.items()
            }

    def newest_state(self) -> NDArray[np.float64]:
        """Return the newest of each number of the state (S,), NaN where it is missing.

        Not what the policy sees: nothing is interpolated to one time, and no image decoded.
        """
        with self._lock:
            taken = self._taken()
        return self._newest_state(taken)

    def observe(self, now_ns: int, history: int) -> Observation | list[Reason]:
        """Make the newest observation.

        A message that cannot be decoded costs one observation: it is counted, let go and given as
        the reason; the next call goes on without it.

        Args:
            now_ns: Now.
            history: Steps, 1 to the constructor's `history`.

        Returns:
            The observation, or every reason why there is none.
        """
        if not 1 <= history <= self._history:
            raise ValueError(f'history: got {history}, expected 1 to {self._history}')
        with self._lock:
            reasons = self._check(now_ns, trust_undecoded=True)
            taken = self._taken()
        reasons += self._distrust(taken)
        if reasons:
            return reasons
        t_obs_ns = min(samples[-1].stamp_ns for samples in taken.values())
        newest = self._step(taken, t_obs_ns)
        silent = dict(newest.silent) if isinstance(newest, Missing) else {}
        # Of a stream whose messages bring some joints each, the last to come is decisive.
        while isinstance(newest, Missing) and newest.until_ns is not None:
            t_obs_ns = newest.until_ns
            newest = self._step(taken, t_obs_ns)
        with self._lock:
            for name, stream in self._streams.items():
                stream.silence = silent.get(name)
            checks = [stream.check_silence(now_ns) for stream in self._streams.values()]
        reasons = [reason for reason in checks if reason is not None]
        return reasons or self._observation(taken, newest, t_obs_ns, now_ns, history)

    def observe_at(self, time_ns: int, now_ns: int, history: int) -> Observation | list[Reason]:
        """Make the observation of a given time, as `observe` would if it were the newest.

        Args:
            time_ns: The observation's time.
            now_ns: Now.
            history: Steps, 1 to the constructor's `history`.
        """
        with self._lock:
            taken = self._taken()
        step = self._step(taken, time_ns)
        return self._observation(taken, step, time_ns, now_ns, history)

    def _observation(
        self,
        taken: _Taken,
        newest: Step | Missing,
        t_obs_ns: int,
        now_ns: int,
        history: int,
    ) -> Observation | list[Reason]:
        if isinstance(newest, Missing) and not newest.bad:
            return list(newest.reasons)
        times = [t_obs_ns - k * self._spec.period_ns for k in reversed(range(1, history))]
        steps = [*(self._step(taken, time, t_obs_ns) for time in times), newest]
        bad = [reason for step in steps if isinstance(step, Missing) for reason in step.bad]
        if bad:
            return list(dict.fromkeys(bad))
        state = np.zeros((history, self._spec.state_dim), dtype=np.float32)
        for row, step in enumerate(steps):
            if isinstance(step, Step):
                state[row] = step.state
        return Observation(
            stamp_ns=t_obs_ns,
            frames=tuple(_frames(step) if isinstance(step, Step) else None for step in steps),
            state=state,
            valid=np.array([isinstance(step, Step) for step in steps]),
            ages_ns={name: age_ns(now_ns, s[-1].stamp_ns) for name, s in taken.items()},
        )

    def _step(self, taken: _Taken, time_ns: int, t_obs_ns: int | None = None) -> Step | Missing:
        latest_ns = time_ns if t_obs_ns is None else min(time_ns + self._jitter_ns, t_obs_ns)
        frames_until_ns = dict.fromkeys(self._trembling, latest_ns)
        return step_at(taken, self._spec, time_ns, self._readers, frames_until_ns)

    def _reader(self, stream: Stream) -> Read:
        def read(sample: Sample) -> None:
            """Decode without holding up the thread that puts."""
            if sample.problem is not None:
                raise BadMessage(sample.problem)
            try:
                decode(sample, stream.spec, stream.decoder)
            except BadMessage as error:
                sample.problem = str(error)
                with self._lock:
                    stream.note_bad(sample.problem, sample)
                raise
            with self._lock:
                stream.note_good(sample)

        return read

    def _taken(self) -> _Taken:
        return {name: tuple(stream.samples) for name, stream in self._streams.items()}

    def _newest_state(self, taken: _Taken) -> NDArray[np.float64]:
        vectors = [
            newest_vector(taken[part.stream], part, self._readers[part.stream])
            for part in self._spec.state
        ]
        return np.concatenate([*vectors, np.zeros(0)])

    def _distrust(self, taken: _Taken) -> list[Reason]:
        if not self._trust.looks:
            return []
        return self._trust.reasons(taken, lambda: self._newest_state(taken))

    def _check(self, now_ns: int, trust_undecoded: bool) -> list[Reason]:
        checks = [stream.check(now_ns, trust_undecoded) for stream in self._streams.values()]
        return [reason for reason in checks if reason is not None]


def _frames(step: Step) -> dict[str, Frame]:
    return {
        name: Frame(sample.stamp_ns, sample.value)
        for name, sample in step.frames.items()
        if sample.value is not None
    }
