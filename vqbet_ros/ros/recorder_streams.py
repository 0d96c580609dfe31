"""What the recorder subscribes to: raw bytes of every topic, as its publishers offer them.

A topic is subscribed to while it has publishers, always, so that its rate is known before an
episode begins; during an episode each message goes on to the episode's queue. A message is stamped
and handed on, nothing else: it is never deserialised here.

Messages are taken a hundred times a second, all that have come since: see `ros.polling`.
"""

from collections import deque
from collections.abc import Iterable, Sequence
import dataclasses
import time
from typing import Any, Protocol

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from vqbet_ros.errors import UnknownType
from vqbet_ros.recording.expected import Expected, transports
from vqbet_ros.recording.measures import RateMeter
from vqbet_ros.recording.metadata import Topic
from vqbet_ros.ros.arrivals import Arrivals
from vqbet_ros.ros.polling import message_class, PolledSubscription
from vqbet_ros.ros.recorder_qos import adapted, asks_too_much, depth_for, offered, same
from vqbet_ros.spec import RobotSpec

# Other callbacks wait for no longer than this when many messages have come at once.
_POLL_NS = 3_000_000
# Arm and gripper may each publish their own joints, at rates of their own.
_RECENT = 16


class Sink(Protocol):
    """Where the messages of an episode go."""

    def add_topic(self, topic: Topic) -> int:
        """Return the number under which a topic's messages are put.

        Raises:
            UnknownType: There is no definition of its type.
        """

    def put(
        self, channel: int, payload: bytes, log_ns: int, publish_ns: int, sequence: int
    ) -> bool:
        """Take one message without waiting; False if there is no room for it."""


class TopicInput:
    """One topic.

    Args:
        node: Subscribes.
        expected: The topic, and what is known of it beforehand.

    Attributes:
        expected: The same; its type is filled in once it is known.
        offers: What its publishers offer, as rclpy tells it.
        received: Messages so far.
        recent: The newest messages' bytes; of streams with joint names several.
        newest_ns: When that came.
        problem: Why it cannot be subscribed to; empty if it can.
    """

    def __init__(self, node: Node, expected: Expected) -> None:
        """Subscribe at the first `refresh` that finds a publisher."""
        self.expected = expected
        self.offers: Sequence[Any] = ()
        self.received = 0
        self.recent: deque[bytes] = deque(maxlen=_RECENT if expected.joint_names else 1)
        self.newest_ns: int | None = None
        self.problem = ''
        self._node = node
        self._arrivals = Arrivals(node)
        self._meter = RateMeter(expected.rate_hz)
        self._subscription: PolledSubscription | None = None
        self._qos: QoSProfile | None = None
        self._sink: Sink | None = None
        self._channel = -1

    @property
    def newest(self) -> bytes | None:
        """The newest message's bytes, if any."""
        return self.recent[-1] if self.recent else None

    @property
    def lost(self) -> int:
        """Messages that were published and did not arrive here."""
        return self._arrivals.lost

    @property
    def types(self) -> tuple[str, ...]:
        """Every type that the topic is published as."""
        return tuple(dict.fromkeys(offer.topic_type for offer in self.offers))

    @property
    def is_subscribed(self) -> bool:
        """Whether messages can come."""
        return self._subscription is not None

    @property
    def is_latched(self) -> bool:
        """Whether every subscription gets the newest messages again."""
        return self._qos is not None and self._qos.durability == DurabilityPolicy.TRANSIENT_LOCAL

    @property
    def fitting(self) -> list[Any]:
        """The offers of publishers of the right type."""
        kind = self.expected.type
        return [offer for offer in self.offers if offer.topic_type == kind]

    def rate_hz(self, now_ns: int) -> float | None:
        """Return the rate of late; see RateMeter."""
        return self._meter.rate_hz(now_ns)

    def topic(self) -> Topic | None:
        """Describe the topic for a bag; None while its type is not known."""
        if not self.expected.type:
            return None
        hashes = [str(getattr(offer, 'topic_type_hash', '')) for offer in self.fitting]
        return Topic(
            name=self.expected.topic,
            type=self.expected.type,
            type_hash=next((text for text in hashes if text.startswith('RIHS')), ''),
            qos=tuple(offered(offer.qos_profile) for offer in self.fitting),
        )

    def refresh(self) -> None:
        """Look at the publishers, and subscribe as they ask for; call it a few times a second."""
        self.offers = self._node.get_publishers_info_by_topic(self.expected.topic)
        if not self.expected.type and len(self.types) == 1:
            self.expected = dataclasses.replace(self.expected, type=self.types[0])
        offers = [offer.qos_profile for offer in self.fitting]
        if not offers:
            return  # those that were here may come back
        self._open_channel()
        wanted = adapted(offers, depth_for(self.expected.rate_hz))
        if self._qos is None or (
            # What asks for less than is offered works too: an episode is not torn for it.
            asks_too_much(self._qos, offers) if self._sink else not same(self._qos, wanted)
        ):
            self._subscribe(wanted)

    def attach(self, sink: Sink | None) -> None:
        """Hand messages on from now; None: keep them here."""
        self._sink, self._channel = sink, -1
        self._open_channel()

    def _open_channel(self) -> None:
        topic = self.topic()
        if self._sink is None or self._channel >= 0 or topic is None:
            return
        try:
            self._channel = self._sink.add_topic(topic)
        except UnknownType as error:
            self.problem = str(error)

    def retake(self) -> None:
        """Ask the publishers for their latched messages again."""
        if self._qos is not None and self.is_latched:
            self._subscribe(self._qos)

    def take(self) -> bool:
        """Take one message and hand it on; False if none has come."""
        taken = self._subscription.take() if self._subscription is not None else None
        if taken is None:
            return False
        payload, info = taken
        received_ns, sent_ns, sequence = self._arrivals.note(info)
        if self._channel >= 0 and self._sink is not None:
            self._sink.put(self._channel, payload, received_ns, sent_ns, sequence)
        self.received += 1
        self.recent.append(payload)
        self.newest_ns = received_ns
        self._meter.add(received_ns)
        return True

    def destroy(self) -> None:
        """Unsubscribe, once all that has come is taken."""
        if self._subscription is not None:
            while self.take():
                pass
            self._subscription.destroy()
            self._subscription = None
            self._qos = None

    def _subscribe(self, qos: QoSProfile) -> None:
        try:
            kind = message_class(self.expected.type)
        except (ImportError, AttributeError, ValueError):
            self.problem = (
                f'{self.expected.topic}: {self.expected.type} is not installed here; '
                "source the workspace that has it, in the recorder's terminal"
            )
            return
        self.problem = ''
        self.destroy()
        self._subscription = PolledSubscription(self._node, kind, self.expected.topic, qos)
        self._qos = qos
        reliable = qos.reliability == ReliabilityPolicy.RELIABLE
        self._node.get_logger().info(
            f'{self.expected.topic}: {self.expected.type}, {len(self.fitting)} publisher(s), '
            f'{"reliable" if reliable else "best effort"}{", latched" if self.is_latched else ""}'
        )


