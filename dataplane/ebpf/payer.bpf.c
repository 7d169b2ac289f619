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
#include "billpay.h"
#include "payer_flow.h"
#include <linux/in.h>
#include <linux/pkt_cls.h>

#define ECHO_PORT 7416
#define TCP_SYN 2
#define TCP_RST 4
#define TCP_BYTES 20u
#define MINIMUM_MSS 88u
#define CE 3
#define WHENEVER 0x7fffffffffffffffull

char _license[] SEC("license") = "GPL";

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct settings);
} settings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, PAYER_UPLINKS_MAX);
	__type(key, __u32); /* interface index */
	__type(value, struct uplink);
} uplinks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, PAYER_PEERS_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct peer);
	__type(value, __u8);
} peers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, PAYER_FLOWS_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct flow_key);
	__type(value, struct flow);
} flows SEC(".maps");

/* What a flow begins as: too large for a stack; without the lock, which no helper may copy. */
struct nothing { __u8 zero[sizeof(struct flow)]; };

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct nothing);
} blank SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct progress);
} progress SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PAYER_COUNTERS_MAX);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PAYER_LISTED_MAX);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct listed);
} listed SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, PAYER_EVENT_BYTES);
} seen SEC(".maps");

/* -- what is known ------------------------------------------------------------------------------------------------- */

static __always_inline struct settings *the_settings(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&settings, &zero);
}

static __always_inline void count_at(__u32 index, __u64 amount)
{
	__u64 *value = bpf_map_lookup_elem(&counters, &index);

	if (value)
		ADD(*value, amount);
}

static __always_inline void count(const struct settings *said, __u32 which, __u64 amount)
{
	if (which < PAYER_COUNTERS)
		count_at(said->counters[which], amount);
}

/* 1: `key` is the packet's flow; 0: it is of none (billpay.packet.flow_key). */
static __always_inline int read_flow(struct __sk_buff *skb, const struct packet *packet, struct flow_key *key)
{
	__u8 *ip = IP(skb, packet), *end = DATA_END(skb);
	__u32 ports;

	if (!packet->is_whole)
		return 0;
	__builtin_memset(key, 0, sizeof(*key));
	if (packet->version == 4) {
		if (ip + IPV4_BYTES > end)
			return 0;
		__builtin_memcpy(key->source, ip + 12, 4);
		__builtin_memcpy(key->destination, ip + 16, 4);
	} else {
		if (ip + IPV6_BYTES > end)
			return 0;
		__builtin_memcpy(key->source, ip + 8, 16);
		__builtin_memcpy(key->destination, ip + 24, 16);
	}
	ports = ports_of(skb, packet);
	__builtin_memcpy(&key->source_port, &ports, sizeof(ports));
	key->protocol = packet->protocol;
	key->family = packet->version;
	return 1;
}

static __always_inline void turn_round(const struct flow_key *key, struct flow_key *back)
{
	*back = *key;
	__builtin_memcpy(back->source, key->destination, sizeof(key->source));
	__builtin_memcpy(back->destination, key->source, sizeof(key->source));
	back->source_port = key->destination_port;
	back->destination_port = key->source_port;
}

/* The flow's new record; NULL when there is no room for one. */
static __noinline struct flow *add_flow(const struct flow_key *key, int *is_new)
{
	__u32 zero = 0;
	struct nothing *fresh = bpf_map_lookup_elem(&blank, &zero);

	if (!fresh || !key || !is_new)
		return NULL;
	*is_new = !bpf_map_update_elem(&flows, key, fresh, BPF_NOEXIST);
	return bpf_map_lookup_elem(&flows, key);
}

static __always_inline struct flow *find_or_add(const struct flow_key *key, int *is_new)
{
	struct flow *flow = bpf_map_lookup_elem(&flows, key);

	*is_new = 0;
	return flow ?: add_flow(key, is_new);
}

