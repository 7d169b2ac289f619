"""What DHCP clients wrote down, read as a lease."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostagent.networks.leases import NO_LEASE, Lease, gateway_of, octets_of, read_dhclient, read_lease, read_networkd

OURS = frozenset({"192.0.2.7"})
NETWORKD = """# This is private data. Do not parse.
ADDRESS=192.0.2.7
NETMASK=255.255.255.0
ROUTER=192.0.2.1
DNS=192.0.2.1 192.0.2.2
DOMAINNAME=Campus.Example.
VENDOR_SPECIFIC=414e44524f49445f4d455445524544
OPTION_224=62696c6c706179203139322e302e322e393a37343134
"""
DHCLIENT = """lease {
  interface "eth0";
  fixed-address 192.0.2.7;
  option domain-name "old.example";
}
lease {
  interface "eth0";
  fixed-address 192.0.2.7;
  option domain-name-servers 192.0.2.1,192.0.2.2;
  option domain-name "campus.example";
  option vendor-encapsulated-options 41:4e:44:52:4f:49:44:5f:4d:45:54:45:52:45:44;
  option unknown-224 "billpay 192.0.2.9";
  renew 2 2026/01/06 10:00:00;
}
lease {
  interface "wlan0";
  fixed-address 10.0.0.4;
  option domain-name "other.example";
}
"""
SAID = {
    "domains": ("campus.example",),
    "name_servers": ("192.0.2.1", "192.0.2.2"),
    "is_android_metered": True,
    "gateway": ("192.0.2.9", 7414),
}


def test_networkd_and_dhclient_say_the_same() -> None:
    assert read_networkd(NETWORKD, "", OURS) == Lease(source="systemd-networkd", **SAID)  # type: ignore[arg-type]
    assert read_dhclient(DHCLIENT, "eth0", OURS) == Lease(source="dhclient", **SAID)  # type: ignore[arg-type]


def test_the_lease_of_a_network_that_was_left_says_nothing() -> None:
    elsewhere = frozenset({"10.9.9.9"})
    assert read_networkd(NETWORKD, "", elsewhere) == NO_LEASE
    assert read_dhclient(DHCLIENT, "eth0", elsewhere) == NO_LEASE
    assert read_dhclient(DHCLIENT, "eth1", OURS) == NO_LEASE


def test_what_a_router_advertised_is_in_the_links_file() -> None:
    link = "ADMIN_STATE=configured\nDNS=fe80::1%2#resolver 2001:db8::53\nDOMAINS=campus.example ~. bad..name\n"
    lease = read_networkd("", link, OURS)
    assert lease.domains == ("campus.example",)
    assert lease.name_servers == ("fe80::1%2", "2001:db8::53")


def test_files_are_found_in_their_places(tmp_path: Path) -> None:
    assert read_lease(interface="eth0", index=4, addresses=OURS, root=tmp_path) == NO_LEASE
    (tmp_path / "var/lib/dhcp").mkdir(parents=True)
    (tmp_path / "var/lib/dhcp/dhclient.eth0.leases").write_text(DHCLIENT)
    assert read_lease(interface="eth0", index=4, addresses=OURS, root=tmp_path).source == "dhclient"
    (tmp_path / "run/systemd/netif/leases").mkdir(parents=True)
    (tmp_path / "run/systemd/netif/leases/4").write_text(NETWORKD)
    assert read_lease(interface="eth0", index=4, addresses=OURS, root=tmp_path).source == "systemd-networkd"
    assert read_lease(interface="eth0", index=5, addresses=OURS, root=tmp_path).source == "dhclient"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"billpay 192.0.2.9", ("192.0.2.9", 7414)),
        (b"billpay 192.0.2.9:900\0", ("192.0.2.9", 900)),
        (b"billpay fe80::9", ("fe80::9", 7414)),
        (b"billpay [fd00::9]:900", ("fd00::9", 900)),
        (b"billpay 192.0.2.9:70000", None),
        (b"billpay gateway.example", None),
        (b"somebody else's option", None),
        (b"", None),
        (b"\xff\xfe", None),
    ],
)
def test_the_text_of_the_private_option(text: bytes, expected: tuple[str, int] | None) -> None:
    assert gateway_of(text) == expected


def test_an_option_in_octets_or_in_quotes() -> None:
    assert octets_of("62:69:6c") == b"bil"
    assert octets_of('"bil"') == b"bil"
    assert octets_of("") == b""


@given(st.text(max_size=300), st.text(max_size=300))
def test_no_file_breaks_the_reading(first: str, second: str) -> None:
    read_networkd("ADDRESS=192.0.2.7\nDNS=" + first, second, OURS)
    read_dhclient('lease {\n interface "eth0";\n fixed-address 192.0.2.7;\n ' + first + "\n}\n", "eth0", OURS)
    gateway_of(first.encode())
