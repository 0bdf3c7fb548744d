"""The VPC that the demo and the end-to-end tests use, made by ordinary API calls.

Two zones, one private subnet each; a public subnet with a NAT gateway; a VPN to on-premises. Nothing in here is known
to Berth except by the tags that a user would set: ``berth:allowed`` on the subnets and the security group.
"""

from __future__ import annotations

import ipaddress
import json
from dataclasses import dataclass
from typing import Any, Final

import boto3
from botocore.config import Config

__all__ = [
    "ADMIN_KEY",
    "CLUSTER",
    "REGION",
    "Landscape",
    "NodeSpec",
    "PrivateRoutes",
    "add_ipv6",
    "add_pod_subnets",
    "allowed_group",
    "attach_node_policy",
    "build_landscape",
    "client",
    "launch_node",
    "pod_routes",
    "private_routes",
]

REGION: Final = "eu-west-1"
CLUSTER: Final = "demo"
ADMIN_KEY: Final = "berth-admin"
VPC_CIDR: Final = "10.0.0.0/16"
ON_PREMISES_CIDR: Final = "192.168.50.0/24"
PARTNER_CIDR: Final = "172.30.9.0/24"
"""Reached by the same VPN, but excluded by a parameter of the stack: a client there is outside the no-SNAT list."""
API_CIDR: Final = "198.51.100.0/24"
"""Where nodes reach the API, and the internet's server is: by NAT, also when the default route leads to the VPN."""
PODS_CIDR: Final = "100.64.0.0/16"
POD_SUBNETS: Final = {"a": "100.64.1.0/24", "b": "100.64.2.0/24"}


@dataclass(frozen=True, slots=True)
class Landscape:
    """Ids of what was made. ``subnets`` maps a zone's letter to its private subnet."""

    vpc: str
    public_subnet: str
    subnets: dict[str, str]
    security_group: str
    profile: str
    image: str


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """One node to launch. ``tags`` are ``berth:`` policy tags, without the prefix; ``ipv6_addresses`` is how many
    IPv6 addresses its primary interface gets at launch."""

    name: str
    subnet: str
    type: str
    tags: dict[str, str]
    ipv6_addresses: int = 0


def client(service: str, endpoint: str) -> Any:
    """A boto3 client of the driver (an administrator, not one of Berth's parts)."""
    return boto3.client(
        service,  # type: ignore[call-overload]
        region_name=REGION,
        endpoint_url=endpoint,
        aws_access_key_id=ADMIN_KEY,
        aws_secret_access_key=ADMIN_KEY,
        config=Config(retries={"mode": "standard", "max_attempts": 2}, read_timeout=60),
    )


def _tags(kind: str, **tags: str) -> list[dict[str, Any]]:
    named = [{"Key": k.replace("__", ":"), "Value": v} for k, v in tags.items()]
    return [{"ResourceType": kind, "Tags": named}]


def build_landscape(endpoint: str) -> Landscape:
    """Make the VPC and the node role's instance profile (without Berth's policy: the stack brings that)."""
    ec2 = client("ec2", endpoint)
    vpc = ec2.create_vpc(CidrBlock=VPC_CIDR)["Vpc"]["VpcId"]

    def subnet(zone: str, cidr: str, **tags: str) -> str:
        made = ec2.create_subnet(
            VpcId=vpc, CidrBlock=cidr, AvailabilityZone=REGION + zone, TagSpecifications=_tags("subnet", **tags)
        )
        return str(made["Subnet"]["SubnetId"])

    public = subnet("a", "10.0.0.0/24", Name="public-a")
    private = {
        "a": subnet("a", "10.0.1.0/24", Name="private-a", berth__allowed="true"),
        "b": subnet("b", "10.0.2.0/24", Name="private-b", berth__allowed="true"),
    }
    _public_routes(ec2, vpc, public)
    _private_routes(ec2, vpc, public, list(private.values()))
    group = ec2.create_security_group(
        VpcId=vpc,
        GroupName="nodes",
        Description="nodes and their pods",
        TagSpecifications=_tags("security-group", berth__allowed="true"),
    )["GroupId"]
    anywhere = {"IpRanges": [{"CidrIp": "0.0.0.0/0"}], "Ipv6Ranges": [{"CidrIpv6": "::/0"}]}
    everything = [{"IpProtocol": "-1", **anywhere}]
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=everything)
    images = ec2.describe_images(Owners=["amazon"])["Images"]
    image = next(i["ImageId"] for i in images if i.get("Platform") != "windows")
    return Landscape(vpc, public, private, group, _instance_profile(endpoint), image)