static __noinline int tell(const struct flow_key *key, __u32 kind)
{
	struct event *event = bpf_ringbuf_reserve(&seen, sizeof(*event), 0);

	if (!event)
		return 0; /* the next poll of the flows shows it */
	event->kind = kind;
	event->pad = 0;
	if (key)
		event->flow = *key;
	bpf_ringbuf_submit(event, 0);
	return 0;
}

/* -- TCP ----------------------------------------------------------------------------------------------------------- */

/* hostagent.payments.datapath.tcp_flags */
static __always_inline __u8 tcp_flags(struct __sk_buff *skb, const struct packet *packet)
{
	if (packet->size <= packet->offset + 13)
		return 0;
	if (packet->is_fragment && !(packet->version == 4 && packet->offset == IPV4_BYTES))
		return 0;
	return byte_at(skb, packet, packet->offset + 13);
}

/* hostagent.payments.datapath.has_content */
static __always_inline int has_content(struct __sk_buff *skb, const struct packet *packet)
{
	if (packet->protocol != NEXT_TCP || packet->is_fragment || packet->size <= packet->offset + 12)
		return 1;
	return packet->size > packet->offset + ((byte_at(skb, packet, packet->offset + 12) >> 4) << 2);
}

/* A TCP header's options; `mss`: where its value is, 0: nowhere yet. */
struct options {
	__u32 at;
	__u32 length;
	__u32 mss;
	__u8 bytes[64];
};

/* billpay.packet._find_mss, option by option */
static long read_option(__u32 index, void *context)
{
	struct options *options = context;
	__u32 at = options->at, size;
	__u8 kind;

	if (at >= options->length)
		return 1;
	kind = options->bytes[at & 63];
	if (!kind)
		return 1;
	size = options->bytes[(at + 1) & 63];
	if (kind == 1) {
		options->at = at + 1;
		return 0;
	}
	if (at + 1 >= options->length || size < 2 || at + size > options->length)
		return 1;
	options->at = at + size;
	if (kind != 2)
		return 0;
	options->mss = size == 4 ? at + 2 : 0;
	return 1;
}

/* billpay.packet.clamp_mss. A checksum that is left to hardware does not cover the MSS yet: the helper knows. */
static __noinline int clamp_mss(struct __sk_buff *skb, const struct packet *packet, __u32 reduce_by)
{
	__u32 tcp = packet->offset, length, at, old, new;
	struct options options = {};
	__u16 field, from, to;

	if (!reduce_by || packet->is_fragment || packet->size < tcp + TCP_BYTES)
		return 0;
	length = (byte_at(skb, packet, tcp + 12) >> 4) << 2;
	if (length > packet->size - tcp)
		length = packet->size - tcp;
	if (length <= TCP_BYTES)
		return 0;
	length -= TCP_BYTES;
	asm volatile("" : "+r"(length)); /* the compiler may not drop the bounds below */
	if (length < 1 || length > 40 ||
	    bpf_skb_load_bytes(skb, packet->start + tcp + TCP_BYTES, options.bytes, length))
		return 0;
	options.length = length;
	bpf_loop(40, read_option, &options, 0);
	at = options.mss;
	if (!at)
		return 0;
	old = (__u32)options.bytes[at & 63] << 8 | options.bytes[(at + 1) & 63];
	new = old > MINIMUM_MSS + reduce_by ? old - reduce_by : MINIMUM_MSS;
	if (new >= old)
		return 0;
	field = bpf_htons(new);
	from = bpf_htons(old);
	to = field;
	if (at & 1) { /* the two bytes fall into two words of the sum */
		from = __builtin_bswap16(from);
		to = __builtin_bswap16(to);
	}
	at += tcp + TCP_BYTES;
	bpf_l4_csum_replace(skb, packet->start + tcp + 16, from, to, sizeof(field));
	bpf_skb_store_bytes(skb, packet->start + at, &field, sizeof(field), 0);
	return 0;
}

