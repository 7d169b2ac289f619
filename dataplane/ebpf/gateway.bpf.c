/* The gateway's packet core in the kernel: is it paid, where does it go, what does it cost, when does it leave.
 *
 * The way of a packet is that of gateway/datapath.py (GatewayCore), whose functions have the same names here and say
 * why; both give the same bytes, marks, verdicts and books for the same packet, maps, time and draws. All is decided
 * where a packet arrives, before the kernel's own forwarding; whatever is no business of ours goes on untouched.
 *
 * Money: nanodollars on the wire, picodollars in a toll. The reader keeps what it writes into the maps below the limits
 * that are named beside each product here, so that nothing overflows 64 bits.
 */
#include "gateway_grants.h"
#include "gateway_maps.h"
#include "gateway_tolls.h"
#include "gateway_ways.h"
#include <linux/pkt_cls.h>

/* -- and out ------------------------------------------------------------------------------------------------------- */

/* The header is in the packet's first bytes: finds and reads it. */
__noinline int find_header(struct __sk_buff *skb, struct way *way, __u32 max_amount)
{
	int found;

	if (!way)
		return NO_HEADER;
	found = locate(skb, &way->packet, max_amount, &way->bill);
	if (found == HEADER && !read_words(skb, &way->packet, &way->bill, &way->words))
		return NO_HEADER;
	way->has_header = found == HEADER;
	return found;
}

/* `amount` is left; `by`: the AS that passes it on, or NO_ONE. */
__noinline int rewrite(struct __sk_buff *skb, struct way *way, __u32 amount, __u32 path_length, __u32 by)
{
	if (!way)
		return 0;
	return update(skb, &way->packet, &way->bill, amount, path_length, bpf_htons(by),
		      by == NO_ONE ? OADS_MAX : way->slot_index, way->slot);
}

/* Takes the header out; what the kernel refuses to change goes on as it is. */
__noinline int take_out(struct __sk_buff *skb, struct way *way)
{
	if (!way)
		return 0;
	if (!strip(skb, &way->packet, &way->bill)) {
		count_reason(PASSED_UNCHANGED, way->segments.packets);
		return 0;
	}
	way->segments.wire_bytes -= way->bill.length * way->segments.packets;
	way->has_header = 0;
	return 0;
}

/* One more word of a flow in its hash. */
static __always_inline __u64 mix(__u64 sum, __u64 word)
{
	sum = (sum ^ word) * GOLDEN;
	return sum ^ sum >> 29;
}

/* The same for all packets of a flow, and nobody outside can tell for which flows. The kernel's own hash of a packet is
 * its sender's on a veth, who may change it. */
static __always_inline __u32 flow_hash(struct __sk_buff *skb, const struct packet *packet)
{
	__u32 zero = 0;
	__u64 *secret = bpf_map_lookup_elem(&flow_secret, &zero), sum;
	__u8 *ip = IP(skb, packet);

	if (!secret)
		return 0;
	if (!*secret)
		__sync_val_compare_and_swap(secret, 0, (__u64)bpf_get_prandom_u32() << 32 | 1);
	sum = mix(*secret, (__u64)ports_of(skb, packet) << 8 | packet->protocol);
	if (packet->version == 4) {
		if (ip + IPV4_BYTES > DATA_END(skb))
			return 0;
		return mix(sum, WORD64(ip + 12)) >> 32;
	}
	if (ip + IPV6_BYTES > DATA_END(skb))
		return 0;
	sum = mix(mix(sum, WORD64(ip + 8)), WORD64(ip + 16));
	return mix(mix(sum, WORD64(ip + 24)), WORD64(ip + 32)) >> 32;
}

/* What a link with a queue makes of the packet: a mark, and a place in the queue or none: what it carries stays with us
 * then, who drop it. */
__noinline int is_admitted(struct __sk_buff *skb, struct way *way, __u32 left, __u32 class)
{
	struct queue_entry entry = {.class = class};
	struct link_terms *egress;
	__u32 count;

	if (!way)
		return 0;
	entry.link = way->egress_link;
	egress = bpf_map_lookup_elem(&terms, &entry.link);
	if (!egress)
		return 0;
	count = way->segments.packets;
	entry.now_ns = now_of(way);
	entry.hash = flow_hash(skb, &way->packet);
	entry.packet_bytes = way->segments.wire_bytes;
	entry.frame_bytes = way->segments.wire_bytes + count * egress->overhead_bytes;
	queue_admit(&entry);
	if (entry.is_marked && set_ce(skb, &way->packet))
		add(egress->counters[MARKED_PACKETS], count);
	if (entry.place) {
		queue_tell(skb, entry.place);
		return 1;
	}
	add(egress->counters[DROPPED_PACKETS], count);
	if (left) {
		add(egress->counters[KEPT_NANODOLLARS], (__u64)left * count);
		add(egress->counters[KEPT_PACKETS], count);
	}
	return 0;
}

