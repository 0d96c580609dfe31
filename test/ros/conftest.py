"""Real nodes over real DDS: one context and one domain for each test, and waiting on events."""

from collections.abc import Iterator
import random
import threading
from typing import Any

import pytest

TIMEOUT_S = 20.0


class Listener:
    """Keeps every message of one topic and waits for the one that is looked for."""

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.messages: list[Any] = []
        self._news = threading.Condition()

    def __call__(self, message: Any) -> None:
        with self._news:
            self.messages.append(message)
            self._news.notify_all()

    def __len__(self) -> int:
        with self._news:
            return len(self.messages)

    def clear(self) -> None:
        with self._news:
            self.messages.clear()

    def wait(self, accept=lambda message: True, *, count=1, timeout_s=TIMEOUT_S, what='') -> Any:
        """Return the `count`-th message that is accepted, counted from the last `clear`."""

        def matching():
            return [message for message in self.messages if accept(message)]

        with self._news:
            if not self._news.wait_for(lambda: len(matching()) >= count, timeout_s):
                last = self.messages[-1] if self.messages else 'none'
                seen = f'{len(matching())} of {count} {what or "wanted"} message(s)'
                pytest.fail(
                    f'{self.topic}: saw {seen} in {timeout_s:g} s; '
                    f'{len(self.messages)} in all, the last: {last}'
                )
            return matching()[count - 1]


class Graph:
    """Nodes of one test, each spun by its own thread."""

    def __init__(self) -> None:
        import rclpy
        from rclpy.context import Context

        self.context = Context()
        self.domain_id = random.randint(1, 100)
        rclpy.init(context=self.context, domain_id=self.domain_id)
        self._spinning: list[tuple[Any, Any, threading.Thread]] = []
        self.node = self.add(rclpy.create_node('observer', context=self.context))

    def add(self, node: Any) -> Any:
        """Spin a node that was made with this graph's context."""
        from rclpy.executors import SingleThreadedExecutor

        executor = SingleThreadedExecutor(context=self.context)
        executor.add_node(node)

        def spin() -> None:
            try:
                executor.spin()
            except Exception:
                # The test ends by shutting the context down, under whatever is being published.
                if self.context.ok():
                    raise

        thread = threading.Thread(target=spin, daemon=True)
        thread.start()
        self._spinning.append((node, executor, thread))
        return node

    def listen(self, kind: Any, topic: str) -> Listener:
        """Subscribe; best effort matches every publisher."""
        from rclpy.qos import qos_profile_sensor_data

        listener = Listener(topic)
        self.node.create_subscription(kind, topic, listener, qos_profile_sensor_data)
        return listener

    def call(self, kind: Any, name: str, request: Any = None) -> Any:
        """Call a service and return its answer."""
        client = self.node.create_client(kind, name)
        assert client.wait_for_service(timeout_sec=TIMEOUT_S), f'no service {name}'
        done = threading.Event()
        future = client.call_async(request or kind.Request())
        future.add_done_callback(lambda _: done.set())
        assert done.wait(TIMEOUT_S), f'{name} did not answer in {TIMEOUT_S:g} s'
        return future.result()

    def close(self) -> None:
        """Shut everything down."""
        self.context.try_shutdown()
        for _, _, thread in self._spinning:
            thread.join(TIMEOUT_S)
            assert not thread.is_alive(), 'a node did not stop spinning'
        for node, executor, _ in self._spinning:
            executor.shutdown()
            node.destroy_node()


@pytest.fixture
def graph() -> Iterator[Graph]:
    """An empty graph of its own."""
    graph = Graph()
    yield graph
    graph.close()


@pytest.fixture
def values():
    """Turn a DiagnosticStatus into a mapping."""
    return lambda status: {item.key: item.value for item in status.values}


@pytest.fixture
def make_checkpoint(tmp_path):
    """Save a tiny real policy that always commands the same place."""

    def make(target, robot='pusht'):
        from vqbet_ros.config import ModelConfig, VisionConfig
        from vqbet_ros.policy.checkpoint import save_checkpoint
        from vqbet_ros.policy.normalizer import Stats
        from vqbet_ros.policy.policy import Policy
        from vqbet_ros.resources import resource
        from vqbet_ros.spec import RobotSpec

        def stats(low, high):
            low, high = tuple(map(float, low)), tuple(map(float, high))
            return Stats(min=low, max=high, mean=low, std=tuple(1.0 for _ in low))

        spec = RobotSpec.from_yaml(resource(f'config/robots/{robot}.yaml'))
        config = ModelConfig(
            history=2,
            layers=1,
            heads=2,
            width=16,
            latent=8,
            tokenizer_hidden=8,
            codebook_size=4,
            vision=VisionConfig(weights='none', stages=1, features=8),
        )
        # A channel that never moved comes out as its constant, whatever the network says.
        statistics = {
            'state': stats([0] * spec.state_dim, [512] * spec.state_dim),
            'action': stats(target, target),
        }
        policy = Policy(config, spec, statistics).eval()
        save_checkpoint(tmp_path / 'checkpoint', policy, card='a test', training={})
        return tmp_path / 'checkpoint'

    return make