static __always_inline void clamp(struct __sk_buff *skb, const struct packet *packet, const struct uplink *uplink)
{
	if (packet->protocol == NEXT_TCP && uplink->clamp_v4 && tcp_flags(skb, packet) & TCP_SYN)
		clamp_mss(skb, packet, packet->version == 4 ? uplink->clamp_v4 : uplink->clamp_v6);
}

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
	segments_of(skb, &packet, skb->gso_size, &segments);
	flow = find_or_add(&key, &is_new);
	if (!flow) {
		count(said, FLOWS_FULL, segments.packets);
		if (!uplink->implied)
			clamp(skb, &packet, uplink);
		return TCX_NEXT;
	}
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
	now_ns = NOW_NS(said);
	bpf_spin_lock(&flow->lock);
	if (flow->gone) {
		bpf_spin_unlock(&flow->lock);
		return TCX_NEXT;
	}
	touch(flow, said, so_far, now_ns);
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
static __noinline int count_arrival(struct flow *flow, const struct settings *said, struct progress *so_far,
				    const struct arrival *arrival)
{
	int is_first = 0;

	if (!flow || !said || !so_far || !arrival)
		return -1;
	bpf_spin_lock(&flow->lock);
	if (flow->gone) {
		bpf_spin_unlock(&flow->lock);
		return -1;
	}
	touch(flow, said, so_far, arrival->now_ns);
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
	return is_first;
}