/* GatewayCore._leave and _send. `left`: what each segment carries away. */
static __always_inline int leave(struct __sk_buff *skb, struct way *way, const struct link_terms *egress, __u32 left,
				 __u32 class)
{
	__u32 mark;

	count_arrived(way, egress);
	if (way->alternative.index) {
		mark = ((__u32)way->alternative.index + 1) << OAD_MARK_SHIFT;
		skb->mark = (skb->mark & ~OAD_MARK_MASK) | (mark & OAD_MARK_MASK);
	}
	if (egress->rate_bytes_per_s && !is_admitted(skb, way, left, class))
		return TC_ACT_SHOT;
	if (left) {
		add(egress->counters[SENT_NANODOLLARS], (__u64)left * way->segments.packets);
		add(egress->counters[SENT_PACKETS], way->segments.packets);
	}
	return TCX_NEXT;
}

/* GatewayCore._pass_unpaid: its class. */
__noinline int treat_unpaid(struct __sk_buff *skb, struct way *way)
{
	const struct link_terms *egress;
	__u32 link;

	if (!way)
		return CLASS_UNPAID;
	link = way->egress_link;
	egress = bpf_map_lookup_elem(&terms, &link);
	if (!egress)
		return CLASS_UNPAID;
	add(egress->counters[UNPAID_PACKETS], way->segments.packets);
	if (way->has_header && !egress->agreed)
		take_out(skb, way);
	return egress->rate_bytes_per_s && is_control(skb, &way->packet) ? CLASS_CONTROL : CLASS_UNPAID;
}

/* GatewayCore._pass_paid: its class, or DROPPED. `left`: what each segment carries away. */
static __always_inline int treat_paid(struct __sk_buff *skb, struct way *way, const struct link_terms *egress,
				      __u32 amount, __u32 *left)
{
	int control = egress->rate_bytes_per_s && is_control(skb, &way->packet);
	int kept = charge(way, egress, amount, !control);
	struct settings *settings = settings_now();

	if (kept == DROPPED || !settings)
		return DROPPED;
	*left = amount - kept;
	if (way->has_header && egress->agreed) {
		rewrite(skb, way, *left, (bpf_ntohl(way->words.base) >> 4 & 15) + 1, settings->as_number);
	} else { /* nobody behind us could take it: what is left stays here, the packet goes on as an ordinary one */
		if (way->has_header)
			take_out(skb, way);
		add(egress->counters[KEPT_NANODOLLARS], (__u64)*left * way->segments.packets);
		*left = 0;
	}
	return control ? CLASS_CONTROL : amount ? class_of(kept) : CLASS_UNPAID;
}

/* -- the whole way ------------------------------------------------------------------------------------------------- */

static __always_inline void count_received(struct way *way, const struct link_terms *ingress, __u32 amount)
{
	add(ingress->counters[RECEIVED_NANODOLLARS], (__u64)amount * way->segments.packets);
	add(ingress->counters[RECEIVED_PACKETS], way->segments.packets);
}

/* What a packet without a header pays, of a host whose grants say it; or UNPAID. */
__noinline int pays_without_header(struct __sk_buff *skb, struct way *way)
{
	struct link_terms *ingress;
	struct grant_terms *grant;
	__u32 index, amount, link;
	int reason;

	if (!way)
		return UNPAID;
	link = way->ingress_link;
	ingress = bpf_map_lookup_elem(&terms, &link);
	index = find_implying(skb, way);
	grant = bpf_map_lookup_elem(&grants, &index);
	if (!grant || !ingress) /* NO_GRANT is no number of one */
		return UNPAID;
	amount = grant->implied_nanodollars;
	reason = why_never(ingress);
	if (reason == PAID)
		reason = take_from(way, index, amount);
	if (reason != PAID) {
		count_refused(way, ingress, reason, amount);
		return UNPAID;
	}
	count_received(way, ingress, amount);
	return amount;
}

