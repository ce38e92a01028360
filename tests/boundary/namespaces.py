"""Hosts that are network namespaces of this machine: a switch, a server, a hospital, a proxy.

Nothing is made in the machine's own namespace; everything goes with ``down``, which is always
called. Needs root, ``ip`` and ``nft``.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field

NET = "10.77.0"
ADDRESSES = {"srv": f"{NET}.1", "site": f"{NET}.2", "proxy": f"{NET}.3"}

FIREWALL = """
table inet fw {{
  chain out {{
    type filter hook output priority 0; policy drop;
    oif lo accept
    ip daddr {address} tcp dport {port} counter accept comment "allowed"
    meta l4proto ipv6-icmp drop
    counter reject with icmpx type admin-prohibited comment "denied out"
  }}
  chain in {{
    type filter hook input priority 0; policy drop;
    iif lo accept
    ip saddr {address} tcp sport {port} ct state established,related accept
    meta l4proto ipv6-icmp drop
    counter drop comment "denied in"
  }}
}}
"""
"""One destination, both ways; everything else is counted. IPv6's own chatter is dropped unseen."""


COUNT_ALL = """
table inet packets {
  chain out {
    type filter hook output priority 0; policy accept;
    counter comment "sent"
  }
  chain in {
    type filter hook input priority 0; policy accept;
    counter comment "received"
  }
}
"""
"""Every packet of a host, those to itself included."""


def missing() -> str | None:
    """Why this machine cannot play; None when it can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    for tool in ("ip", "nft"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    return None


@dataclass
class Hosts:
    """Namespaces named ``<prefix>-<host>``."""

    prefix: str = field(default_factory=lambda: f"str{os.getpid() % 100000}")

    def command(self, host: str, command: Sequence[str]) -> list[str]:
        """The command line that runs ``command`` on ``host``."""
        return ["ip", "netns", "exec", f"{self.prefix}-{host}", *command]

    def up(self) -> None:
        """Make the switch and the hosts, and one that has nothing: even its lo is down."""
        self._ip("netns", "add", f"{self.prefix}-sw")
        self._in("sw", "link", "add", "br0", "type", "bridge")
        self._in("sw", "link", "set", "br0", "up")
        for number, (host, address) in enumerate(ADDRESSES.items()):
            self._ip("netns", "add", f"{self.prefix}-{host}")
            self._in(host, "link", "set", "lo", "up")
            peer = ["peer", "name", "eth0", "netns", f"{self.prefix}-{host}"]
            self._in("sw", "link", "add", f"p{number}", "type", "veth", *peer)
            self._in("sw", "link", "set", f"p{number}", "master", "br0", "up")
            self._in(host, "addr", "add", f"{address}/24", "dev", "eth0")
            self._in(host, "link", "set", "eth0", "up")
        self._ip("netns", "add", f"{self.prefix}-runner")

    def down(self) -> None:
        """Remove every namespace, whether ``up`` was finished or not."""
        for host in (*ADDRESSES, "runner", "sw"):
            subprocess.run(
                ["ip", "netns", "del", f"{self.prefix}-{host}"], check=False, capture_output=True
            )

    def allow_only(self, address: str, port: int) -> None:
        """Let the site out to one address and port; counters start at zero."""
        nft = self.command("site", ["nft", "-f", "-"])
        rules = "flush ruleset\n" + FIREWALL.format(address=address, port=port)
        subprocess.run(nft, input=rules, text=True, check=True, capture_output=True)

    def count_all(self, host: str) -> None:
        """Count every packet of ``host`` from now on."""
        nft = self.command(host, ["nft", "-f", "-"])
        rules = "flush ruleset\n" + COUNT_ALL
        subprocess.run(nft, input=rules, text=True, check=True, capture_output=True)

    def counters(self, host: str = "site") -> dict[str, int]:
        """Packets by comment: ``allowed``, ``denied out``, ``denied in``; or ``sent``, ``received``."""
        nft = self.command(host, ["nft", "-j", "list", "ruleset"])
        done = subprocess.run(nft, text=True, check=True, capture_output=True)
        found = {}
        for item in json.loads(done.stdout)["nftables"]:
            rule = item.get("rule", {})
            for part in rule.get("expr", ()):
                if "counter" in part and "comment" in rule:
                    found[rule["comment"]] = part["counter"]["packets"]
        return found

    def _in(self, host: str, *arguments: str) -> None:
        self._ip("-n", f"{self.prefix}-{host}", *arguments)

    def _ip(self, *arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True)
