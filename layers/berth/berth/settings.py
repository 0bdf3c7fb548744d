"""The functions' settings, from the environment that the template gives them."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field

from berth.buckets import Buckets, parse_buckets
from berth.contract import IP_FAMILIES, MODES, Policy
from berth.model import PodGroups
from berth.pod_group_rules import parse_pod_groups

__all__ = ["Settings"]


@dataclass(frozen=True, slots=True)
class Settings:
    """``arn_prefix`` is ``arn:PARTITION:ec2:REGION:ACCOUNT:instance/``; times are seconds.

    ``brake_parameter`` names the SSM parameter of the kill switch, ``budget_table`` the table of the token budget;
    either may be missing (""). So may the lease ledger's; ``ledger_days`` is how long it keeps things.
    ``no_snat_cidrs`` are added to the destinations that route tables tell of, ``snat_cidrs`` are taken out.
    """

    clusters: tuple[str, ...]
    table: str
    events_queue_url: str
    reports_queue_arn: str
    bus: str
    arn_prefix: str
    defaults: Policy
    no_snat_cidrs: tuple[str, ...] = ()
    snat_cidrs: tuple[str, ...] = ()
    default_subnets: str = ""
    delay: float = 15.0
    subnet_low_percent: int = 10
    launch_hook: str = ""
    brake_parameter: str = ""
    budget_table: str = ""
    buckets: Buckets = field(default_factory=Buckets)
    standby_pools: tuple[str, ...] = ()
    ledger_table: str = ""
    ledger_days: int = 0
    flat_cidrs: tuple[str, ...] = ()
    pod_groups: PodGroups = field(default_factory=PodGroups)
    public_pools: tuple[str, ...] = ()
    """Which values of the tag ``berth:public-pool`` the stack may use, with ``*`` and ``?``."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Settings:
        """Read the environment. Raises KeyError or ValueError, which name the variable."""
        mode = next((m for m in MODES if m == environ["DEFAULT_MODE"]), None)
        if mode is None:
            raise ValueError(f"DEFAULT_MODE: expected {' or '.join(MODES)}, got {environ['DEFAULT_MODE']!r}")
        wanted = environ.get("DEFAULT_IP_FAMILIES", "ipv4")
        families = next((f for f in IP_FAMILIES if f == wanted), None)
        if families is None:
            raise ValueError(f"DEFAULT_IP_FAMILIES: expected one of {', '.join(IP_FAMILIES)}, got {wanted!r}")
        return cls(
            clusters=_names(environ["CLUSTER_NAMES"]),
            table=environ["TABLE_NAME"],
            events_queue_url=environ["NODE_EVENTS_QUEUE_URL"],
            reports_queue_arn=environ["NODE_REPORTS_QUEUE_ARN"],
            bus=environ["BUS_NAME"],
            arn_prefix=environ["INSTANCE_ARN_PREFIX"],
            defaults=Policy(
                mode=mode,
                warm_addresses=int(environ["DEFAULT_WARM_ADDRESSES"]),
                minimum_addresses=int(environ["DEFAULT_MINIMUM_ADDRESSES"]),
                max_pods=int(environ["DEFAULT_MAX_PODS"]),
                cooldown_seconds=int(environ["DEFAULT_COOLDOWN_SECONDS"]),
                ip_families=families,
                spare_primary=environ.get("DEFAULT_PRIMARY_SERVES_PODS", "true") == "false",
            ),
            no_snat_cidrs=_networks(environ, "NO_SNAT_CIDRS"),
            snat_cidrs=_networks(environ, "SNAT_CIDRS"),
            default_subnets=environ.get("DEFAULT_SUBNETS", ""),
            delay=float(environ.get("RECONCILE_DELAY_SECONDS", "15")),
            subnet_low_percent=int(environ.get("SUBNET_LOW_PERCENT", "10")),
            brake_parameter=environ.get("BRAKE_PARAMETER", ""),
            budget_table=environ.get("BUDGET_TABLE_NAME", ""),
            buckets=_buckets(environ),
            launch_hook=environ.get("LAUNCH_HOOK_NAME", ""),
            standby_pools=_names(environ.get("STANDBY_POOLS", "")),
            ledger_table=environ.get("LEDGER_TABLE_NAME", ""),
            ledger_days=int(environ.get("LEDGER_RETENTION_DAYS", "0")),
            flat_cidrs=_names(environ.get("FLAT_CHECK_CIDRS", "")),
            pod_groups=parse_pod_groups(environ),
            public_pools=_names(environ.get("PUBLIC_POOLS", "")),
        )

    @property
    def budget_scope(self) -> str:
        """The account and region whose EC2 calls are counted together: a partition key of the budget's table."""
        _, _, _, region, account, _ = self.arn_prefix.split(":", 5)
        return f"budget#{account}#{region}"

    def arn(self, instance_id: str) -> str:
        """The instance's ARN, as IAM's ``ec2:SourceInstanceARN`` gives it."""
        return self.arn_prefix + instance_id


def _buckets(environ: Mapping[str, str]) -> Buckets:
    try:
        own = parse_buckets(environ.get("BUDGET_BUCKETS", ""))
    except ValueError as error:
        raise ValueError(f"BUDGET_BUCKETS: {error}") from None
    return Buckets(own, percent=int(environ.get("BUDGET_PERCENT", "100")))


def _names(text: str) -> tuple[str, ...]:
    return tuple(sorted({name.strip() for name in text.split(",") if name.strip()}))


def _networks(environ: Mapping[str, str], variable: str) -> tuple[str, ...]:
    """IPv4 networks, however they are written: 10.1.2.3/8 is 10.0.0.0/8."""
    try:
        return tuple(str(ipaddress.IPv4Network(name, strict=False)) for name in _names(environ.get(variable, "")))
    except ValueError as error:
        raise ValueError(f"{variable}: expected IPv4 CIDRs such as 10.0.0.0/8: {error}") from None
