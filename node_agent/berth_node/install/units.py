"""The text of the files for systemd, systemd-networkd and NetworkManager."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

__all__ = ["link", "manager", "networkd", "pods_network", "secondaries_network", "service"]

_HEAD: Final = "# Written by `berth-node install`; `berth-node uninstall` takes it away.\n"

_SERVICE: Final = """\
[Unit]
Description=Berth node agent: VPC addresses for pods
Documentation=file:{config}
# A service that flushes all of nftables when it starts does so before the agent looks.
After=network.target nftables.service firewalld.service
StartLimitIntervalSec=0

[Service]
Type=notify
ExecStart={command} agent --config {config}
Restart=always
RestartSec=1
# The start waits for instance metadata for as long as that takes. Plugins wait for a restarting agent for 20 s, DELs
# are kept for it, and pods talk on: what is running does not depend on this service.
TimeoutStartSec=infinity
TimeoutStopSec=15
WatchdogSec=60
# The pods' journal is there: it must outlive the service, and ends with the boot.
RuntimeDirectory=berth
RuntimeDirectoryMode=0700
RuntimeDirectoryPreserve=yes
StateDirectory=berth
StateDirectoryMode=0700
UMask=0077

# It runs as root, without root's powers. CAP_NET_ADMIN: links, routes, rules, nftables. CAP_SYS_ADMIN: setns(2) into a
# pod's network namespace, and nothing else needs it.
CapabilityBoundingSet=CAP_NET_ADMIN CAP_SYS_ADMIN
NoNewPrivileges=yes
ProtectSystem=strict
ReadWritePaths={writable}
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
ProtectProc=invisible
LockPersonality=yes
MemoryDenyWriteExecute=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictAddressFamilies=AF_UNIX AF_NETLINK AF_INET AF_INET6
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
# Not set, because the agent would fail with them:
#   RestrictNamespaces      forbids setns(2), by which a pod's side is wired
#   ProtectKernelTunables   makes /proc/sys read-only: ip_forward and rp_filter are written there
#   PrivateNetwork, PrivateUsers   it is the node's own network that is configured
# The CRI socket (containerd's or CRI-O's) stays within reach, to list the sandboxes that still exist. Who can connect
# to it can start privileged containers, so it is as good as root on this node. To withhold it, add with
# `systemctl edit berth-node`: InaccessiblePaths=-/run/containerd/containerd.sock -/run/crio/crio.sock

MemoryMax={memory}
TasksMax=64
LimitNOFILE=65536
# Without it no pod starts; pods that run do not miss it for a while.
OOMScoreAdjust=-900

[Install]
WantedBy=multi-user.target
"""


def service(command: Sequence[str], config: str, writable: Sequence[str], memory: str) -> str:
    """``berth-node.service``. ``command`` is the agent's, without its subcommand; paths without spaces."""
    text = _SERVICE.format(command=" ".join(command), config=config, writable=" ".join(writable), memory=memory)
    return _HEAD + text


def networkd() -> str:
    """For ``networkd.conf.d``: networkd removes routes and rules that it did not make, unless told otherwise."""
    return _HEAD + "[Network]\nManageForeignRoutes=no\nManageForeignRoutingPolicyRules=no\n"


def pods_network() -> str:
    """A ``.network`` for the pods' host ends: theirs is the agent's to set up."""
    return _HEAD + "[Match]\nName=eni*\nDriver=veth\n\n[Link]\nUnmanaged=yes\n"


def link() -> str:
    """A ``.link`` for the same: udev would give each a new MAC address, which the pod's neighbour entry would miss."""
    return _HEAD + "[Match]\nOriginalName=eni*\nDriver=veth\n\n[Link]\nNamePolicy=keep\nMACAddressPolicy=none\n"


def secondaries_network(primary: str) -> str:
    """A ``.network`` for the instance's other interfaces: DHCP there would bring an on-link route for their subnet."""
    return _HEAD + f"[Match]\nDriver=ena ixgbevf vif\nName=!{primary}\n\n[Link]\nUnmanaged=yes\n"


def manager(primary: str) -> str:
    """NetworkManager's counterpart (NetworkManager.conf(5)); without ``primary`` for pods' links alone."""
    others = f";driver:ena,except:interface-name:{primary};driver:ixgbevf,except:interface-name:{primary}"
    return _HEAD + f"[keyfile]\nunmanaged-devices=interface-name:eni*{others if primary else ''}\n"
