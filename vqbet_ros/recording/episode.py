"""One episode while it is recorded: its bag, its writer and its audit."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
import hashlib
import json
from pathlib import Path

from vqbet_ros.data.cdr import header_stamp_ns
from vqbet_ros.errors import BadBag, BadMessage
from vqbet_ros.recording.audit import AuditReport, EpisodeAudit, Expected
from vqbet_ros.recording.bag import BagOptions, BagSummary, BagWriter
from vqbet_ros.recording.definitions import Definition, definition_of
from vqbet_ros.recording.metadata import Topic
from vqbet_ros.recording.session import Outcome
from vqbet_ros.recording.writer import EpisodeWriter
from vqbet_ros.spec import RobotSpec


@dataclass(frozen=True)
class About:
    """What is known of an episode before it begins; it goes into the bag's custom_data.

    Attributes:
        spec: The robot, as it is recorded.
        task: What is demonstrated.
        operator: Who demonstrates it.
        goal: Of this episode.
        versions: Of the software that records.
        clock: 'system' or 'sim'.
    """

    spec: RobotSpec
    task: str
    operator: str
    goal: str
    versions: Mapping[str, str]
    clock: str

    def custom_data(self, outcome: Outcome) -> dict[str, str]:
        """Return the bag's texts by key.

        Args:
            outcome: How the episode ended.
        """
        spec = self.spec.to_yaml()
        return {
            'vqbet.spec': spec,
            'vqbet.spec_sha256': hashlib.sha256(spec.encode()).hexdigest(),
            'vqbet.task': self.task,
            'vqbet.operator': self.operator,
            'vqbet.goal': self.goal,
            'vqbet.outcome': outcome,
            'vqbet.versions': json.dumps(dict(self.versions)),
            'vqbet.clock': self.clock,
        }


class Episode:
    """Takes messages from callbacks, and ends as a bag with its audit in it.

    Args:
        path: The bag's folder; it must not exist.
        about: What is known beforehand.
        streams: What is expected of each topic, and the topics that are known already.
        options: How the bag is written.
        queue_bytes: How much may wait for the disk.

    Attributes:
        end_ns: When the episode ended, for the audit; None takes the newest message's time.
        patience_s: How long `close` waits for the disk.
        is_open: Whether `close` has yet to be called, or may be called again after it failed.
        report: The final audit; None until the bag is ended.

    Raises:
        BadBag: The folder exists.
        UnknownType: A type has no definition here.
        OSError: The folder cannot be written. Of what could not be begun, nothing is left.
    """

    def __init__(
        self,
        path: Path,
        about: About,
        streams: Sequence[tuple[Expected, Topic | None]],
        options: BagOptions,
        queue_bytes: int,
    ) -> None:
        """Open the bag; messages may come after `begin`."""
        self.path = path
        self.end_ns: int | None = None
        self.patience_s = 30.0
        self.is_open = True
        self.report: AuditReport | None = None
        self._about = about
        self._expected = [expected for expected, _ in streams]
        self._audit = EpisodeAudit(self._expected)
        self._newest_ns = 0
        self._lost: dict[int, int] = {}
        # An episode that is never ended says so: that is what stands in it from the beginning.
        at_first = about.custom_data('incomplete')
        self._bag = _GrowingBag(path, options, at_first, self._with_audit)
        try:
            for _, topic in streams:
                if topic is not None:
                    self._bag.number_of(topic, late=False)
        except BaseException:
            self._bag.take_away()
            raise
        self._writer = EpisodeWriter(
            self._bag, queue_bytes=queue_bytes, on_message=self._on_message
        )

    def begin(self, now_ns: int) -> None:
        """Count time from now; call it once, before the first message."""
        self._audit = EpisodeAudit(self._expected, now_ns)

    def add_topic(self, topic: Topic) -> int:
        """Return the number under which a topic's messages are put.

        Raises:
            UnknownType: The topic is new, and its type has no definition here.
        """
        return self._bag.number_of(topic, late=True)

    def put(
        self, channel: int, payload: bytes, log_ns: int, publish_ns: int, sequence: int
    ) -> bool:
        """Take one message without waiting; False if there is no room for it."""
        return self._writer.put(channel, payload, log_ns, publish_ns, sequence)

    @property
    def queued_bytes(self) -> int:
        """What waits for the disk."""
        return self._writer.queued_bytes

    @property
    def written_bytes(self) -> int:
        """Size of the bag so far."""
        return self._writer.written_bytes

    @property
    def failure(self) -> str | None:
        """Why nothing more is written; None while all is well."""
        return self._writer.failure

    @property
    def lost(self) -> int:
        """Messages that came and could not be written."""
        return sum(self._writer.lost.values())

    def audit(self, now_ns: int) -> AuditReport:
        """Return the audit so far."""
        for channel, lost in self._writer.lost.items():
            more = lost - self._lost.get(channel, 0)
            if more > 0:
                self._lost[channel] = lost
                self._audit.lost_here(self._bag.topics[channel].name, more)
        return self._audit.report(now_ns)

    def close(self, outcome: Outcome) -> str:
        """Write what waits, and end the bag.

        Returns:
            One line about what it holds.

        Raises:
            BadBag: The disk did not let it be ended; calling again waits again.
        """
        custom_data = self._about.custom_data(outcome)
        try:
            held = self._writer.close(custom_data, self.patience_s)
        except BadBag:
            self.is_open = not self._bag.is_over
            if self.is_open:
                raise
            held = self._writer.close(custom_data, self.patience_s)  # it ended just now, or failed
        self.is_open = False
        text = f'{sum(held.messages.values())} messages, {held.bytes / 1e6:.1f} MB'
        if self.report is not None:
            text += f', {self.report.verdict}'
            text += ''.join(f'; {reason}' for reason in self.report.why)
        return text

    def _on_message(
        self, channel: int, payload: bytes, log_ns: int, publish_ns: int, sequence: int
    ) -> None:
        topic = self._bag.topics[channel]
        self._newest_ns = max(self._newest_ns, log_ns)
        try:
            stamp_ns = header_stamp_ns(payload, topic.type)
        except BadMessage:
            stamp_ns = None  # the audit counts it as unstamped, and its bytes are kept
        self._audit.add(topic.name, log_ns, stamp_ns, publish_ns, sequence, payload)

    def _with_audit(self, custom_data: Mapping[str, str]) -> dict[str, str]:
        self.report = self.audit(self.end_ns or self._newest_ns)
        return {**custom_data, 'vqbet.audit': json.dumps(self.report.to_mapping())}


class _GrowingBag(BagWriter):
    """A bag that gets further topics while the writer's thread is at work.

    A late topic is added by that thread, with its first message: nobody else touches the file.
    Topics have numbers of their own, from 0 on.

    Args:
        path: As of BagWriter.
        options: As of BagWriter.
        custom_data: As of BagWriter.
        at_close: Completes the texts, once the last message is in the bag.

    Attributes:
        topics: By number.
        is_over: Whether the file was let go.
    """

    def __init__(
        self,
        path: Path,
        options: BagOptions,
        custom_data: Mapping[str, str],
        at_close: Callable[[Mapping[str, str]], dict[str, str]],
    ) -> None:
        super().__init__(path, options, custom_data)
        self.topics: list[Topic] = []
        self.is_over = False
        self._at_close = at_close
        self._channels: dict[int, int] = {}
        self._late: dict[int, Definition] = {}

    def number_of(self, topic: Topic, *, late: bool) -> int:
        """Return a topic's number; if it is new, add it, or leave that to its first message."""
        for number, known in enumerate(self.topics):
            if known.name == topic.name:
                return number
        number = len(self.topics)
        if late:
            self._late[number] = definition_of(topic.type)
        else:
            self._channels[number] = self.add_topic(topic)
        self.topics.append(topic)
        return number

    @property
    def counts(self) -> dict[int, int]:
        counts = super().counts
        return {number: counts.get(channel, 0) for number, channel in self._channels.items()}

    def write(
        self, channel: int, payload: bytes, log_ns: int, publish_ns: int, sequence: int = 0
    ) -> None:
        if channel not in self._channels:
            added = self.add_topic(self.topics[channel], self._late[channel])
            self._channels = {**self._channels, channel: added}  # others may be reading it
        super().write(self._channels[channel], payload, log_ns, publish_ns, sequence)

    def close(self, custom_data: Mapping[str, str]) -> BagSummary:
        summary = super().close(self._at_close(custom_data))
        self.is_over = True
        return summary

    def abandon(self) -> None:
        super().abandon()
        self.is_over = True
