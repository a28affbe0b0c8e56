"""The examination of a machine without a Ray cluster."""

from dataclasses import replace

from qdet.errors import type_and_first_line
from qdet.launching.doctor import gather, mlflow_server, store_probe
from qdet.launching.doctor.examiner import Examiner, Request
from qdet.launching.doctor.facts import Facts, StoreProbe
from qdet.masking import mask

PROBE = 32 * 2**20
"""Bytes that are written to the store."""


def examine_machine(request: Request, address: str) -> Facts:
    """Return the facts of this machine.

    Args:
        request: What is to be found out.
        address: At which services are to listen.
    """
    examiner = Examiner(request, "here", address)
    machine = examiner.gather()
    name = machine.host
    return Facts(
        here=gather.find_software(),
        machines={name: machine},
        store=mask(request.store),
        store_probes={name: _probe_store(request)},
        mlflow=mlflow_server.try_to_write(request.mlflow, request.patience / 2),
    )


def _probe_store(request: Request) -> StoreProbe:
    try:
        with store_probe.open_probe(request.store) as (probe, content):
            found = store_probe.try_store(request.store, probe, content, own="here", size=PROBE)
            return replace(found, seen=store_probe.sees(request.store, probe, "here"))
    except Exception as error:  # every kind of store has errors of its own
        return StoreProbe(sees=False, error=type_and_first_line(error))
