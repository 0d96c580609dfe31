"""Training: the phases, the loop around them, what it writes. No ROS."""
