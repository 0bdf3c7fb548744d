"""Every CNI command through the real plugin to a running agent."""

from __future__ import annotations

from tests.netns.agent.conftest import PREFIX, Site


def test_add_gives_an_address_of_the_node_and_del_takes_it_back(site: Site) -> None:
    site.serve(PREFIX)
    site.start()
    site.ready()
    answer = site.call("ADD", "pod-a", CNI_ARGS="IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web")
    assert answer.code == 0, answer.text
    body = answer.body
    assert body["cniVersion"] == "1.1.0"
    assert body["ips"] == [{"address": "10.0.1.16/32", "gateway": "169.254.1.1", "interface": 1}]
    assert body["routes"] == [{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}]
    assert body["interfaces"][1]["sandbox"] == "/run/netns/pod-a"
    assert [p["name"] for p in site.ask("pods")["pods"]] == ["web"]
    assert site.call("DEL", "pod-a").code == 0
    assert site.ask("pods")["pods"] == []
    assert site.ask("status")["cooling"] == 1
