"""ACLs, security groups, VPCs and peerings of the simulated EC2, as the fabric and the flat-network check get them."""

from __future__ import annotations

from typing import Any

from berth.flat.snapshot import ANY, AclEntry
from berth.flat_survey import take_snapshot

from tests.sandbox.cloud.snapshot import snapshot, subscribe
from tests.sandbox.world import AclRule, GroupRule, Peering, Route

from .conftest import Network


def acl_of(ec2: Any, subnet: str) -> str:
    found = ec2.describe_network_acls(Filters=[{"Name": "association.subnet-id", "Values": [subnet]}])
    return str(found["NetworkAcls"][0]["NetworkAclId"])


def test_a_subnet_has_its_acl_with_ports_and_icmp_types(network: Network, ec2: Any) -> None:
    subnet = network.subnet("10.0.1.0/24")
    acl = acl_of(ec2, subnet)
    asked = {"NetworkAclId": acl, "RuleAction": "deny", "Egress": False, "CidrBlock": "10.0.0.0/8"}
    ec2.create_network_acl_entry(**asked, RuleNumber=50, Protocol="6", PortRange={"From": 80, "To": 443})
    ec2.create_network_acl_entry(**asked, RuleNumber=60, Protocol="1", IcmpTypeCode={"Type": 8, "Code": -1})
    world = snapshot()
    assert world.subnet(subnet).acl == acl
    (shown,) = [a for a in world.acls if a.id == acl]
    assert AclRule(50, False, False, "tcp", "10.0.0.0/8", (80, 443)) in shown.rules
    assert AclRule(60, False, False, "icmp", "10.0.0.0/8", None, (8, -1)) in shown.rules
    assert AclRule(100, True, True, "any", "0.0.0.0/0") in shown.rules


def test_the_check_reads_the_same_acl_from_describe_calls(network: Network, ec2: Any) -> None:
    subnet = network.subnet("10.0.1.0/24")
    acl = acl_of(ec2, subnet)
    ec2.create_network_acl_entry(
        NetworkAclId=acl, RuleNumber=50, Protocol="17", RuleAction="deny", Egress=True, CidrBlock="10.0.0.0/8",
        PortRange={"From": 53, "To": 53},
    )  # fmt: skip
    taken = take_snapshot(ec2, ["demo"], [], "now")
    (shown,) = [a for a in taken.acls if a.id == acl]
    assert subnet in shown.subnets
    assert AclEntry(50, True, False, "udp", "10.0.0.0/8", (53, 53)) in shown.entries
    assert AclEntry(100, False, True, ANY, "0.0.0.0/0") in shown.entries


def test_groups_have_a_rule_for_each_cidr_group_and_entry_of_a_prefix_list(network: Network, ec2: Any) -> None:
    group = ec2.create_security_group(VpcId=network.vpc, GroupName="pods", Description="pods")["GroupId"]
    listed = ec2.create_managed_prefix_list(
        PrefixListName="office", AddressFamily="IPv4", MaxEntries=2, Entries=[{"Cidr": "192.168.50.0/24"}]
    )["PrefixList"]["PrefixListId"]
    rule = {"IpProtocol": "tcp", "FromPort": 80, "ToPort": 90, "IpRanges": [{"CidrIp": "10.0.0.0/8"}],
            "UserIdGroupPairs": [{"GroupId": group}], "PrefixListIds": [{"PrefixListId": listed}]}  # fmt: skip
    ping = {"IpProtocol": "icmp", "FromPort": 8, "ToPort": -1, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}
    seen: list[int] = []
    end = subscribe(lambda: seen.append(1))
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[rule, ping])
    end()
    assert seen, "a change of rules is told at once"
    (shown,) = [g for g in snapshot().groups if g.id == group]
    assert {r for r in shown.rules if not r.egress} == {
        GroupRule(False, "tcp", "10.0.0.0/8", (80, 90)),
        GroupRule(False, "tcp", group, (80, 90)),
        GroupRule(False, "tcp", "192.168.50.0/24", (80, 90)),
        GroupRule(False, "icmp", "0.0.0.0/0", None, (8, -1)),
    }
    assert [r for r in shown.rules if r.egress] == [GroupRule(True, "any", "0.0.0.0/0")]


def test_a_peering_counts_once_it_is_accepted_and_a_vpn_gateway_once_it_is_attached(network: Network, ec2: Any) -> None:
    subnet = network.subnet("10.0.1.0/24")
    other = ec2.create_vpc(CidrBlock="10.7.0.0/16")["Vpc"]["VpcId"]
    asked = ec2.create_vpc_peering_connection(VpcId=network.vpc, PeerVpcId=other)["VpcPeeringConnection"]
    peering = asked["VpcPeeringConnectionId"]
    assert peering not in {p.id for p in snapshot().peerings}
    ec2.accept_vpc_peering_connection(VpcPeeringConnectionId=peering)
    table = ec2.create_route_table(VpcId=network.vpc)["RouteTable"]["RouteTableId"]
    ec2.create_route(RouteTableId=table, DestinationCidrBlock="10.7.0.0/16", VpcPeeringConnectionId=peering)
    ec2.associate_route_table(RouteTableId=table, SubnetId=subnet)
    vgw = ec2.create_vpn_gateway(Type="ipsec.1")["VpnGateway"]["VpnGatewayId"]
    ec2.attach_vpn_gateway(VpcId=other, VpnGatewayId=vgw)
    world = snapshot()
    assert Peering(peering, (network.vpc, other)) in world.peerings
    assert Route("10.7.0.0/16", peering) in world.subnet(subnet).routes
    vpcs = {v.id: v for v in world.vpcs}
    assert (vpcs[network.vpc].vpn, vpcs[other].vpn) == (False, True)
    assert vpcs[other].cidrs == ("10.7.0.0/16",)
