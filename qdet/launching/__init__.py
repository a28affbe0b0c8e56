"""Start jobs: command line, Ray, MLflow. In: what runs around training. Out: training itself."""