class Streams:
    """All topics of a recorder; one for each stream.

    Args:
        node: Subscribes.
        expected: The streams, as the spec has them.
        prefer_compressed: Take a raw camera's <topic>/compressed where that is published.

    Attributes:
        inputs: One for each stream.
        longest_ns: The longest that `poll` took since `attach`.
    """

    def __init__(
        self, node: Node, expected: Iterable[Expected], *, prefer_compressed: bool
    ) -> None:
        """Look for publishers at the first `refresh`."""
        self._node = node
        self._prefer_compressed = prefer_compressed
        self._sink: Sink | None = None
        self._asked = tuple(expected)
        self.inputs = [TopicInput(node, stream) for stream in self._asked]
        self.longest_ns = 0

    @property
    def expected(self) -> tuple[Expected, ...]:
        """The streams as they are recorded: each with the topic and type that was chosen."""
        return tuple(one.expected for one in self.inputs)

    def recorded(self, spec: RobotSpec) -> RobotSpec:
        """Return the spec with the topics and types on which its cameras are recorded."""
        cameras = []
        for camera in spec.cameras:
            stream = next(stream for stream in self.expected if stream.stream == camera.name)
            kind: Any = stream.type
            cameras.append(dataclasses.replace(camera, topic=stream.topic, type=kind))
        return dataclasses.replace(spec, cameras=tuple(cameras))

    def refresh(self) -> None:
        """Look at the publishers of every topic."""
        if self._prefer_compressed and self._sink is None:
            self._choose_transports()
        for one in self.inputs:
            one.refresh()

    def poll(self) -> bool:
        """Take the messages that have come, in turns; True if time ran out before the messages."""
        began_ns = now_ns = time.perf_counter_ns()
        waiting = self.inputs
        while waiting and now_ns - began_ns < _POLL_NS:
            waiting = [one for one in waiting if one.take()]
            now_ns = time.perf_counter_ns()
        self.longest_ns = max(self.longest_ns, now_ns - began_ns)
        return bool(waiting)

    def attach(self, sink: Sink) -> None:
        """Begin an episode: hand every message on that comes from now on, latched ones anew."""
        self._take_all()
        self._sink = sink
        self.longest_ns = 0
        for one in self.inputs:
            one.attach(sink)
            one.retake()

    def detach(self) -> None:
        """End the episode, with all that has come so far."""
        self._take_all()
        self._sink = None
        for one in self.inputs:
            one.attach(None)

    def destroy(self) -> None:
        """Unsubscribe from all."""
        for one in self.inputs:
            one.destroy()

    def _take_all(self) -> None:
        for one in self.inputs:
            while one.take():
                pass

    def _choose_transports(self) -> None:
        for index, (asked, now) in enumerate(zip(self._asked, self.inputs, strict=True)):
            for topic, kind in transports(asked):
                offers = self._node.get_publishers_info_by_topic(topic)
                if any(offer.topic_type == kind for offer in offers):
                    break
            else:
                continue  # neither: keep what there is
            if topic != now.expected.topic:
                now.destroy()
                chosen = dataclasses.replace(asked, topic=topic, type=kind)
                self.inputs[index] = TopicInput(self._node, chosen)
