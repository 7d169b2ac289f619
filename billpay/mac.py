"""The packet MAC: who may take this payment from this grant. Computes and checks; knows no grants and no clock.

First 48 bits of SipHash-2-4 (Aumasson and Bernstein 2012; output in the reference's byte order) under the grant's
128-bit key over source, destination, protocol, 0, ports, epoch, the base word with Pathlen 0, and the slots as sent.
A replay within an epoch is not stopped here: the grant's caps bound it.
"""

from __future__ import annotations

import struct
from hmac import compare_digest

from siphash24 import siphash24  # type: ignore[import-not-found]  # a C extension without stubs

from billpay.errors import RemoteProtocolError
from billpay.packet import FlowKey

EPOCH_SECONDS = 60
KEY_BYTES = 16
MAC_BYTES = 6

_IPV4 = struct.Struct(">4s4sBxHHI")
_IPV6 = struct.Struct(">16s16sBxHHI")
_EPOCH_MASK = 0xFFFFFFFF
_OAD_COUNT_MASK = 0x0F  # of the base word's last byte; the upper half is Pathlen


def epoch_of(unix_s: int) -> int:
    """The number of the minute since 1970 in which a packet is sent."""
    return unix_s // EPOCH_SECONDS


def mac_input(flow: FlowKey, *, epoch: int, header_words: bytes) -> bytes:
    """The bytes that are authenticated. ``header_words``: base word and slots; its Pathlen is taken as 0."""
    if header_words[3] & ~_OAD_COUNT_MASK:
        header_words = header_words[:3] + bytes((header_words[3] & _OAD_COUNT_MASK,)) + header_words[4:]
    return flow_prefix(flow, epoch) + header_words


def flow_prefix(flow: FlowKey, epoch: int) -> bytes:
    """The part of :func:`mac_input` that stays the same for all packets of a flow in one epoch."""
    source, destination, protocol, sport, dport = flow
    layout = _IPV4 if len(source) == 4 else _IPV6
    return layout.pack(source, destination, protocol, sport, dport, epoch & _EPOCH_MASK)


def compute_mac(key: bytes, flow: FlowKey, epoch: int, base_and_slots: bytes) -> bytes:
    """The 6 bytes for the MAC field of a packet whose base word and slots are ``base_and_slots``."""
    digest: bytes = siphash24(mac_input(flow, epoch=epoch, header_words=base_and_slots), key=key).digest()
    return digest[:MAC_BYTES]


def compute_mac_with_prefix(key: bytes, prefix: bytes, base_and_slots: bytes) -> bytes:
    """:func:`compute_mac` for a sender that keeps :func:`flow_prefix` for an epoch. Pathlen must be 0."""
    digest: bytes = siphash24(prefix + base_and_slots, key=key).digest()
    return digest[:MAC_BYTES]


def matching_epoch(key: bytes, flow: FlowKey, epoch: int, base_and_slots: bytes, mac: bytes) -> int | None:
    """The epoch under which ``mac`` is right: the current, previous or next one; None if it is forged or too old.

    For the packet path, where a forgery is an ordinary event. The comparison takes constant time; that the
    current epoch is tried first tells an attacker only the time of day.
    """
    for candidate in (epoch, epoch - 1, epoch + 1):
        if compare_digest(compute_mac(key, flow, candidate, base_and_slots), mac):
            return candidate
    return None


def verify(key: bytes, flow: FlowKey, epoch: int, base_and_slots: bytes, mac: bytes) -> int:
    """Like :func:`matching_epoch`, but raises RemoteProtocolError("mac_mismatch") where no epoch matches."""
    matched = matching_epoch(key, flow, epoch, base_and_slots, mac)
    if matched is None:
        raise RemoteProtocolError("mac_mismatch", "the packet's MAC is not that of the grant in any accepted epoch")
    return matched