def _public_routes(ec2: Any, vpc: str, public: str) -> None:
    gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
    table = ec2.create_route_table(VpcId=vpc)["RouteTable"]["RouteTableId"]
    ec2.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", GatewayId=gateway)
    ec2.associate_route_table(RouteTableId=table, SubnetId=public)


def _private_routes(ec2: Any, vpc: str, public: str, subnets: list[str]) -> None:
    address = ec2.allocate_address(Domain="vpc")["AllocationId"]
    nat = ec2.create_nat_gateway(SubnetId=public, AllocationId=address)["NatGateway"]["NatGatewayId"]
    vpn = ec2.create_vpn_gateway(Type="ipsec.1")["VpnGateway"]["VpnGatewayId"]
    ec2.attach_vpn_gateway(VpcId=vpc, VpnGatewayId=vpn)
    table = ec2.create_route_table(VpcId=vpc)["RouteTable"]["RouteTableId"]
    ec2.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", NatGatewayId=nat)
    for cidr in (ON_PREMISES_CIDR, PARTNER_CIDR):
        ec2.create_route(RouteTableId=table, DestinationCidrBlock=cidr, GatewayId=vpn)
    for subnet in subnets:
        ec2.associate_route_table(RouteTableId=table, SubnetId=subnet)


def add_ipv6(endpoint: str, landscape: Landscape) -> dict[str, str]:
    """IPv6 as a user adds it to a VPC that is there: a block for the VPC and one for each private subnet, and an
    egress-only internet gateway. Returns each zone's block."""
    ec2 = client("ec2", endpoint)
    made = ec2.associate_vpc_cidr_block(VpcId=landscape.vpc, AmazonProvidedIpv6CidrBlock=True)
    blocks = ipaddress.IPv6Network(made["Ipv6CidrBlockAssociation"]["Ipv6CidrBlock"]).subnets(new_prefix=64)
    given = {zone: str(block) for zone, block in zip(landscape.subnets, blocks, strict=False)}
    for zone, subnet in landscape.subnets.items():
        ec2.associate_subnet_cidr_block(SubnetId=subnet, Ipv6CidrBlock=given[zone])
    gateway = ec2.create_egress_only_internet_gateway(VpcId=landscape.vpc)["EgressOnlyInternetGateway"]
    of_subnets = {"Name": "association.subnet-id", "Values": list(landscape.subnets.values())}
    for table in ec2.describe_route_tables(Filters=[of_subnets])["RouteTables"]:
        ec2.create_route(
            RouteTableId=table["RouteTableId"],
            DestinationIpv6CidrBlock="::/0",
            EgressOnlyInternetGatewayId=gateway["EgressOnlyInternetGatewayId"],
        )
    return given


def add_pod_subnets(endpoint: str, landscape: Landscape) -> str:
    """As a user adds them to a VPC that is there: a secondary CIDR, a subnet in each zone, a route table, a NAT gateway
    for them. Returns the gateway's public address."""
    ec2 = client("ec2", endpoint)
    ec2.associate_vpc_cidr_block(VpcId=landscape.vpc, CidrBlock=PODS_CIDR)
    address = ec2.allocate_address(Domain="vpc")
    nat = ec2.create_nat_gateway(SubnetId=landscape.public_subnet, AllocationId=address["AllocationId"])["NatGateway"]
    table = ec2.create_route_table(VpcId=landscape.vpc)["RouteTable"]["RouteTableId"]
    ec2.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", NatGatewayId=nat["NatGatewayId"])
    (vpn,) = ec2.describe_vpn_gateways()["VpnGateways"]
    ec2.create_route(RouteTableId=table, DestinationCidrBlock=ON_PREMISES_CIDR, GatewayId=vpn["VpnGatewayId"])
    for zone, cidr in POD_SUBNETS.items():
        made = ec2.create_subnet(
            VpcId=landscape.vpc,
            CidrBlock=cidr,
            AvailabilityZone=REGION + zone,
            TagSpecifications=_tags("subnet", Name=f"pods-{zone}", berth__allowed="", pods="yes"),
        )
        ec2.associate_route_table(RouteTableId=table, SubnetId=made["Subnet"]["SubnetId"])
    return str(address["PublicIp"])


