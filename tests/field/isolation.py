"""What the running containers may do, asked from inside them while a study goes on."""

import json
from typing import Any

from checks import Checks
from net import ADDRESS, SERVER
from places import Machine, Place

STATUS = """
import json, os
said = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines() if ":" in line)
def write(path):
    try:
        open(path, "w").close(); os.unlink(path); return True
    except OSError:
        return False
def readable(path):
    try:
        open(path, "rb").close(); return True
    except OSError:
        return False
def listed(path):
    try:
        return sorted(os.listdir(path))
    except OSError:
        return None
print(json.dumps({
    "uid": os.getuid(), "gid": os.getgid(),
    "caps": [said[key].strip() for key in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")],
    "no_new_privs": said["NoNewPrivs"].strip(),
    "writable": [p for p in ("/x", "/opt/stillroom/x", "/etc/x", "/usr/x", "/data/cardiac-ct/x") if write(p)],
    "tmp": write("/tmp/x"),
    "secrets": [p for p in ("site.key", "signing.key") if readable("/stillroom/" + p)],
    "scans": listed("/data/cardiac-ct"), "work": listed("/stillroom/state"),
    "ledger": listed("/stillroom/courier"),
}))
"""
REACH = """
import errno, json, socket, sys
said = []
for host, port in json.loads(sys.argv[1]):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(family, kind) as probe:
            probe.settimeout(1)
            try:
                probe.connect((host, port))
                if kind == socket.SOCK_DGRAM:
                    probe.send(b"x")
                    probe.recv(1)  # nobody is told of a datagram that is lost: only an answer counts
                said.append([host, port, kind.name, "reached"])
            except OSError:
                pass
try:
    socket.getaddrinfo("example.org", 443)
    said.append(["name service", 0, "", "answered"])
except OSError:
    pass
print(json.dumps([said, [name for _, name in socket.if_nameindex()]]))
"""
PLACES = [
    [SERVER, 443],
    [SERVER, 8443],
    [ADDRESS["north"], 22],
    [ADDRESS["proxy"], 8888],
    ["10.77.2.1", 53],
    ["169.254.169.254", 80],
    ["192.0.2.1", 443],
    ["2001:db8::1", 443],
    ["127.0.0.1", 8000],
]
PYTHON = "/opt/stillroom/bin/python"


def _inside(place: Machine, which: str, code: str, *arguments: str) -> Any:
    said = place.ask(which, PYTHON, "-c", code, *arguments, typed=False)
    return json.loads(said.splitlines()[-1])


def hardened(hospital: Machine, checks: Checks) -> None:
    """Both containers of a hospital: accounts, capabilities, disks, and who sees what."""
    for which, uid in (("courier", 10001), ("runner", 10002)):
        seen = _inside(hospital, which, STATUS)
        checks.hold(
            f"{hospital.name} {which}: uid {uid}, no capability, no new privileges",
            (seen["uid"], seen["gid"], set(seen["caps"]), seen["no_new_privs"]),
            want=(uid, 10000, {"0" * 16}, "1"),
        )
        checks.hold(
            f"{hospital.name} {which}: nothing writable but its volumes and /tmp",
            (seen["writable"], seen["tmp"]),
            want=([], True),
        )
        if which == "courier":
            checks.hold(
                f"{hospital.name} courier: sees no scan and no working copy",
                (seen["scans"] or [], seen["work"] or []),
                want=([], []),
            )
        else:
            checks.hold(
                f"{hospital.name} runner: sees the scans, no private key and no ledger",
                (bool(seen["scans"]), seen["secrets"], seen["ledger"] or []),
                want=(True, [], []),
            )
        limits = hospital.service(which)
        given = hospital.inspect(which)["HostConfig"]
        checks.hold(
            f"{hospital.name} {which}: limits on processes and memory",
            (given["PidsLimit"], given["Memory"]),
            want=(limits["pids_limit"], int(limits["mem_limit"].removesuffix("g")) << 30),
        )
        healthy = ["stillroom-client", "health", which, "--config", "/stillroom/site.toml"]
        checks.hold(
            f"{hospital.name} {which}: its health command says alive",
            hospital.ask(which, *healthy, typed=False),
            want=f"{which}: alive",
        )


def doctor(hospital: Machine, checks: Checks) -> None:
    """Each container's doctor finds nothing that failed."""
    for which in ("courier", "runner"):
        ask = ["stillroom-client", "doctor", "--config", "/stillroom/site.toml", "--part", which]
        said = hospital.ask(which, *ask, "--json", typed=False)
        try:
            seen = json.loads(said[said.index("{") :])
        except ValueError:
            seen = {"said": said[-300:]}
        failed = [
            one for one in seen.get("checks", [seen]) if one.get("outcome", "failed") == "failed"
        ]
        checks.hold(
            f"{hospital.name} {which}: doctor finds no fault",
            failed,
            want=[],
            detail=f"{len(seen.get('checks', []))} checks",
        )


def runner_alone(hospital: Machine, checks: Checks) -> None:
    """The runner tries every kind of address, name service included, and reaches none."""
    reached, interfaces = _inside(hospital, "runner", REACH, json.dumps(PLACES))
    checks.hold(
        f"{hospital.name} runner: {len(PLACES)} addresses by TCP and UDP and a name tried",
        (reached, interfaces),
        want=([], ["lo"]),
        detail="none reached, no interface but lo",
    )


def courier_alone(hospital: Place, checks: Checks, port: int, address: str) -> None:
    """The courier spoke to one address alone; when it tries another, that is refused and counted."""
    before = hospital.network.counters(hospital.name)
    checks.hold(
        f"{hospital.name} courier: not one packet to anywhere but {address}:{port}",
        (before["allowed"] > 0, before["denied out"], before["denied in"]),
        want=(True, 0, 0),
        detail=f"{before['allowed']} packets allowed, 0 denied",
    )
    others = [place for place in PLACES if place != [address, port] and place[0] != "127.0.0.1"]
    reached, _ = _inside(hospital, "courier", REACH, json.dumps(others))
    after = hospital.network.counters(hospital.name)
    checks.hold(
        f"{hospital.name} courier: {len(others)} other addresses tried from inside it, all refused",
        (reached, after["denied out"] > before["denied out"]),
        want=([], True),
    )
