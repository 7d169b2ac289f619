"""Hands the alternatives of the ISPs around us on to our hosts and to other gateways.

Decides: whom we speak to about them: gateways that we have an agreement with, and hosts. What may be believed is
decided by `billpay.introductions`. Refuses to know: packets. Of two gateways the one that calls gives what it knows and
gets what the other one knows, once each statement interval.
"""

from __future__ import annotations

import asyncio
import logging
import time

from billpay.errors import RemoteProtocolError
from billpay.introductions import Introductions
from billpay.messages import IntroducedOad, IntroducedOads
from gateway.control import Published
from gateway.neighbours import Neighbour, Neighbours
from neighbour.control import ControlClient, Unreachable
from neighbour.identity import NodeIdentity

LOG = logging.getLogger("gateway")


class Relay:
    """What this gateway knows of others, and tells."""

    def __init__(self, *, own_as: int, identity: NodeIdentity, neighbours: Neighbours, published: Published) -> None:
        self._identity = identity
        self._published = published
        self._introductions = Introductions(
            own_as=own_as,
            neighbours={
                each.section.peer_as: each.certificate.public_key
                for each in neighbours.by_link.values()
                if each.section.peer == "gateway"
            },
        )

    def told(self, listener: Neighbour) -> IntroducedOads:
        """What a neighbour may know: a host of others than us, a gateway of us too."""
        now_unix_s = int(time.time())
        if listener.section.peer == "host":
            return IntroducedOads(documents=self._introductions.tell(0, (), now_unix_s=now_unix_s))
        public_key = self._identity.key.public_key
        own = [IntroducedOad(signed=signed, public_key=public_key, hops=0) for signed in self._published.oads]
        documents = self._introductions.tell(listener.section.peer_as, own, now_unix_s=now_unix_s)
        return IntroducedOads(documents=documents)

    def hear(self, teller: Neighbour, introduced: IntroducedOads) -> None:
        """Whatever cannot be what it says is left out and counted."""
        before = self._introductions.refused
        self._introductions.hear(teller.section.peer_as, introduced.documents, now_unix_s=int(time.time()))
        refused = self._introductions.refused - before
        if refused:
            LOG.warning("link %s: %d descriptions of other ISPs were refused", teller.name, refused)

    def exchange(self, teller: Neighbour, introduced: IntroducedOads) -> IntroducedOads:
        """The answer to a gateway that calls."""
        if teller.section.peer != "gateway":
            raise RemoteProtocolError("wrong-role", "only gateways introduce others")
        if not teller.takes_headers:
            raise RemoteProtocolError("no-agreement", "ask for an agreement first")
        self.hear(teller, introduced)
        return self.told(teller)

    async def keep_introducing(self, neighbour: Neighbour, client: ControlClient, interval_s: int) -> None:
        """For ever, to a gateway that we call; one that knows nothing of this is asked again and again."""
        trouble = ""
        while True:
            await asyncio.sleep(interval_s)
            if not neighbour.takes_headers:
                continue
            try:
                self.hear(neighbour, await client.introduce_oads(self.told(neighbour)))
                trouble = ""
            except (Unreachable, RemoteProtocolError) as error:
                if str(error) != trouble:
                    LOG.info("alternatives beyond %s: %s", neighbour.name, error)
                trouble = str(error)
