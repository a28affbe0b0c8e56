"""Checks of machines together: that they answer, run the same software, and agree in time and network."""

import statistics
from collections.abc import Mapping

from data_prep.wording import plural
from qdet.launching.doctor.facts import Facts
from qdet.launching.doctor.findings import Finding, State, Verdict, group, most_common

CORE = ("python", "qdet", "torch", "ray", "deepspeed")
"""Of which all machines need one version; another version of the rest is a warning."""
SKEW, LARGE_SKEW = 0.5, 5.0
"""Seconds between clocks. Leases and the order of runs go by each machine's own, with seconds to spare."""
SLOW_LINK = 50e6
"""Bytes per second: gradients of the smallest published detector (160 MB) take seconds a step."""
UNEVEN = 4.0
"""A link this much slower than the middle one is named."""


def check_nodes(facts: Facts) -> list[Finding]:
    """Every node of the cluster gives its facts."""
    do = "see Ray's logs there (/tmp/ray/session_latest/logs); restart the node, or take it out"
    bad = group(
        "nodes", {n: Verdict("wrong", f"does not answer: {why}", do) for n, why in facts.silent.items()}
    )
    there = f"{plural(len(facts.machines), 'machine')} of the cluster at {facts.cluster}"
    fine = there if facts.cluster else "this machine alone, without Ray"
    return [*bad, Finding(check="nodes", state="ok", found=fine)] if facts.machines else bad


def check_versions(facts: Facts) -> list[Finding]:
    """All machines run the same versions, and the same files of qdet."""
    machines, found = facts.machines, list[Finding]()
    for name, here in facts.here.versions.items():
        values = {
            key: f"{name} {one.software.versions.get(name, 'missing')}" for key, one in machines.items()
        }
        found += _compare_versions(values, f"{name} {here}", "wrong" if name in CORE else "warning")
    codes = {name: f"the files of qdet {one.software.code}" for name, one in machines.items()}
    found += _compare_versions(codes, f"the files of qdet {facts.here.code}", "wrong")
    versions = ", ".join(f"{name} {value}" for name, value in facts.here.versions.items())
    return found or [Finding(check="versions", state="ok", found=f"the same everywhere: {versions}")]


def _compare_versions(values: Mapping[str, str], here: str, state: State) -> list[Finding]:
    """Return findings where machines, or this process, do not have what most machines have."""
    right = most_common(values.values(), here)
    bad = {
        name: Verdict(state, f"{value}, elsewhere {right}", f"install {right} there")
        for name, value in values.items()
        if value != right
    }
    if here == right:
        return group("versions", bad)
    said, do = f"this process has {here}, the machines {right}", f"install {right} here, or start jobs there"
    return [*group("versions", bad), Finding(check="versions", state=state, found=said, do=do)]


def check_clocks(facts: Facts) -> list[Finding]:
    """Clocks agree, as far as that was measured."""
    do = "have chrony or systemd-timesyncd set it: timedatectl set-ntp true"
    bad = {
        name: Verdict(
            "wrong" if abs(clock.ahead) > LARGE_SKEW else "warning",
            f"{abs(clock.ahead):.1f} s {'ahead of' if clock.ahead > 0 else 'behind'} the driver's",
            do,
        )
        for name, clock in facts.clocks.items()
        if abs(clock.ahead) - clock.off > SKEW
    }
    if bad or not facts.clocks:
        return group("clocks", bad)
    largest = max(abs(clock.ahead) + clock.off for clock in facts.clocks.values())
    return [Finding(check="clocks", state="ok", found=f"within {largest:.3f} s of the driver's")]


def check_token(facts: Facts) -> list[Finding]:
    """Ray answers no one without the token."""
    if facts.cluster is None:
        return []
    do = "set RAY_AUTH_MODE=token and one RAY_AUTH_TOKEN for all before ray start; qdet head up does so"
    off = [name for name, machine in facts.machines.items() if not machine.token]
    if facts.open or (facts.open is None and off):
        said = "Ray answers without a token: who reaches its ports can run code"
        return [Finding(check="token", state="wrong", found=said, do=do)]
    verdict = Verdict("wrong", "Ray's token authentication is off in its processes", do)
    return group("token", dict.fromkeys(off, verdict)) or [
        Finding(check="token", state="ok", found="Ray asks for it")
    ]


def check_links(facts: Facts) -> list[Finding]:
    """Machines connect to each other, at speeds that are alike."""
    if len(facts.machines) < 2:
        return []
    do = "open all TCP ports between the machines, in firewall and security group"
    failed = [
        Finding(
            check="network",
            state="wrong",
            found=f"cannot connect to {link.target}: {link.error}",
            do=do,
            where=(link.source,),
        )
        for link in facts.links
        if link.error
    ]
    if facts.group_error and not failed:
        said = f"the machines make no {facts.backend} group: {facts.group_error}"
        do = "name the interface that they share: GLOO_SOCKET_IFNAME, NCCL_SOCKET_IFNAME"
        failed.append(Finding(check="network", state="wrong", found=said, do=do))
    return failed or _judge_speed(facts)


def _judge_speed(facts: Facts) -> list[Finding]:
    speeds = {(link.source, link.target): link.speed for link in facts.links if link.speed}
    if not speeds:
        return []
    middle, slowest = statistics.median(speeds.values()) / 1e6, min(speeds.values()) / 1e6
    do = "look for a bad cable or a busy link, or name the interface (GLOO_SOCKET_IFNAME)"
    slow = [
        Finding(
            check="network",
            state="warning",
            found=f"{speed / 1e6:.0f} MB/s to {target}, the middle of all links is {middle:.0f}",
            do=do,
            where=(source,),
        )
        for (source, target), speed in speeds.items()
        if speed < max(SLOW_LINK, middle * 1e6 / UNEVEN)
    ]
    said = f"all connect; {facts.backend} passes at least {slowest:.0f} MB/s between neighbours"
    return slow or [Finding(check="network", state="ok", found=said)]
