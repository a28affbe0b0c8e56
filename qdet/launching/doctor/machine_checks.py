"""Checks of each machine by itself: GPUs, limits, memory to share, disks, ports."""

from collections.abc import Callable, Mapping

from data_prep.wording import plural
from qdet.launching.doctor.facts import Facts, Machine
from qdet.launching.doctor.findings import Finding, Verdict, group, human

GIB = 2**30
FEW_FILES, TOO_FEW_FILES = 4096, 1024
"""Open files: every shard, reader and rank that a process speaks with is one."""
FEW_PROCESSES, TOO_FEW_PROCESSES = 4096, 1024
"""Processes and threads: Ray starts some hundred on a machine, and every worker has its readers."""
LITTLE_SHARED, TOO_LITTLE_SHARED = GIB, 256 * 2**20
"""Bytes free in /dev/shm, which Ray's objects, NCCL and readers' processes take. Docker gives 64 MiB."""
LITTLE_DISK, TOO_LITTLE_DISK = 20 * GIB, 2 * GIB
"""Bytes free: a checkpoint of the larger detectors takes 3 GB, and two are kept at least."""
FULL = 0.95
"""Share of a disk beyond which Ray writes no objects to it."""


def check_gpus(facts: Facts) -> list[Finding]:
    """GPUs are those that Ray hands out, of one kind, with one driver, and torch can compute on them."""
    gpus = [machine.gpus for machine in facts.machines.values()]
    total, drivers = sum(len(one.names) for one in gpus), sorted({one.driver for one in gpus if one.driver})
    kinds = ", ".join(sorted({name for one in gpus for name in one.names}))
    fine = f"{total} of {kinds}, driver {', '.join(drivers)}" if total else "none: training uses CPUs"
    return [*_compare_gpus(facts), *_check(facts, "GPUs", _judge_gpus, fine)]


def check_limits(facts: Facts) -> list[Finding]:
    """A process may open enough files and start enough threads."""
    lowest = [m.open_files for m in facts.machines.values() if m.open_files >= 0]
    files = f"at least {min(lowest)}" if lowest else "any number of"
    found = group("limits", {name: _judge_processes(one) for name, one in facts.machines.items()})
    return found + _check(facts, "limits", _judge_files, f"{files} open files")


def check_shared_memory(facts: Facts) -> list[Finding]:
    """/dev/shm is large enough."""
    free = [m.shared_memory.free for m in facts.machines.values() if m.shared_memory]
    said = f"at least {human(min(free))} free in /dev/shm" if free else "this system has no /dev/shm"
    return _check(facts, "shared memory", _judge_shared_memory, said)


def check_disks(facts: Facts) -> list[Finding]:
    """Disks of store, cache and temporary files have room."""
    free = [disk.free for machine in facts.machines.values() for disk in machine.disks]
    return _check(facts, "disk", _judge_disks, f"at least {human(min(free, default=0))} free")


def check_ports(facts: Facts) -> list[Finding]:
    """Nothing listens where a service is to listen."""

    def judge(machine: Machine) -> Verdict | None:
        if not machine.taken_ports:
            return None
        first, *_ = machine.taken_ports
        seen = f"something listens at port {', '.join(map(str, machine.taken_ports))} already"
        if facts.ports_asked:
            return Verdict("wrong", seen, f"stop it (ss -ltnp 'sport = :{first}'), or take other ports")
        return Verdict(
            "warning", seen, "qdet head up takes the next free port; qdet head down ends an old head"
        )

    return _check(facts, "ports", judge, "free")


def _check(facts: Facts, check: str, judge: Callable[[Machine], Verdict | None], fine: str) -> list[Finding]:
    """Return what a judge finds of each machine, alike ones together, or that all are well."""
    bad = group(check, {name: judge(machine) for name, machine in facts.machines.items()})
    return bad or [Finding(check=check, state="ok", found=fine)]


def _judge_gpus(machine: Machine) -> Verdict | None:
    gpus, there = machine.gpus, len(machine.gpus.names)
    if gpus.error:
        do = "run nvidia-smi there; reboot the machine, or mend its driver"
        return Verdict("wrong", f"the driver does not answer: {gpus.error}", do)
    if gpus.counted is not None and gpus.counted > there:
        seen = f"Ray hands out {gpus.counted:g}, and {there or 'none'} can be seen"
        do = "look for a lost GPU with nvidia-smi and dmesg; start the node without --num-gpus"
        return Verdict("wrong", seen, do)
    if there and "+cpu" in machine.software.versions.get("torch", ""):
        seen = f"{plural(there, 'GPU')}, and a torch that computes on CPUs only"
        return Verdict("wrong", seen, "install torch for CUDA there")
    if gpus.counted is not None and gpus.counted < there:
        seen = f"Ray hands out {gpus.counted:g} of {plural(there, 'GPU')}"
        do = "start the node without CUDA_VISIBLE_DEVICES and --num-gpus if training may take all"
        return Verdict("warning", seen, do)
    return None


def _compare_gpus(facts: Facts) -> list[Finding]:
    """Return warnings about machines with GPUs that are not alike."""
    there = {name: machine.gpus for name, machine in facts.machines.items() if machine.gpus.names}
    drivers = {name: f"driver {gpus.driver}" for name, gpus in there.items()}
    kinds = {name: f"has {', '.join(sorted(set(gpus.names)))}" for name, gpus in there.items()}
    return _differ(drivers, "install the same driver on all machines") + _differ(
        kinds, "the slowest GPU sets the pace; choose one kind with --train.gpu-type"
    )


def _differ(values: Mapping[str, str], do: str) -> list[Finding]:
    if len(set(values.values())) < 2:
        return []
    return group("GPUs", {name: Verdict("warning", value, do) for name, value in values.items()})


def _judge_files(machine: Machine) -> Verdict | None:
    do = "ulimit -n 65536 before Ray starts there, or LimitNOFILE of its unit"
    return _judge_limit(machine.open_files, FEW_FILES, TOO_FEW_FILES, "open files", do)


def _judge_processes(machine: Machine) -> Verdict | None:
    do = "ulimit -u 65536 before Ray starts there, or a higher limit of pids for its container"
    return _judge_limit(machine.processes, FEW_PROCESSES, TOO_FEW_PROCESSES, "processes and threads", do)


def _judge_limit(limit: int, few: int, too_few: int, what: str, do: str) -> Verdict | None:
    if limit < 0 or limit >= few:
        return None
    return Verdict("wrong" if limit < too_few else "warning", f"at most {limit} {what}", do)


def _judge_shared_memory(machine: Machine) -> Verdict | None:
    space = machine.shared_memory
    if space is None or space.free >= LITTLE_SHARED:
        return None
    seen = f"{human(space.free)} of {human(space.total)} free in /dev/shm"
    do = "remove what dead processes have left there, or start the container with --shm-size 8g"
    return Verdict("wrong" if space.free < TOO_LITTLE_SHARED else "warning", seen, do)


def _judge_disks(machine: Machine) -> Verdict | None:
    full = [one for one in machine.disks if one.free < max(LITTLE_DISK, (1 - FULL) * one.total)]
    if not full:
        return None
    disk = min(full, key=lambda one: one.free)
    seen = f"{human(disk.free)} of {human(disk.total)} free on the disk of {disk.path}"
    do = "free some space there, or choose another --store.path, --data.cache or RAY_TMPDIR"
    return Verdict("wrong" if disk.free < TOO_LITTLE_DISK else "warning", seen, do)
