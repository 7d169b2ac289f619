/* The host's payments in the kernel: what leaves pays, what arrives is counted, what is due goes back.
 *
 * The same, to the byte and the nanodollar, as hostagent/payments/datapath.py and flowtable.py, whose comments say why.
 *
 * payer_leave (tcx egress): flow -> counts -> under the flow's lock: what is due back, else its own payment under its
 * grant -> MSS of a SYN -> header. The money is reserved with the decision and given back if the header cannot go in,
 * so that no two packets spend the same. payer_arrive (tcx ingress): header -> by our gateway? -> both directions'
 * records; the header stays in. payer_obey, payer_list, payer_sweep: what the reader wants of flows, by
 * BPF_PROG_TEST_RUN. On any doubt a packet goes on unpaid.
 */
#include "payer_maps.h"
#include "payer_tcp.h"

char _license[] SEC("license") = "GPL";

/* -- leaving ------------------------------------------------------------------------------------------------------- */

/* Makes the header's MAC and leaves it with the flow for the packets that follow. */
static __noinline int make(struct __sk_buff *skb, const struct packet *packet, const struct flow_key *key,
			   struct flow *flow, struct payment *payment)
{
	struct mac_input input = {};
	struct allowance *allowance;
	__u32 ports;
	__u64 mac;

	if (!key || !flow || !payment || !set_mac_addresses(skb, packet, &input))
		return 0;
	__builtin_memcpy(&ports, &key->source_port, sizeof(ports));
	set_mac_words(&input, key->protocol, ports, &payment->words, payment->slot_count & 7);
	set_epoch(&input, payment->epoch);
	mac = mac_of(&input, payment->key[0], payment->key[1]);
	payment->words.mac = mac;
	bpf_spin_lock(&flow->lock);
	if (flow->version == payment->version) {
		allowance = payment->returns ? &flow->returning : &flow->spending;
		mac = LITTLE64(mac);
		__builtin_memcpy(allowance->made, &mac, sizeof(allowance->made));
		allowance->is_made = 1;
		allowance->made_amount = payment->amount;
		allowance->made_epoch = payment->epoch;
	}
	bpf_spin_unlock(&flow->lock);
	return 1;
}

/* The header did not go in: the money is there still, what it took of the rate is not (as in the core). What a command
 * changed meanwhile is left alone: the grant then has a little less than it might. */
static __noinline int give_back(struct flow *flow, const struct payment *payment, __u32 packets)
{
	struct settings *said = the_settings();
	__u64 total;
	int is_gone;

	if (!flow || !payment || !payment->spent || !said)
		return 0;
	total = (__u64)payment->amount * packets;
	bpf_spin_lock(&flow->lock);
	is_gone = flow->gone;
	if (!is_gone) {
		if (flow->version == payment->version)
			*payment->spent -= total;
		flow->out_paid_packets -= packets;
		if (payment->returns) {
			flow->returned -= total;
			flow->pool += total;
		}
	}
	bpf_spin_unlock(&flow->lock);
	if (is_gone && payment->returns)
		count(said, UNRETURNED, total);
	return 0;
}

static __always_inline void count_sent(const struct settings *said, const struct uplink *uplink,
				       const struct payment *payment, __u32 packets)
{
	__u64 total = (__u64)payment->amount * packets;

	count_at(uplink->sent, total);
	count_at(uplink->sent_packets, packets);
	if (payment->returns)
		count(said, RETURNED, total);
}

/* Puts the header in (hostagent.payments.datapath._carrying); else counts why not. */
static __always_inline int carry(struct __sk_buff *skb, struct packet *packet, const struct segments *segments,
				 const struct settings *said, const struct uplink *uplink, const struct flow_key *key,
				 struct flow *flow, struct payment *payment)
{
	__u32 slots = payment->slot_count & 7;
	int refusal = cannot_carry(skb, packet, slots, segments->packets == 1 ? uplink->mtu : 0xffff);

	if (refusal == CAN_CARRY && segments->packets > 1 &&
	    segments->header_bytes + skb->gso_size + carrier_bytes(packet->version, slots) > uplink->mtu)
		refusal = TOO_BIG;
	if (refusal != CAN_CARRY) {
		count(said, PAYER_NOT_IP + refusal, segments->packets);
		return 0;
	}
	payment->words.base = bpf_htonl(payment->amount << 8 | slots);
	if ((packet->protocol != NEXT_UDP || !skb->gso_size || uplink->grows_udp) &&
	    (payment->is_made || make(skb, packet, key, flow, payment)) &&
	    insert(skb, packet, &payment->words, slots))
		return 1;
	count(said, UNTREATED_UNCHANGED, segments->packets);
	return 0;
}

