"""Recording demonstrations: episodes as rosbag2 files, and the judgement of what they hold."""
