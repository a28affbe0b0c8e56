"""Fields of the Kubernetes objects that cluster/ describes, and a strict check against them.

Listed are the fields that these files may use, with the kind of their values, as KubeRay 1.6.2 defines RayJob
and RayCluster and Kubernetes 1.32 the rest. A field that is not listed is refused, as
`kubectl --validate=strict` would refuse one that does not exist.
"""

import re
from typing import Any

TEXT, WHOLE, FLAG = "text", "whole number", "true or false"
QUANTITY, WORDS = "quantity", "text by name"
METADATA = {"name": TEXT, "namespace": TEXT, "labels": WORDS, "annotations": WORDS}
RESOURCES = {"requests": QUANTITY, "limits": QUANTITY}
SECRET = {"secretKeyRef": {"name": TEXT, "key": TEXT, "optional": FLAG}}
LABELS = {"matchLabels": WORDS}
POD_SECURITY = {
    "runAsNonRoot": FLAG,
    "runAsUser": WHOLE,
    "runAsGroup": WHOLE,
    "fsGroup": WHOLE,
    "fsGroupChangePolicy": ("OnRootMismatch", "Always"),
}
SECURITY = {
    "allowPrivilegeEscalation": FLAG,
    "readOnlyRootFilesystem": FLAG,
    "runAsNonRoot": FLAG,
    "capabilities": {"drop": [TEXT], "add": [TEXT]},
}
CONTAINER = {
    "name": TEXT,
    "image": TEXT,
    "imagePullPolicy": ("Always", "IfNotPresent", "Never"),
    "workingDir": TEXT,
    "command": [TEXT],
    "args": [TEXT],
    "env": [{"name": TEXT, "value": TEXT, "valueFrom": SECRET}],
    "ports": [{"containerPort": WHOLE, "name": TEXT, "protocol": ("TCP", "UDP")}],
    "securityContext": SECURITY,
    "resources": RESOURCES,
    "volumeMounts": [{"name": TEXT, "mountPath": TEXT, "readOnly": FLAG, "subPath": TEXT}],
}
POD = {
    "securityContext": POD_SECURITY,
    "serviceAccountName": TEXT,
    "nodeSelector": WORDS,
    "priorityClassName": TEXT,
    "tolerations": [
        {
            "key": TEXT,
            "operator": ("Exists", "Equal"),
            "value": TEXT,
            "effect": ("NoSchedule", "PreferNoSchedule", "NoExecute"),
        }
    ],
    "terminationGracePeriodSeconds": WHOLE,
    "containers": [CONTAINER],
    "volumes": [
        {
            "name": TEXT,
            "persistentVolumeClaim": {"claimName": TEXT, "readOnly": FLAG},
            "emptyDir": {"medium": ("Memory", ""), "sizeLimit": "quantities"},
        }
    ],
}
TEMPLATE = {"metadata": METADATA, "spec": POD}
HEAD = {"rayStartParams": WORDS, "serviceType": TEXT, "template": TEMPLATE}
WORKERS = {
    "groupName": TEXT,
    "replicas": WHOLE,
    "minReplicas": WHOLE,
    "maxReplicas": WHOLE,
    "idleTimeoutSeconds": WHOLE,
    "numOfHosts": WHOLE,
    "rayStartParams": WORDS,
    "template": TEMPLATE,
}
CLUSTER = {
    "rayVersion": TEXT,
    "suspend": FLAG,
    "authOptions": {"mode": ("disabled", "token"), "secretName": TEXT},
    "enableInTreeAutoscaling": FLAG,
    "autoscalerOptions": {
        "version": ("v1", "v2"),
        "upscalingMode": ("Default", "Aggressive", "Conservative"),
        "idleTimeoutSeconds": WHOLE,
        "resources": RESOURCES,
    },
    "gcsFaultToleranceOptions": {
        "redisAddress": TEXT,
        "redisUsername": {"value": TEXT, "valueFrom": SECRET},
        "redisPassword": {"value": TEXT, "valueFrom": SECRET},
        "externalStorageNamespace": TEXT,
    },
    "headGroupSpec": HEAD,
    "workerGroupSpecs": [WORKERS],
}
JOB = {
    "entrypoint": TEXT,
    "activeDeadlineSeconds": WHOLE,
    "backoffLimit": WHOLE,
    "clusterSelector": WORDS,
    "runtimeEnvYAML": TEXT,
    "shutdownAfterJobFinishes": FLAG,
    "submissionMode": ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"),
    "submitterConfig": {"backoffLimit": WHOLE},
    "suspend": FLAG,
    "ttlSecondsAfterFinished": WHOLE,
    "rayClusterSpec": CLUSTER,
}
SPECS = {
    ("ray.io/v1", "RayJob"): JOB,
    ("ray.io/v1", "RayCluster"): CLUSTER,
    ("policy/v1", "PodDisruptionBudget"): {
        "minAvailable": WHOLE,
        "maxUnavailable": WHOLE,
        "selector": LABELS,
    },
    ("v1", "Service"): {"selector": WORDS, "ports": [{"port": WHOLE, "name": TEXT}], "clusterIP": TEXT},
    ("apps/v1", "StatefulSet"): {
        "serviceName": TEXT,
        "replicas": WHOLE,
        "selector": LABELS,
        "template": TEMPLATE,
        "volumeClaimTemplates": [
            {"metadata": METADATA, "spec": {"accessModes": [TEXT], "resources": RESOURCES}}
        ],
    },
}
"""Fields of the spec of every kind."""

_NUMBER = re.compile(r"\d+(\.\d+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?")


def find_faults(thing: dict[str, Any]) -> list[str]:
    """Return what a strict server would refuse in an object, each with its path; none where it is valid."""
    spec = SPECS.get((thing.get("apiVersion", ""), thing.get("kind", "")))
    if spec is None:
        return [f"kind: {thing.get('apiVersion')} {thing.get('kind')}"]
    return list(
        _check(
            thing,
            {"apiVersion": TEXT, "kind": TEXT, "metadata": METADATA | {"generateName": TEXT}, "spec": spec},
            "",
        )
    )


def _check(value: Any, field: Any, path: str) -> list[str]:
    if isinstance(field, dict):
        if not isinstance(value, dict):
            return [f"{path}: not an object"]
        faults = [f"{path}.{name}: no such field" for name in value if name not in field]
        known = [name for name in value if name in field]
        return faults + [
            fault for name in known for fault in _check(value[name], field[name], f"{path}.{name}")
        ]
    if isinstance(field, list):
        if not isinstance(value, list):
            return [f"{path}: not a list"]
        return [fault for i, one in enumerate(value) for fault in _check(one, field[0], f"{path}[{i}]")]
    if isinstance(field, tuple):
        return [] if value in field else [f"{path}: {value!r} is none of {field}"]
    return [] if _fits(value, field) else [f"{path}: {value!r} is no {field}"]


def _fits(value: Any, kind: str) -> bool:
    """Whether a value is of a kind; a number or true where text must stand is refused, as the server does."""
    if kind == QUANTITY:
        return isinstance(value, dict) and all(_fits(one, "quantities") for one in value.values())
    if kind == WORDS:
        return isinstance(value, dict) and all(isinstance(one, str) for one in [*value, *value.values()])
    return {
        TEXT: isinstance(value, str),
        WHOLE: isinstance(value, int) and not isinstance(value, bool),
        FLAG: isinstance(value, bool),
        "quantities": _NUMBER.fullmatch(str(value)) is not None and not isinstance(value, bool),
    }[kind]
