"""What is read of interfaces."""

from __future__ import annotations

import pytest
from netns import Namespace, connect

from billpay.errors import EnvironmentFault
from dataplane.links import read_limit, read_link, read_links


@pytest.mark.netns
def test_an_interface_is_read_and_a_missing_one_is_one_line() -> None:
    with Namespace() as one, Namespace() as other:
        connect(one, "left", other, "right")
        one.run("ip", "addr", "add", "10.8.0.1/24", "dev", "left")
        one.run("ip", "link", "set", "left", "mtu", "1400")
        link = one.call(lambda: read_link("left"))
        assert (link.name, link.mtu, link.is_up, link.addresses[0]) == ("left", 1400, True, "10.8.0.1")
        assert [each.name for each in one.call(read_links)] == ["lo", "left"]
        with pytest.raises(EnvironmentFault) as caught:
            one.call(lambda: read_link("right"))
        assert str(caught.value) == "use interface right: there is no such interface (there are: left, lo)"


@pytest.mark.netns
def test_a_limit_that_somebody_has_set_is_read() -> None:
    with Namespace() as one, Namespace() as other:
        connect(one, "left", other, "right")
        assert one.call(lambda: read_limit("left")) is None
        one.run("tc", "qdisc", "add", "dev", "left", "root", "tbf", "rate", "20mbit", "burst", "10k", "limit", "100k")
        assert one.call(lambda: read_limit("left")) == 20_000_000
        one.run("tc", "qdisc", "replace", "dev", "left", "root", "pfifo")
        assert one.call(lambda: read_limit("left")) is None
        assert one.call(lambda: read_limit("nosuch0")) is None
