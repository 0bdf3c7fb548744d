"""node.toml."""

from __future__ import annotations

from pathlib import Path

import pytest
from berth_node.config import ConfigError, load, parse

NEEDED = 'table = "nodes"\nreports_queue_url = "https://queue"\n'


def test_two_settings_suffice() -> None:
    config = parse(NEEDED)
    assert (config.table, config.reports_queue_url, config.region) == ("nodes", "https://queue", None)
    assert config.run_dir == Path("/run/berth")


def test_given_settings_win_and_whole_seconds_are_seconds() -> None:
    config = parse(NEEDED + 'region = "eu-west-1"\nadd_wait_seconds = 20\nstate_dir = "/srv/berth"\nsnat = false\n')
    assert (config.region, config.add_wait_seconds, config.snat) == ("eu-west-1", 20.0, False)
    assert config.state_dir == Path("/srv/berth")


def test_a_no_snat_list_is_kept_in_order_and_the_mtu_is_the_primarys_unless_given() -> None:
    config = parse(NEEDED + 'no_snat_cidrs = ["192.168.0.0/16", "10.0.0.1"]\n')
    assert (config.no_snat_cidrs, config.mtu) == (("192.168.0.0/16", "10.0.0.1"), 0)
    assert parse(NEEDED + "mtu = 1500").mtu == 1500


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('reports_queue_url = "x"', "table: is missing"),
        (NEEDED + "mtu = true", "mtu: expected a value of type int, got True"),
        (NEEDED + 'mtu = "9001"', "mtu: expected a value of type int"),
        (NEEDED + "mtu = 575", "mtu: expected 0 (the primary interface's) or 576 to 65535, got 575"),
        (NEEDED + "mtu = 65536", "mtu: expected 0 (the primary interface's) or 576 to 65535"),
        (NEEDED + "add_wait_seconds = 0", "add_wait_seconds: expected more than 0"),
        (NEEDED + 'no_snat_cidrs = "10.0.0.0/8"', "no_snat_cidrs: expected a list of texts"),
        (NEEDED + "no_snat_cidrs = [10]", "no_snat_cidrs: expected a list of texts"),
        (NEEDED + 'no_snat_cidrs = ["10.0.0.0/33"]', "no_snat_cidrs: expected IPv4 CIDRs such as 10.0.0.0/8, got"),
        (NEEDED + 'no_snat_cidrs = ["10.1.2.3/16"]', "got '10.1.2.3/16'; write 10.1.0.0/16"),
        (NEEDED + 'no_snat_cidrs = ["fd00::/8"]', "no_snat_cidrs: expected IPv4 CIDRs"),
        (NEEDED + 'cri_socket = "containerd.sock"', "cri_socket: expected an absolute path"),
        (NEEDED + "collect_interval_seconds = 0", "collect_interval_seconds: expected more than 0"),
        (NEEDED + "surrender_hold_seconds = -1", "surrender_hold_seconds: expected 0 or more"),
        (NEEDED + 'run_dir = "run"', "run_dir: expected an absolute path"),
        (NEEDED + 'log_level = "loud"', "log_level: expected one of debug, info"),
        (NEEDED + 'cni_version = "2.0"', "cni_version: expected one of 0.3.1"),
        (NEEDED + 'log_format = "xml"', "log_format: expected one of auto, json, journal"),
        (NEEDED + 'metrics_listen = "61678"', 'metrics_listen: expected "ADDRESS:PORT"'),
        (NEEDED + "colour = 1", "colour: no such setting; there are: add_wait_seconds"),
        ("table = ", "is not TOML"),
    ],
)
def test_a_bad_setting_is_named_with_what_to_write(text: str, told: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(text, "/etc/berth/node.toml")
    assert str(error.value).startswith("/etc/berth/node.toml: ")
    assert told in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read"):
        load(tmp_path / "none.toml")
