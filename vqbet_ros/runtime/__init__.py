"""What runs on the robot: from samples with stamps to the command that is due now.

Numpy only: no ROS, no torch, no clock. Time is an argument, in ns, always of the same clock.

    samples ─► observation ─► (policy) ─► supervisor: plan ─► limiter ─► command
                    └── gate: why there is none
"""
