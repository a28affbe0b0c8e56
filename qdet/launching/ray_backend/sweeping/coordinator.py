"""Ray Train's coordinator of demands, where no trial's end takes it along.

Every controller of Ray Train tells one named process of the cluster, `AutoscalingCoordinator`, what it needs.
The first controller starts it and binds it to its own node. Once that node is lost, it can never be placed
again, and the controllers of all other trials fail at every call.
"""

NAME = "AutoscalingCoordinator"
"""Of the process and of its namespace, as Ray Train looks for it."""


def start_coordinator() -> None:
    """Start it near this process unless it runs; another node takes it over when its own is lost."""
    import ray
    from ray.data._internal.cluster_autoscaler import default_autoscaling_coordinator as coordinator
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    forever = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
    forever(coordinator._AutoscalingCoordinatorActor).options(
        name=NAME, namespace=NAME, get_if_exists=True, lifetime="detached", scheduling_strategy=here
    ).remote()