/* The rest of HostCore._take: ours coming back, or to be returned less the share. Whether it is another's. */
static __noinline int take(const struct flow_key *key, const struct settings *said, struct progress *so_far,
			   const struct arrival *arrival)
{
	__u64 total, share = 0;
	struct flow_key back_key;
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
	touch(back, said, so_far, arrival->now_ns);
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
	is_first = count_arrival(flow, said, so_far, arrival);
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

/* -- the reader's commands ----------------------------------------------------------------------------------------- */

/* Unless it was in use since then. What is left in its pool belongs to nobody. */
static __noinline int forget(struct flow *flow, const struct flow_key *key, __u64 silent_since_ns)
{
	struct settings *said = the_settings();
	__u64 pool;

	if (!flow || !key || !said)
		return NOT_THERE;
	bpf_spin_lock(&flow->lock);
	if ((__s64)(silent_since_ns - flow->last_ns) < 0) {
		bpf_spin_unlock(&flow->lock);
		return NOT_THERE;
	}
	pool = flow->pool;
	flow->pool = 0;
	flow->gone = 1; /* whoever has found it already lets it be */
	bpf_spin_unlock(&flow->lock);
	if (pool)
		count(said, UNRETURNED, pool);
	bpf_map_delete_elem(&flows, key);
	return OBEYED;
}

static __always_inline void obey(struct flow *flow, const struct command *command, const struct settings *said)
{
	__u64 paid_packets = 0, due = 0;
	struct flow_key back_key;
	struct flow *back;

	if (command->kind == RETURN) {
		turn_round(&command->flow, &back_key);
		back = bpf_map_lookup_elem(&flows, &back_key);
		if (back)
			paid_packets = back->in_paid_packets;
	}
	bpf_spin_lock(&flow->lock);
	flow->version++;
	if (command->kind == PAY) {
		allow(&flow->spending, command);
		flow->key[0] = command->key[0];
		flow->key[1] = command->key[1];
		flow->pays = 1;
		flow->amount = command->amount;
		flow->slot_count = command->slot_count;
		for (int i = 0; i < SLOTS_MAX; i++)
			flow->slots[i] = command->slots[i];
	} else if (command->kind == RETURN) {
		allow(&flow->returning, command);
		flow->has_return = 1;
		flow->return_key[0] = command->key[0];
		flow->return_key[1] = command->key[1];
		due = take_late_share(flow, command->share, paid_packets);
		flow->ceiling = command->amount;
	} else if (command->kind == DROP) {
		flow->amount = 0;
		flow->spending.open = 0;
		flow->returning.open = 0;
	}
	bpf_spin_unlock(&flow->lock);
	if (due)
		count(said, SHARE, due);
}

SEC("tc")
int payer_obey(struct __sk_buff *skb)
{
	struct settings *said = the_settings();
	struct progress *so_far;
	struct command command;
	__u32 zero = 0;
	struct flow *flow;
	int is_new = 0;

	so_far = bpf_map_lookup_elem(&progress, &zero);
	if (!said || !so_far || bpf_skb_load_bytes(skb, ETH_HLEN, &command, sizeof(command)))
		return NOT_THERE;
	if (command.kind == DROP || command.kind == FORGET)
		flow = bpf_map_lookup_elem(&flows, &command.flow);
	else
		flow = find_or_add(&command.flow, &is_new);
	if (!flow)
		return command.kind == DROP || command.kind == FORGET ? NOT_THERE : NO_ROOM;
	if (command.kind == FORGET)
		return forget(flow, &command.flow, WHENEVER);
	if (is_new) {
		bpf_spin_lock(&flow->lock);
		touch(flow, said, so_far, command.now_ns);
		bpf_spin_unlock(&flow->lock);
	}
	if (command.kind != FIND)
		obey(flow, &command, said);
	return OBEYED;
}

struct listing {
	struct question question;
	const struct settings *said;
	struct progress *so_far;
	__u32 count;
};

static __always_inline void list(struct listing *listing, struct listed *entry, const struct flow_key *key, __u32 turn,
				 __u64 order, int concerns_money)
{
	entry->flow = *key;
	entry->turn = turn;
	entry->order = order;
	entry->concerns_money = concerns_money;
	listing->count++;
}

static long list_changed(void *map, const void *key, void *value, void *context)
{
	struct listing *listing = context;
	struct flow *flow = value;
	__u32 place = listing->count, turn;
	struct listed *entry = bpf_map_lookup_elem(&listed, &place);
	int wanted, concerns_money;
	__u64 order;

	bpf_spin_lock(&flow->lock);
	turn = flow->turn;
	order = flow->order;
	wanted = turn > listing->question.since_turn;
	concerns_money = flow->spending.spent || flow->has_return || flow->received || flow->pool;
	if (wanted && !entry)
		touch(flow, listing->said, listing->so_far, flow->last_ns);
	bpf_spin_unlock(&flow->lock);
	if (wanted && entry)
		list(listing, entry, key, turn, order, concerns_money);
	return 0;
}

static long sweep(void *map, const void *key, void *value, void *context)
{
	struct listing *listing = context;
	struct flow *flow = value;
	__u32 place = listing->count;
	struct listed *entry = bpf_map_lookup_elem(&listed, &place);
	int is_idle, has_grant;

	bpf_spin_lock(&flow->lock);
	is_idle = (__s64)(listing->question.silent_since_ns - flow->last_ns) >= 0;
	has_grant = flow->spending.spent || flow->has_return;
	bpf_spin_unlock(&flow->lock);
	if (!is_idle || (has_grant && !entry)) /* without being told of it the reader would keep the grant's counter */
		return 0;
	if (forget(flow, key, listing->question.silent_since_ns) == OBEYED && has_grant && entry)
		list(listing, entry, key, 0, 0, 1);
	return 0;
}

static __always_inline int read_question(struct __sk_buff *skb, struct listing *listing)
{
	__u32 zero = 0;

	listing->count = 0;
	listing->said = the_settings();
	listing->so_far = bpf_map_lookup_elem(&progress, &zero);
	return listing->said && listing->so_far &&
	       !bpf_skb_load_bytes(skb, ETH_HLEN, &listing->question, sizeof(listing->question));
}

SEC("tc")
int payer_list(struct __sk_buff *skb)
{
	struct listing listing;

	if (!read_question(skb, &listing))
		return 0;
	bpf_for_each_map_elem(&flows, list_changed, &listing, 0);
	return listing.count;
}

SEC("tc")
int payer_sweep(struct __sk_buff *skb)
{
	struct listing listing;

	if (!read_question(skb, &listing))
		return 0;
	bpf_for_each_map_elem(&flows, sweep, &listing, 0);
	return listing.count;
}
