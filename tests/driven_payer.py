"""The host's payment programs, run packet by packet without a network: where the kernel gives a program one packet and
shows what it became (BPF_PROG_TEST_RUN).

`DrivenPayer` is a packet core like `HostCore`, so that whatever is asked of that one can be asked of the kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from dataplane.counters import CounterFile
from dataplane.ebpf.kernel_counters import COUNTERS_MAX, KernelCounters
from dataplane.ebpf.libbpf import Map, Program, TestRun, create_array
from dataplane.ebpf.payer_layout import NUMBER, PEERS_MAX
from dataplane.port import Action, Packet, Verdict
from hostagent.payments.kernel_datapath import KernelPayer, PayerPrograms
from hostagent.payments.plan import OUTPUT_QUEUE, HostPlan

LOOPBACK = 1
ETHERTYPES = {4: b"\x08\x00", 6: b"\x86\xdd"}
ETHERNET_BYTES = 14
SMALLEST_BYTES = 20


class DrivenCounters(KernelCounters):
    """Nothing is pending in them. The programs that add to them are loaded once and used again and again."""

    programs: PayerPrograms
    _free: ClassVar[list[tuple[PayerPrograms, Map]]] = []

    @classmethod
    def in_memory(cls, *, capacity: int = 1024) -> DrivenCounters:
        file = CounterFile.in_memory(capacity=capacity)
        if not cls._free:
            array = create_array("counters", value_size=8, max_entries=COUNTERS_MAX)
            cls._free.append((PayerPrograms(array, peers_max=PEERS_MAX, injected=True), array))
        programs, array = cls._free.pop()
        counters = cls(file, array, None, file.recover(None))
        counters.programs = programs
        for number in range(COUNTERS_MAX):
            counters._words[number] = 0
        return counters

    def give_back(self) -> None:
        """Others may have the programs now. Nothing may be asked afterwards."""
        self._free.append((self.programs, self.map))

    def begin(self, _accepts: int) -> None:
        pass

    def commit(self) -> None:
        pass


class DrivenPayer(KernelPayer):
    """A `PacketCore`. The interfaces of its plan need not exist: every packet is given to loopback, under the name of
    its uplink. A second one with the same counters is the first one's successor.
    """

    def __init__(self, plan: HostPlan, counters: DrivenCounters) -> None:
        programs = counters.programs
        for name in ("flows", "uplinks", "peers"):
            table = programs.object.map(name)
            for key, _ in list(table.items()):
                table.delete(key)
        self._leave, self._arrive = map(programs.object.program, ("payer_leave", "payer_arrive"))
        self._places = programs.object.map("uplinks")
        self.is_awake = True  # as if on_timer was called whenever it was due
        super().__init__(plan, counters, programs=programs)
        super().take_events()

    def close(self) -> None:
        """Only what is its own."""
        self._ring.close()

    def on_batch(self, batch: list[Packet], now_ns: int) -> Sequence[Action]:
        actions: list[Action] = []
        for packet in batch:
            if len(packet.payload) < SMALLEST_BYTES:  # the kernel does not try so little
                actions.append(Verdict(packet.packet_id, packet.queue, True, packet.mark))
                continue
            run = self.run_leaving if packet.queue == OUTPUT_QUEUE else self.run_arriving
            became = run(
                packet.payload,
                now_ns=now_ns,
                interface_index=packet.interface_index,
                segment_bytes=packet.segment_bytes,
                mark=packet.mark,
            )
            payload = became.data_out[ETHERNET_BYTES:]
            actions.append(
                Verdict(
                    packet.packet_id,
                    packet.queue,
                    became.retval == -1,
                    became.mark,
                    None if payload == packet.payload else payload,
                )
            )
        return actions

    def run_leaving(
        self,
        packet: bytes,
        *,
        now_ns: int,
        interface_index: int,
        segment_bytes: int = 0,
        mark: int = 0,
        repeat: int = 1,
    ) -> TestRun:
        """`packet`: IP, without a link layer; what comes back has one."""
        return self._run(self._leave, packet, now_ns, interface_index, segment_bytes, mark, repeat)

    def run_arriving(
        self,
        packet: bytes,
        *,
        now_ns: int,
        interface_index: int,
        segment_bytes: int = 0,
        mark: int = 0,
        repeat: int = 1,
    ) -> TestRun:
        return self._run(self._arrive, packet, now_ns, interface_index, segment_bytes, mark, repeat)

    def _run(
        self,
        program: Program,
        packet: bytes,
        now_ns: int,
        interface_index: int,
        segment_bytes: int,
        mark: int,
        repeat: int,
    ) -> TestRun:
        uplink = self._places.lookup(NUMBER.pack(interface_index))
        if uplink is None:
            self._places.delete(NUMBER.pack(LOOPBACK))
        else:
            self._places.update(NUMBER.pack(LOOPBACK), uplink)
        self.programs.settings.now_ns = now_ns
        if self.is_awake:
            self.programs.settings.until_ns = max(self.programs.settings.until_ns, now_ns)
        self.programs.write_settings()
        kind = ETHERTYPES.get(packet[0] >> 4 if packet else 4, b"\x08\x00")
        return program.test_run(bytes(12) + kind + packet, gso_size=segment_bytes, mark=mark, repeat=repeat)