/* The cache lines that will be needed, all on their way before the lock waits for the first one. */
static __always_inline void fetch(const struct flow *flow)
{
	(void)*(const volatile __u64 *)&flow->spending.tokens;
	(void)*(const volatile __u32 *)&flow->spending.spent;
}

SEC("tc")
int payer_leave(struct __sk_buff *skb)
{
	__u32 zero = 0, interface = skb->ifindex, refusal = NOTHING_REFUSED, version, index;
	struct uplink *uplink = bpf_map_lookup_elem(&uplinks, &interface);
	struct progress *so_far = bpf_map_lookup_elem(&progress, &zero);
	struct settings *said = the_settings();
	__u64 *spent = NULL, *spent_back = NULL, now_ns;
	struct payment payment = {};
	struct leaving leaving = {};
	struct segments segments;
	struct change change;
	struct flow_key key;
	struct packet packet;
	struct flow *flow;
	int is_new, got;

	if (!uplink || !said || !so_far)
		return TCX_NEXT;
	if (skb->vlan_present) {
		count(said, UNTREATED_VLAN, 1);
		return TCX_NEXT;
	}
	got = read_packet(skb, uplink->header_bytes & 15, &packet);
	if (got < 0)
		count(said, UNTREATED_UNREADABLE, 1);
	if (got <= 0 || !read_flow(skb, &packet, &key) || (key.protocol != NEXT_TCP && key.protocol != NEXT_UDP))
		return TCX_NEXT;
	now_ns = NOW_NS(said); /* to read the clock waits for all that is to be fetched, so before the flow is */
	flow = find_or_add(&key, &is_new);
	segments_of(skb, &packet, skb->gso_size, &segments);
	if (!flow) {
		count(said, FLOWS_FULL, segments.packets);
		if (!uplink->implied)
			clamp(skb, &packet, uplink);
		return TCX_NEXT;
	}
	fetch(flow);
	if (is_new)
		tell(&key, FLOW_SEEN);
	leaving.packets = segments.packets;
	leaving.wire_bytes = segments.wire_bytes;
	leaving.is_stream = key.protocol == NEXT_TCP;
	leaving.is_reset = leaving.is_stream && tcp_flags(skb, &packet) & TCP_RST;
	leaving.has_content = has_content(skb, &packet);
	version = flow->version;
	index = flow->spending.spent;
	if (index)
		spent = bpf_map_lookup_elem(&counters, &index);
	if (flow->has_return) {
		index = flow->returning.spent;
		spent_back = bpf_map_lookup_elem(&counters, &index);
	}
	bpf_spin_lock(&flow->lock);
	if (flow->gone) {
		bpf_spin_unlock(&flow->lock);
		return TCX_NEXT;
	}
	touch(flow, said, so_far, now_ns, &change);
	flow->uplink = uplink->number;
	flow->out_packets += segments.packets;
	flow->out_bytes += segments.wire_bytes;
	if (uplink->agreed && flow->version == version) { /* else a command came between: `spent` is of the past */
		if (uplink->implied)
			refusal = decide_implied(flow, &leaving, said, now_ns, spent, &payment);
		else if (now_ns <= said->until_ns)
			refusal = decide(flow, &leaving, said, now_ns, spent, spent_back, &payment);
		else if (flow->spending.open && flow->amount)
			refusal = READER_SILENT;
	}
	bpf_spin_unlock(&flow->lock);
	if (change.order)
		note(&key, &change);
	count(said, refusal, segments.packets);
	if (!uplink->implied) {
		clamp(skb, &packet, uplink);
		if (payment.amount && !carry(skb, &packet, &segments, said, uplink, &key, flow, &payment)) {
			give_back(flow, &payment, segments.packets);
			return TCX_NEXT;
		}
	}
	if (payment.amount)
		count_sent(said, uplink, &payment, segments.packets);
	return TCX_NEXT;
}

/* -- arriving ------------------------------------------------------------------------------------------------------ */