/* What the packet pays by its header, or UNPAID: nobody may take the header for a payment then. */
static __always_inline int pays_by_header(struct __sk_buff *skb, struct way *way, const struct link_terms *ingress)
{
	__u32 base = bpf_ntohl(way->words.base), offered = base >> 8, amount = offered;
	int reason;

	if (amount > ingress->packet_ceiling)
		amount = ingress->packet_ceiling;
	reason = why_unpaid(skb, way, ingress, amount);
	if (reason != PAID) {
		count_refused(way, ingress, reason, offered);
		rewrite(skb, way, offered, base >> 4 & 15, NO_ONE);
		return UNPAID;
	}
	if (amount < offered) {
		add(ingress->counters[CUT_NANODOLLARS], (__u64)(offered - amount) * way->segments.packets);
		add(ingress->counters[CUT_PACKETS], way->segments.packets);
		alarm(way, OVER_CEILING);
	}
	if (amount)
		count_received(way, ingress, amount);
	return amount;
}

/* Whether it is a packet that we may treat: read, or counted. */
static __always_inline int is_ours(struct __sk_buff *skb, const struct link_terms *ingress, struct packet *packet)
{
	int whole;

	if (skb->vlan_present) {
		count_reason(PASSED_VLAN, 1);
		return 0;
	}
	if (skb->pkt_type == PACKET_OTHERHOST && !injected)
		return 0;
	whole = read_packet(skb, ingress->header_bytes & 15, packet);
	if (whole < 0)
		count_reason(PASSED_UNREADABLE, 1);
	return whole == 1;
}

SEC("tc")
int gateway_arrive(struct __sk_buff *skb)
{
	__u32 link;
	struct link_terms *ingress = link_of(skb->ifindex, &link), *egress;
	struct settings *settings = settings_now();
	struct way way = {};
	int found, amount = UNPAID, class;
	__u32 left = 0;
	struct route *route;

	if (!ingress || !settings)
		return TCX_NEXT;
	way.ingress_link = link;
	queue_forget(skb);
	if (!is_ours(skb, ingress, &way.packet))
		return TCX_NEXT;
	route = find_route(skb, &way.packet);
	if (!route || !route->count || expires_here(skb, &way.packet))
		return TCX_NEXT;
	segments_of(skb, &way.packet, skb->gso_size, &way.segments);
	way.alternative = route->alternatives[0];
	found = find_header(skb, &way, ingress->max_amount);
	if (found == HEADER)
		choose(route, &way);
	way.egress_link = link = way.alternative.link;
	egress = bpf_map_lookup_elem(&terms, &link);
	if (!egress)
		return TCX_NEXT;
	if (found == HEADER)
		amount = pays_by_header(skb, &way, ingress);
	else if (found != NO_HEADER)
		count_reason(found, way.segments.packets);
	else if (settings->imply && ingress->peer == PEER_HOST)
		amount = pays_without_header(skb, &way);
	if (amount == UNPAID)
		class = treat_unpaid(skb, &way);
	else
		class = treat_paid(skb, &way, egress, amount, &left);
	return class == DROPPED ? TC_ACT_SHOT : leave(skb, &way, egress, left, class);
}

SEC("tc")
int gateway_leave(struct __sk_buff *skb)
{
	struct settings *settings;
	struct link_terms *egress;
	__u32 link;

	if (queue_is_told(skb))
		return TCX_NEXT;
	egress = link_of(skb->ifindex, &link);
	settings = settings_now();
	return egress && settings ? queue_count_other(skb, link, egress, NOW_NS(settings)) : TCX_NEXT;
}

/* Never attached: the reader runs it on a grant's number, behind a link-layer header, before it writes a version that
 * replaces one which no packet has met yet. */
SEC("tc")
int gateway_settle(struct __sk_buff *skb)
{
	struct grant_terms *grant;
	struct grant_state *state;
	__u32 index;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &index, sizeof(index)))
		return TC_ACT_SHOT;
	grant = bpf_map_lookup_elem(&grants, &index);
	state = bpf_map_lookup_elem(&grant_states, &index);
	if (!grant || !state)
		return TC_ACT_SHOT;
	bpf_spin_lock(&state->lock);
	take_version(state, grant);
	bpf_spin_unlock(&state->lock);
	return TCX_NEXT;
}

char _license[] SEC("license") = "GPL";
