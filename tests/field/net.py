"""Five hosts that are network namespaces: a server, three hospitals, the proxy of one of them.

A router between them forwards to the server's two ports and nothing else; each hospital's own firewall
lets out one address and port. Nothing is made in this machine's own namespace.
"""

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

HOSTS = ("srv", "north", "river", "harbour", "proxy")
ADDRESS = {host: f"10.77.{number}.2" for number, host in enumerate(HOSTS, 1)}
SERVER, PROXY = ADDRESS["srv"], ADDRESS["proxy"]

FIREWALL = """
flush ruleset
table inet fw {{
  chain out {{
    type filter hook output priority 0; policy drop;
    oif lo accept
    ip daddr {address} tcp dport {{ {ports} }} counter accept comment "allowed"
    meta l4proto ipv6-icmp drop
    counter reject with icmpx type admin-prohibited comment "denied out"
  }}
  chain in {{
    type filter hook input priority 0; policy drop;
    iif lo accept
    ip saddr {address} tcp sport {{ {ports} }} ct state established,related accept
    meta l4proto ipv6-icmp drop
    counter drop comment "denied in"
  }}
}}
"""
ROUTER = f"""
table inet router {{
  chain forward {{
    type filter hook forward priority 0; policy drop;
    ct state established,related accept
    ip saddr {ADDRESS["harbour"]} ip daddr {PROXY} tcp dport 8888 accept
    ip saddr {{ {ADDRESS["north"]}, {ADDRESS["river"]}, {PROXY} }} \
      ip daddr {SERVER} tcp dport {{ 443, 8443 }} accept
    counter comment "denied on the way"
  }}
}}
"""


@dataclass
class Network:
    """Namespaces named ``<prefix>-<host>``; the router is ``<prefix>-rt``."""

    prefix: str

    def up(self) -> None:
        """Make hosts and router."""
        self._ip("netns", "add", f"{self.prefix}-rt")
        self._in("rt", "link", "set", "lo", "up")
        self._exec("rt", ["sysctl", "-qw", "net.ipv4.ip_forward=1"])
        for number, host in enumerate(HOSTS, 1):
            self._ip("netns", "add", f"{self.prefix}-{host}")
            self._in(host, "link", "set", "lo", "up")
            peer = ["peer", "name", "eth0", "netns", f"{self.prefix}-{host}"]
            self._in("rt", "link", "add", f"r{number}", "type", "veth", *peer)
            self._in("rt", "addr", "add", f"10.77.{number}.1/24", "dev", f"r{number}")
            self._in("rt", "link", "set", f"r{number}", "up")
            self._in(host, "addr", "add", f"{ADDRESS[host]}/24", "dev", "eth0")
            self._in(host, "link", "set", "eth0", "up")
            self._in(host, "route", "add", "default", "via", f"10.77.{number}.1")
        # Of this namespace alone: a container without capabilities may open 443 in it.
        self._exec("srv", ["sysctl", "-qw", "net.ipv4.ip_unprivileged_port_start=443"])
        self._exec("rt", ["nft", "-f", "-"], ROUTER)

    def down(self) -> None:
        """Remove all of them, whether ``up`` was finished or not."""
        for host in (*HOSTS, "rt"):
            subprocess.run(
                ["ip", "netns", "del", f"{self.prefix}-{host}"], check=False, capture_output=True
            )

    def allow(self, host: str, address: str, *ports: int) -> None:
        """Let a host out to one address; its counters start at zero."""
        rules = FIREWALL.format(address=address, ports=", ".join(map(str, ports)))
        self._exec(host, ["nft", "-f", "-"], rules)

    def option(self, host: str) -> str:
        """What puts a container into the host's namespace."""
        return f"--network=ns:/run/netns/{self.prefix}-{host}"

    def command(self, host: str, command: Sequence[str]) -> list[str]:
        """The command line that runs ``command`` on ``host``."""
        return ["ip", "netns", "exec", f"{self.prefix}-{host}", *command]

    def counters(self, host: str) -> dict[str, int]:
        """Packets by the rule that took them."""
        listed = json.loads(self._exec(host, ["nft", "-j", "list", "ruleset"]))
        found = {}
        for item in listed["nftables"]:
            rule = item.get("rule", {})
            for part in rule.get("expr", ()):
                if "counter" in part and "comment" in rule:
                    found[rule["comment"]] = part["counter"]["packets"]
        return found

    def _in(self, host: str, *arguments: str) -> None:
        self._ip("-n", f"{self.prefix}-{host}", *arguments)

    def _exec(self, host: str, command: Sequence[str], text: str | None = None) -> str:
        done = subprocess.run(
            self.command(host, command), input=text, text=True, check=True, capture_output=True
        )
        return done.stdout

    def _ip(self, *arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True)