def allowed_group(ec2: Any, vpc: str, name: str, *ports: int) -> str:
    """A security group that Berth may use, and that lets in TCP to some ports alone. Returns its id."""
    tagged = _tags("security-group", berth__allowed="true")
    made = ec2.create_security_group(GroupName=name, Description=name, VpcId=vpc, TagSpecifications=tagged)
    rules = [{"IpProtocol": "tcp", "FromPort": p, "ToPort": p, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]} for p in ports]
    ec2.authorize_security_group_ingress(GroupId=made["GroupId"], IpPermissions=rules)
    return str(made["GroupId"])


@dataclass(frozen=True, slots=True)
class PrivateRoutes:
    """The route table of private subnets, and where it leads: the VPN's gateway, and a NAT gateway."""

    table: str
    vpn: str
    nat: str

    def default_by_vpn(self, ec2: Any) -> None:
        """All but the API goes to the VPN, so that on-premises stays within reach without a route of its own."""
        ec2.create_route(RouteTableId=self.table, DestinationCidrBlock=API_CIDR, NatGatewayId=self.nat)
        ec2.replace_route(RouteTableId=self.table, DestinationCidrBlock="0.0.0.0/0", GatewayId=self.vpn)

    def default_by_nat(self, ec2: Any) -> None:
        """As it was."""
        ec2.replace_route(RouteTableId=self.table, DestinationCidrBlock="0.0.0.0/0", NatGatewayId=self.nat)
        ec2.delete_route(RouteTableId=self.table, DestinationCidrBlock=API_CIDR)


def private_routes(ec2: Any, landscape: Landscape) -> PrivateRoutes:
    """Of the nodes' private subnets."""
    return _routes_of(ec2, landscape.subnets["a"])


def pod_routes(ec2: Any) -> PrivateRoutes:
    """Of the subnets that :func:`add_pod_subnets` made."""
    tagged = [{"Name": "tag:pods", "Values": ["yes"]}]
    return _routes_of(ec2, ec2.describe_subnets(Filters=tagged)["Subnets"][0]["SubnetId"])


def _routes_of(ec2: Any, subnet: str) -> PrivateRoutes:
    of_subnet = [{"Name": "association.subnet-id", "Values": [subnet]}]
    (table,) = ec2.describe_route_tables(Filters=of_subnet)["RouteTables"]
    vpn = next(r["GatewayId"] for r in table["Routes"] if r.get("GatewayId", "").startswith("vgw-"))
    nat = next(r["NatGatewayId"] for r in table["Routes"] if r.get("NatGatewayId"))
    return PrivateRoutes(str(table["RouteTableId"]), str(vpn), str(nat))


def _instance_profile(endpoint: str) -> str:
    iam = client("iam", endpoint)
    trust = {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"},
        ],
    }
    iam.create_role(RoleName="demo-node", AssumeRolePolicyDocument=json.dumps(trust))
    iam.create_instance_profile(InstanceProfileName="demo-node")
    iam.add_role_to_instance_profile(InstanceProfileName="demo-node", RoleName="demo-node")
    return "demo-node"


def attach_node_policy(endpoint: str, policy_arn: str) -> None:
    """What a user does after ``sam deploy``: the stack's managed policy on the role of the nodes."""
    client("iam", endpoint).attach_role_policy(RoleName="demo-node", PolicyArn=policy_arn)


def launch_node(endpoint: str, landscape: Landscape, spec: NodeSpec, cluster: str = CLUSTER) -> str:
    """RunInstances for one node, tagged as a node group or Karpenter would. Returns the instance id."""
    tags = {f"kubernetes.io/cluster/{cluster}": "owned", "Name": spec.name}
    tags |= {f"berth:{name}": value for name, value in spec.tags.items()}
    ipv6 = {"Ipv6AddressCount": spec.ipv6_addresses} if spec.ipv6_addresses else {}
    launched = client("ec2", endpoint).run_instances(
        ImageId=landscape.image,
        InstanceType=spec.type,
        MinCount=1,
        MaxCount=1,
        SubnetId=landscape.subnets[spec.subnet],
        SecurityGroupIds=[landscape.security_group],
        IamInstanceProfile={"Name": landscape.profile},
        **ipv6,
        TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": k, "Value": v} for k, v in tags.items()]}],
    )
    return str(launched["Instances"][0]["InstanceId"])
