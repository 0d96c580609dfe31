"""Start the policy node and take it to its active state.

Robots on Fast DDS that send images: export FASTRTPS_DEFAULT_PROFILES_FILE (from Kilted on
FASTDDS_DEFAULT_PROFILES_FILE) with the path of this package's config/fastdds.xml first; this file
changes nothing of the middleware's settings.
"""

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, EmitEvent, RegisterEventHandler, Shutdown
from launch.conditions import IfCondition
from launch.event_handlers import OnProcessStart
from launch.events import matches_action
from launch.events.process import ProcessExited
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import LifecycleNode
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from launch_ros.parameter_descriptions import ParameterFile, ParameterValue
from launch_ros.substitutions import FindPackageShare
from lifecycle_msgs.msg import Transition


def _shutdown(event: ProcessExited, context: LaunchContext) -> Shutdown | None:
    # Everything here is required. A second shutdown while the first is under way is an error.
    return None if context.is_shutdown else Shutdown(reason=f'{event.process_name} ended')


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments, the node and its automatic start."""
    share = FindPackageShare('vqbet_ros')
    node = LifecycleNode(
        package='vqbet_ros',
        executable='policy_node',
        name='policy_node',
        namespace=LaunchConfiguration('namespace'),
        output='screen',
        parameters=[
            ParameterFile(LaunchConfiguration('params'), allow_substs=True),
            {
                name: ParameterValue(LaunchConfiguration(name), value_type=kind)
                for name, kind in (
                    ('checkpoint', str),
                    ('spec', str),
                    ('goal', str),
                    ('device', str),
                    ('enable', bool),
                )
            },
        ],
        arguments=['--ros-args', '--log-level', LaunchConfiguration('log_level')],
        on_exit=_shutdown,
    )

    def change_state(transition: int) -> EmitEvent:
        return EmitEvent(
            event=ChangeState(
                lifecycle_node_matcher=matches_action(node), transition_id=transition
            )
        )

    autostart = IfCondition(LaunchConfiguration('autostart'))
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                'checkpoint',
                default_value=PathJoinSubstitution([share, 'models', 'pusht_image']),
                description='Checkpoint directory of the policy.',
            ),
            DeclareLaunchArgument(
                'spec',
                default_value='',
                description="The robot's spec (YAML file); empty: the checkpoint's own. "
                'Where the two differ, the node lists every difference and does not start.',
            ),
            DeclareLaunchArgument(
                'goal',
                default_value='',
                description='Goal: PATH[:episode/E][:FRAME] of a dataset or bag, or a picture.',
            ),
            DeclareLaunchArgument(
                'device',
                default_value='auto',
                choices=['auto', 'cpu', 'cuda'],
                description='Where inference runs; auto takes a CUDA GPU if there is one.',
            ),
            DeclareLaunchArgument(
                'params',
                default_value=PathJoinSubstitution([share, 'config', 'nodes', 'policy.yaml']),
                description='Parameter file (YAML) with everything else; the other arguments of '
                'this launch file win over it.',
            ),
            DeclareLaunchArgument(
                'autostart',
                default_value='true',
                description='Configure and activate the node; false leaves both to you.',
            ),
            DeclareLaunchArgument(
                'enable',
                default_value='false',
                description='Let commands out as soon as all streams are there; false waits for '
                'the service ~/enable: a robot moves only when somebody says so.',
            ),
            DeclareLaunchArgument(
                'namespace',
                default_value='',
                description="Namespace of the node and its services; the spec's topics are "
                'absolute and stay as they are.',
            ),
            DeclareLaunchArgument(
                'log_level', default_value='info', description='debug, info, warn, error or fatal.'
            ),
            node,
            RegisterEventHandler(
                OnProcessStart(
                    target_action=node,
                    on_start=[change_state(Transition.TRANSITION_CONFIGURE)],
                ),
                condition=autostart,
            ),
            RegisterEventHandler(
                OnStateTransition(
                    target_lifecycle_node=node,
                    start_state='configuring',
                    goal_state='inactive',
                    entities=[change_state(Transition.TRANSITION_ACTIVATE)],
                ),
                condition=autostart,
            ),
        ]
    )
