"""Commands about MLflow. In: its page, its registry, what it has not yet received. Out: training."""