/* HostCore._count_arrival and what of _take is the record's own. 1: its first payment; 0: not; -1: it is gone. */
static __noinline int count_arrival(struct flow *flow, const struct flow_key *key, const struct settings *said,
				    struct progress *so_far, const struct arrival *arrival)
{
	struct change change;
	int is_first = 0;

	if (!flow || !key || !said || !so_far || !arrival)
		return -1;
	bpf_spin_lock(&flow->lock);
	if (flow->gone) {
		bpf_spin_unlock(&flow->lock);
		return -1;
	}
	touch(flow, said, so_far, arrival->now_ns, &change);
	flow->in_packets += arrival->packets;
	flow->in_bytes += arrival->wire_bytes;
	if (arrival->is_ce)
		flow->in_ce_packets += arrival->packets;
	if (arrival->amount) {
		is_first = !flow->in_paid_packets;
		flow->in_paid_packets += arrival->packets;
		flow->received += (__u64)arrival->amount * arrival->packets;
		observe(flow, arrival);
	}
	bpf_spin_unlock(&flow->lock);
	if (change.order)
		note(key, &change);
	return is_first;
}

/* The rest of HostCore._take: ours coming back, or to be returned less the share. Whether it is another's. */
static __noinline int take(const struct flow_key *key, const struct settings *said, struct progress *so_far,
			   const struct arrival *arrival)
{
	__u64 total, share = 0;
	struct flow_key back_key;
	struct change change;
	struct flow *back;
	int is_new, pays;

	if (!key || !said || !so_far || !arrival)
		return 0;
	total = (__u64)arrival->amount * arrival->packets;
	turn_round(key, &back_key);
	back = find_or_add(&back_key, &is_new);
	if (!back) {
		count(said, UNRETURNED, total); /* ours, and no flow that could take it back */
		return 1;
	}
	bpf_spin_lock(&back->lock);
	if (back->gone) {
		bpf_spin_unlock(&back->lock);
		count(said, UNRETURNED, total);
		return 1;
	}
	touch(back, said, so_far, arrival->now_ns, &change);
	pays = back->pays;
	if (pays) {
		back->refunded += total;
	} else {
		share = least(back->share, arrival->amount);
		back->unit = arrival->amount - share;
		back->pool += (__u64)back->unit * arrival->packets;
		back->arrivals += arrival->packets;
	}
	bpf_spin_unlock(&back->lock);
	if (change.order)
		note(&back_key, &change);
	if (pays)
		count(said, REFUNDED, total);
	else if (share)
		count(said, SHARE, share * arrival->packets);
	return !pays;
}

static __noinline int tell_probe(struct __sk_buff *skb, const struct packet *packet, const struct flow_key *key,
				 const struct arrival *arrival)
{
	__u32 at = packet->offset + 8, length = 0;
	struct probe_event *probe;

	if (!key || !arrival)
		return 0;
	probe = bpf_ringbuf_reserve(&seen, sizeof(*probe), 0);
	if (!probe)
		return 0;
	probe->event.kind = PROBE_SEEN;
	probe->event.pad = 0;
	probe->event.flow = *key;
	probe->arrived_ns = arrival->now_ns;
	probe->remaining = arrival->amount;
	probe->slot_count = arrival->base & 15;
	for (int i = 0; i < SLOTS_MAX; i++)
		probe->words[i] = arrival->words[i];
	if (packet->size > at)
		length = packet->size - at;
	if (length > PROBE_BYTES)
		length = PROBE_BYTES;
	asm volatile("" : "+r"(length)); /* the compiler may not drop the bounds below */
	if (length < 1 || length > PROBE_BYTES || bpf_skb_load_bytes(skb, packet->start + at, probe->payload, length))
		length = 0;
	probe->payload_bytes = length;
	bpf_ringbuf_submit(probe, 0);
	return 0;
}

static __always_inline int is_ce(struct __sk_buff *skb, const struct packet *packet)
{
	__u8 *ip = IP(skb, packet);

	if (ip + IPV4_BYTES > DATA_END(skb))
		return 0;
	return ((packet->version == 4 ? ip[1] : ip[1] >> 4) & CE) == CE;
}

static __always_inline int is_from_peer(const struct settings *said, const struct flow_key *key)
{
	struct peer peer = { .family = key->family };

	if (!said->peers)
		return 0;
	__builtin_memcpy(peer.address, key->source, sizeof(peer.address));
	return bpf_map_lookup_elem(&peers, &peer) != NULL;
}

