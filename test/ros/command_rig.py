"""A node that sends commands, and who listens to it."""

from command_parts import PERIOD_NS, until
import pytest
from rclpy.lifecycle import LifecycleNode
from vqbet_ros.ros.commands.commands import Commands


@pytest.fixture
def sender(graph):
    """A lifecycle node."""
    return graph.add(LifecycleNode('sender', context=graph.context))


@pytest.fixture
def commander(sender):
    """Make what sends an action's commands, in a node that becomes active then."""
    made = []

    def make(action, steady=None):
        commands = Commands(action, PERIOD_NS, steady)
        made.append(commands)
        commands.configure(sender)
        sender.trigger_configure()
        sender.trigger_activate()
        return commands

    yield make
    for commands in made:
        commands.close()
        commands.close()


@pytest.fixture
def listen(graph, sender):
    """Subscribe to what a commander publishes, and wait until both have found each other."""

    def make(kind, topic):
        listener = graph.listen(kind, topic)
        publisher = next(p for p in sender.publishers if p.topic_name == topic)
        until(lambda: publisher.get_subscription_count() > 0, f'a subscription to {topic}')
        return listener

    return make
