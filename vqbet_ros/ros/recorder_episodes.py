"""Begins and ends episodes for the recorder's node, one thing at a time.

What waits for the disk runs in a thread for the while; whoever asked for it gets the answer when
it is done, and the executor goes on with the messages meanwhile.
"""

from collections.abc import Callable
import dataclasses
from pathlib import Path
import threading

from rclpy.executors import Executor
from rclpy.logging import get_logger
from rclpy.node import Node
from rclpy.task import Future
from vqbet_ros.errors import listed, VqbetError
from vqbet_ros.recording.bag import BagOptions
from vqbet_ros.recording.episode import About, Episode
from vqbet_ros.recording.metadata import version_read_by
from vqbet_ros.recording.readiness import problems
from vqbet_ros.recording.session import Answer, Outcome, Session, State
from vqbet_ros.recording.unfinished import Unfinished, unfinished
from vqbet_ros.ros.recorder_disk import Disk, DiskWatch
from vqbet_ros.ros.recorder_parameters import RecorderParameters
from vqbet_ros.ros.recorder_situation import situation, versions
from vqbet_ros.ros.recorder_status import Snapshot
from vqbet_ros.ros.recorder_streams import Streams
from vqbet_ros.spec import RobotSpec

COMMANDS = ('start', 'stop', 'discard', 'success', 'failure')
# Of the 2 s that a signal leaves for ending an episode, the rest is the interpreter's.
_LAST_PATIENCE_S = 1.2
# A node's own log also goes to /rosout, where it can no longer go after the signal.
_LAST_WORDS = 'recorder_node, ending'