/* The payment of a located header: 0 if it is none of ours. Words that are no slots stay 0. */
static __always_inline void read_payment(struct __sk_buff *skb, const struct packet *packet, const struct bill *bill,
					 const struct settings *said, const struct uplink *uplink,
					 struct arrival *arrival)
{
	struct header_words words = {};

	if (!read_words(skb, packet, bill, &words))
		return;
	arrival->base = bpf_ntohl(words.base);
	arrival->amount = arrival->base >> 8;
	for (int i = 0; i < SLOTS_MAX; i++)
		arrival->words[i] = words.slots[i];
	if (uplink->agreed && words.mac == LITTLE16(bpf_htons(uplink->gateway_as)))
		return;
	count(said, NOT_BY_GATEWAY, arrival->packets); /* the gateway let it pass: it owes us nothing */
	arrival->amount = 0;
}

/* Counts a packet that has a flow and no malformed header. */
static __always_inline void arrive(struct __sk_buff *skb, const struct packet *packet, const struct flow_key *key,
				   const struct settings *said, const struct uplink *uplink, struct arrival *arrival)
{
	__u64 total = (__u64)arrival->amount * arrival->packets;
	struct progress *so_far;
	__u32 zero = 0;
	struct flow *flow;
	int is_new, is_first;

	so_far = bpf_map_lookup_elem(&progress, &zero);
	if (!so_far)
		return;
	if (total) {
		count_at(uplink->received, total);
		count_at(uplink->received_packets, arrival->packets);
	}
	flow = find_or_add(key, &is_new);
	arrival->now_ns = NOW_NS(said);
	is_first = count_arrival(flow, key, said, so_far, arrival);
	if (is_first < 0) {
		if (!flow)
			count(said, FLOWS_FULL, arrival->packets);
		if (total)
			count(said, UNRETURNED, total);
		return;
	}
	if (!total)
		return;
	if (take(key, said, so_far, arrival) && is_first)
		tell(key, RECEIPT_SEEN);
	if (key->protocol == NEXT_UDP && key->destination_port == bpf_htons(ECHO_PORT) &&
	    key->source_port != bpf_htons(ECHO_PORT))
		tell_probe(skb, packet, key, arrival);
}

SEC("tc")
int payer_arrive(struct __sk_buff *skb)
{
	__u32 interface = skb->ifindex;
	struct uplink *uplink = bpf_map_lookup_elem(&uplinks, &interface);
	struct settings *said = the_settings();
	struct arrival arrival = {};
	struct segments segments;
	struct flow_key key;
	struct packet packet;
	struct bill bill;
	int got, located;

	if (!uplink || !said || (skb->pkt_type == PACKET_OTHERHOST && !injected))
		return TCX_NEXT;
	if (skb->vlan_present) {
		count(said, UNTREATED_VLAN, 1);
		return TCX_NEXT;
	}
	got = read_packet(skb, uplink->header_bytes & 15, &packet);
	if (got < 0)
		count(said, UNTREATED_UNREADABLE, 1);
	if (got <= 0 || !read_flow(skb, &packet, &key))
		return TCX_NEXT;
	located = locate(skb, &packet, 0xffffffff, &bill);
	if (located == NO_HEADER && !said->peers) {
		clamp(skb, &packet, uplink);
		return TCX_NEXT;
	}
	segments_of(skb, &packet, skb->gso_size, &segments);
	if (located >= 0) {
		count(said, PAYER_MALFORMED_TRUNCATED + located, segments.packets);
		return TCX_NEXT;
	}
	arrival.packets = segments.packets;
	arrival.wire_bytes = segments.wire_bytes;
	arrival.is_ce = is_ce(skb, &packet);
	if (located == HEADER) {
		arrival.wire_bytes -= bill.length * segments.packets;
		read_payment(skb, &packet, &bill, said, uplink, &arrival);
	}
	/* whoever pays nothing takes no room in the table */
	if (arrival.amount || is_from_peer(said, &key) || (located == HEADER && bpf_map_lookup_elem(&flows, &key)))
		arrive(skb, &packet, &key, said, uplink, &arrival);
	clamp(skb, &packet, uplink);
	return TCX_NEXT;
}

#include "payer_commands.h"