class Episodes:
    """The session of one recorder, fed by its streams.

    All but what it runs in a thread belongs to the executor's thread.

    Args:
        node: Has the clock, the log, the executor and the parameters that may change.
        spec: The robot.
        streams: What is recorded.
        values: The node's parameters.

    Attributes:
        session: The state machine.
    """

    def __init__(
        self, node: Node, spec: RobotSpec, streams: Streams, values: RecorderParameters
    ) -> None:
        """Wait for commands.

        Raises:
            ConfigError: The levels of free disk contradict each other.
        """
        self.session = Session(Path(values.root).expanduser(), spec.robot, self._open)
        self._node = node
        self._spec = spec
        self._streams = streams
        self._values = values
        self._disk_watch = DiskWatch(self.session.root, values)
        self._episode: Episode | None = None
        self._unfinished: list[Unfinished] = []
        self._last = ''
        self._busy = ''  # what is under way in a thread
        self._thread = threading.Thread()

    def look_for_unfinished(self) -> None:
        """Tell of what earlier recorders left without an end; recover it where that is wanted.

        Raises:
            OSError: The folder cannot be read.
        """
        self._unfinished = unfinished(self.session.root)
        for one in self._unfinished:
            self._node.get_logger().warning(str(one))
        if self._unfinished and self._values.recover_on_start:
            self._begin('recovering', self._recover)

    async def obey(self, command: str, why: str = '') -> Answer:
        """Do one of COMMANDS.

        Args:
            command: Which.
            why: For the log: who asked, if it was no service.
        """
        if self._busy:
            answer = Answer(False, f'{command}: still {self._busy}; try again')
        elif command == 'start':
            answer = await self._start()
        elif command == 'stop':
            answer = await self._stop('unmarked')
        elif command == 'discard':
            now_ns = self._end_streams()
            answer = await self._in_thread('discarding', lambda: self.session.discard(now_ns))
        else:
            success = command == 'success'
            answer = await self._in_thread('marking', lambda: self.session.mark(success))
        self._tell(answer, why)
        return answer

    async def end_early(self, why: str) -> None:
        """End and keep the running episode, marked incomplete."""
        if not self._busy:
            self._tell(await self._stop('incomplete'), why)

    def close(self) -> None:
        """Keep a running episode, marked incomplete; safe to call twice."""
        if self._thread.is_alive():
            self._thread.join(_LAST_PATIENCE_S)
        now_ns = self._end_streams()
        if self.session.state is State.RECORDING and not self._thread.is_alive():
            if self._episode is not None:
                self._episode.patience_s = _LAST_PATIENCE_S
            self._tell(self.session.stop(now_ns, 'incomplete'))

    def must_end(self, now: Snapshot) -> str:
        """Say why the running episode cannot go on; empty if it can."""
        if not now.episode or self._busy:
            return ''
        if now.failure:
            return f'ended: {now.failure}'
        return 'ended before the disk is full' if now.disk.level == 'stop' else ''

    def snapshot(self, now_ns: int) -> Snapshot:
        """Return everything that the status tells."""
        about = {name: self._text(name) for name in ('task', 'operator', 'goal')}
        outcome = self.session.last_outcome
        about['last_episode'] = f'{self._last}, {outcome}' if outcome else self._last
        notes = [str(one) for one in (*self._unfinished, *self.session.broken)]
        notes += [one.problem for one in self._streams.inputs if one.problem]
        common = Snapshot(
            state=self._busy or self.session.state.value,
            robot=self._spec.robot,
            disk=self._disk(now_ns),
            max_callback_ms=self._streams.longest_ns / 1e6,
            queue_limit_mb=self._values.queue_mb,
            notes=notes,
            about=about,
        )
        episode = self._episode
        if episode is None or self.session.path is None:
            return dataclasses.replace(common, problems=self._problems(now_ns))
        return dataclasses.replace(
            common,
            episode=episode.path.name,
            duration_s=self.session.duration_s(now_ns),
            written_mb=episode.written_bytes / 1e6,
            queue_mb=episode.queued_bytes / 1e6,
            lost_here=episode.lost,
            failure=episode.failure or '',
            audit=episode.audit(now_ns),
        )

    async def _start(self) -> Answer:
        now_ns = self._now_ns()
        if self.session.state is State.IDLE:
            reasons = self._problems(now_ns)
            if reasons:
                return Answer(False, listed('cannot start', reasons))
        answer = await self._in_thread('starting', lambda: self.session.start(now_ns))
        if answer.success and self._episode is not None:
            self._episode.begin(self._now_ns())
            self._streams.attach(self._episode)
        return answer

    async def _stop(self, outcome: Outcome) -> Answer:
        now_ns = self._end_streams()
        return await self._in_thread('stopping', lambda: self.session.stop(now_ns, outcome))

    async def _in_thread(self, what: str, work: Callable[[], Answer]) -> Answer:
        executor = self._node.executor
        assert isinstance(executor, Executor)  # noqa: S101 - a coroutine runs in one
        done: Future[Answer] = Future(executor=executor)

        def run() -> None:
            try:
                done.set_result(work())
            except Exception as error:
                done.set_exception(error)
            executor.wake()

        self._begin(what, run)
        try:
            return await done  # type: ignore[return-value]
        finally:
            self._busy = ''

    def _begin(self, what: str, work: Callable[[], None]) -> None:
        self._busy = what
        # A disk that never answers must not keep the program from ending.
        self._thread = threading.Thread(target=work, name=what, daemon=True)
        self._thread.start()

    def _end_streams(self) -> int:
        """Let no further message into the episode; returns the time."""
        now_ns = self._now_ns()
        self._streams.detach()
        if self._episode is not None and self._episode.end_ns is None:
            self._episode.end_ns = now_ns
        return now_ns

    def _tell(self, answer: Answer, why: str = '') -> None:
        """Log an answer, and the audit of an episode that has ended."""
        text = f'{why}: {answer.text}' if why else answer.text
        log = self._node.get_logger()
        if not self._node.context.ok():
            log = get_logger(_LAST_WORDS)
        if answer.success:
            log.info(text)
        else:
            log.warning(text)
        episode = self._episode
        if episode is not None and not episode.is_open:
            self._last = episode.path.name
            if episode.report is not None:
                log.info(f'{episode.path.name}\n{episode.report.table()}')
                self._last += f', {episode.report.verdict}'
            self._episode = None

    def _open(self, path: Path) -> Episode:
        """Begin a bag; runs in a thread."""
        values = self._values
        about = About(
            spec=self._streams.recorded(self._spec),
            task=self._text('task'),
            operator=self._text('operator'),
            goal=self._text('goal'),
            versions=versions(),
            clock='sim' if self._sim_time else 'system',
        )
        options = BagOptions(
            compression=values.compression,  # type: ignore[arg-type]
            chunk_bytes=round(values.chunk_mb * 1e6),
            metadata_version=values.metadata_version  # type: ignore[arg-type]
            or version_read_by(about.versions['ros_distro']),
            ros_distro=about.versions['ros_distro'],
        )
        # Further topics that nobody publishes now may come; that they do not is no finding.
        topics = [
            (one.expected, one.topic() if one.offers else None)
            for one in self._streams.inputs
            if one.offers or one.expected.needed
        ]
        self._episode = Episode(path, about, topics, options, round(values.queue_mb * 1e6))
        return self._episode

    def _problems(self, now_ns: int) -> list[str]:
        """List why an episode cannot begin."""
        disk = self._disk(now_ns)
        reasons = [disk.problem] if disk.problem else []
        if self._sim_time and not now_ns:
            reasons.append('use_sim_time is set, but there is no time on /clock yet')
        situations = [situation(one, now_ns) for one in self._streams.inputs]
        extra = [one.expected.topic for one in self._streams.inputs if not one.expected.needed]
        return reasons + problems(self._spec, situations, now_ns, extra)

    def _recover(self) -> None:
        """Make the unfinished episodes whole; runs in a thread."""
        from vqbet_ros.recording.recovery import recover

        for one in list(self._unfinished):
            try:
                held = recover(one.path)
                text = f'recovered {one.path.name}: {sum(held.messages.values())} messages'
                if held.kept_original:
                    text += f'; the original is kept as {held.kept_original}'
                self._node.get_logger().info(text)
            except (OSError, VqbetError) as error:
                self._node.get_logger().error(f'{one.path.name}: not recovered: {error}')
                continue
            self._unfinished.remove(one)
        self._busy = ''

    def _disk(self, now_ns: int) -> Disk:
        written = self._episode.written_bytes if self._episode is not None else 0
        return self._disk_watch.look(written / max(self.session.duration_s(now_ns), 1.0))

    def _text(self, name: str) -> str:
        return str(self._node.get_parameter(name).value)

    @property
    def _sim_time(self) -> bool:
        return bool(self._node.get_parameter('use_sim_time').value)

    def _now_ns(self) -> int:
        return int(self._node.get_clock().now().nanoseconds)
