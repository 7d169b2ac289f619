/* The gateway's packet core in the kernel: is it paid, where does it go, what does it cost, when does it leave.
 *
 * The way of a packet is that of gateway/datapath.py (GatewayCore), whose functions have the same names here and say
 * why; both give the same bytes, marks, verdicts and books for the same packet, maps, time and draws. All is decided
 * where a packet arrives, before the kernel's own forwarding; whatever is no business of ours goes on untouched.
 *
 * Money: nanodollars on the wire, picodollars in a toll. The reader keeps what it writes into the maps below the limits
 * that are named beside each product here, so that nothing overflows 64 bits.
 */
#include "billpay.h"
#include "gateway.h"
#include <linux/pkt_cls.h>

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct settings);
} settings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, GATEWAY_LINKS_MAX);
	__type(key, __u32);
	__type(value, struct price);
} prices SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, GATEWAY_LINKS_MAX);
	__type(key, __u32);
	__type(value, __u32);
} link_numbers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, GATEWAY_LINKS_MAX);
	__type(key, __u32);
	__type(value, struct link_terms);
} terms SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, GATEWAY_LINKS_MAX);
	__type(key, __u32);
	__type(value, struct link_state);
} states SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, GATEWAY_COUNTERS_MAX);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

struct route_key4 { __u32 prefix_bits; __be32 address; };

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, GATEWAY_ROUTES_MAX);
	__type(key, struct route_key4);
	__type(value, struct route);
} routes4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, GATEWAY_ROUTES_MAX);
	__type(key, struct route_key);
	__type(value, struct route);
} routes6 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, GATEWAY_PLACES_MAX);
	__type(key, struct place);
	__type(value, struct place_grants);
} places SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, GATEWAY_GRANTS_MAX);
	__type(key, __u32);
	__type(value, struct grant_terms);
} grants SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, GATEWAY_GRANTS_MAX);
	__type(key, __u32);
	__type(value, struct grant_state);
} grant_states SEC(".maps");

#if __has_include("queue.h")
#include "queue.h"
#define HAS_QUEUES 1
#endif

_Static_assert((int)SHARED == (int)MALFORMED_SHARED && (int)TRUNCATED == (int)MALFORMED_TRUNCATED,
	       "billpay.h and gateway.h name the same reasons");

#define PAID (-1) /* where a reason would be */
#define DROPPED (-1)
#define NO_GRANT (-1) /* where a grant's number would be */
#define BAD_MAC (-2)
#define NO_ONE 0
#define NS_PER_S 1000000000ull
#define PPM 1000000ull
#define PICO 1000ull /* in a nanodollar */
#define BURST_MAX 9000000000ull
#define OAD_MARK_MASK 0x0fff0000u
#define OAD_MARK_SHIFT 16
#define ISP_WRITTEN 0x800
#define CLASS_UNPAID 0
#define CLASS_PAID_HIGHEST 7
#define CLASS_CONTROL 8
#define CONTROL_PORT 7414
#define ECHO_PORT 7416
#define BGP_PORT 179
#define NEXT_OSPF 89

/* A packet on its way through here, as far as it is known. No pointers: what is not static is seen by the verifier
 * once, whoever calls it, which it can only because it believes nothing of what is in here. */
struct way {
	struct packet packet;
	struct bill bill;
	struct header_words words;
	struct segments segments;
	struct alternative alternative;
	__u64 now_ns; /* 0: nobody has asked yet */
	__u32 ingress_link;
	__u32 egress_link;
	__u32 slot_index; /* of the slot that is ours; OADS_MAX: there is none */
	__be32 slot;	  /* what we write into it */
	__u32 has_header; /* it goes on with the header at `bill` */
};

static __always_inline void add(__u32 index, __u64 amount)
{
	__u64 *counter = index ? bpf_map_lookup_elem(&counters, &index) : NULL;

	if (counter)
		__sync_fetch_and_add(counter, amount);
}

static __always_inline __u64 value_of(__u32 index)
{
	__u64 *counter = bpf_map_lookup_elem(&counters, &index);

	return counter ? *(volatile __u64 *)counter : 0;
}

static __always_inline struct settings *settings_now(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&settings, &zero);
}

static __always_inline __u64 now_of(struct way *way)
{
	struct settings *now;

	if (!way->now_ns) {
		now = settings_now();
		way->now_ns = now ? NOW_NS(now) : 0;
	}
	return way->now_ns;
}

static __always_inline void alarm(struct way *way, __u32 reason)
{
	struct link_state *state = bpf_map_lookup_elem(&states, &way->ingress_link);

	IN_REGISTER(reason);
	if (state && reason < REASONS)
		__sync_fetch_and_add(&state->alarms[reason], way->segments.packets);
}

static __always_inline void count_reason(__u32 reason, __u64 packets)
{
	struct settings *settings = settings_now();

	IN_REGISTER(reason);
	if (settings && reason < REASONS)
		add(settings->reasons[reason], packets);
}

/* -- where to ------------------------------------------------------------------------------------------------------ */

static __always_inline struct route *find_route(struct __sk_buff *skb, const struct packet *packet)
{
	__u8 *ip = IP(skb, packet);

	if (packet->version == 4) {
		struct route_key4 key = {.prefix_bits = 32};

		if (ip + IPV4_BYTES > DATA_END(skb))
			return NULL;
		key.address = WORD32(ip + 16);
		return bpf_map_lookup_elem(&routes4, &key);
	} else {
		struct route_key key = {.prefix_bits = 128};

		if (ip + IPV6_BYTES > DATA_END(skb))
			return NULL;
		__builtin_memcpy(key.address, ip + 24, sizeof(key.address));
		return bpf_map_lookup_elem(&routes6, &key);
	}
}

/* The slot that we use: the one with our number, else the first free one, else OADS_MAX. */
static __always_inline __u32 find_slot(const struct way *way, __u32 as_number)
{
	__u32 free = OADS_MAX;

	for (__u32 i = 0; i < OADS_MAX; i++) {
		__u32 number = bpf_ntohl(way->words.slots[i]) >> 16;

		if (i >= way->bill.oad_count)
			break;
		if (number == as_number)
			return i;
		if (!number && free == OADS_MAX)
			free = i;
	}
	return free;
}

/* Route.choose: an index of the route's alternatives. `wish` is our slot as the user filled it. */
static __always_inline __u32 alternative_for(const struct route *route, __u32 wish)
{
	__u32 undesirable = wish >> 4 & 0xfff, choice = wish & 15, bearable = 0, has_bearable = 0;

	if (undesirable & ISP_WRITTEN)
		return 0;
	for (__u32 i = 0; i < GATEWAY_ALTERNATIVES_MAX; i++) {
		__u32 number = route->alternatives[i].number;

		if (i >= route->count)
			break;
		if (number == choice)
			return i;
		if (!has_bearable && !(undesirable >> ((number - 1) & 31) & 1)) {
			bearable = i;
			has_bearable = 1;
		}
	}
	return bearable;
}

/* The alternative that the packet takes, and what we write into which of its slots. */
__noinline int choose(const struct route *route, struct way *way)
{
	struct settings *settings = settings_now();
	__u32 slot, chosen = 0;
	__be32 wish = 0;

	if (!route || !way || !settings)
		return 0;
	way->slot_index = slot = find_slot(way, settings->as_number);
	IN_REGISTER(slot);
	if (slot < OADS_MAX)
		wish = bpf_ntohl(way->words.slots[slot]);
	if (slot < OADS_MAX && settings->honours_preferences && wish >> 16 == settings->as_number)
		chosen = alternative_for(route, wish);
	IN_REGISTER(chosen);
	if (chosen < GATEWAY_ALTERNATIVES_MAX)
		way->alternative = route->alternatives[chosen];
	way->slot = bpf_htonl(settings->as_number << 16 | (__u32)route->bitmap << 4 | way->alternative.number);
	return 0;
}

/* gateway.control_traffic.is_control */
__noinline int is_control(struct __sk_buff *skb, const struct packet *packet)
{
	__u32 ports, from, to;
	__u8 kind;

	if (!packet || !packet->is_whole || packet->is_fragment)
		return 0;
	if (packet->protocol == NEXT_UDP || packet->protocol == NEXT_TCP) {
		ports = bpf_ntohl(ports_of(skb, packet)); /* 0 where they are not there */
		from = ports >> 16;
		to = ports & 0xffff;
		if (packet->protocol == NEXT_UDP)
			return from == ECHO_PORT && to == ECHO_PORT;
		return from == CONTROL_PORT || to == CONTROL_PORT || from == BGP_PORT || to == BGP_PORT;
	}
	if (packet->protocol == NEXT_ICMP || packet->protocol == NEXT_ICMPV6) {
		if (packet->size <= packet->offset)
			return 0;
		kind = byte_at(skb, packet, packet->offset);
		if (packet->protocol == NEXT_ICMP)
			return kind == 3 || kind == 4 || kind == 11 || kind == 12;
		return (kind >= 1 && kind <= 4) || (kind >= 133 && kind <= 137);
	}
	return packet->protocol == NEXT_OSPF;
}

/* -- is it paid ---------------------------------------------------------------------------------------------------- */

/* GrantGate._fill: tokens stay at most `burst`, which is at most 9e18, as is what they are already. */
static __always_inline void fill(struct grant_state *state, __u64 rate, __u64 burst, __u64 now_ns)
{
	__u64 elapsed = now_ns - state->last_ns, tokens = state->tokens;

	if (now_ns <= state->last_ns)
		return;
	state->last_ns = now_ns;
	if (!(elapsed >> 32) && !(rate >> 31)) { /* their product fits 63 bits, and the tokens do too */
		tokens += elapsed * rate;
		state->tokens = tokens < burst ? tokens : burst;
	} else if (rate && tokens < burst && elapsed <= (burst - tokens) / rate) {
		state->tokens = tokens + elapsed * rate;
	} else if (rate) {
		state->tokens = burst;
	}
}

/* GrantGate.replace, at the first occasion after the reader wrote another version. */
static __always_inline void take_version(struct grant_state *state, const struct grant_terms *grant)
{
	if (state->version == grant->version)
		return;
	if (grant->old_rate_nanodollars_per_s == GATEWAY_REPLACES_NOTHING) {
		state->tokens = grant->old_burst;
		state->last_ns = grant->since_ns;
	} else {
		fill(state, grant->old_rate_nanodollars_per_s, grant->old_burst, grant->since_ns);
	}
	if (state->tokens > grant->burst)
		state->tokens = grant->burst;
	state->version = grant->version;
}

/* GrantGate.admit, and what was spent. One at a time: the cap is exact however many packets there are at once. */
static __always_inline int admit(__u32 index, const struct grant_terms *grant, __u64 total, __u64 now_ns)
{
	struct grant_state *state = bpf_map_lookup_elem(&grant_states, &index);
	__u32 spent_index = grant->spent;
	__u64 *spent = bpf_map_lookup_elem(&counters, &spent_index);
	int admitted = 0;

	if (!state || !spent)
		return 0;
	bpf_spin_lock(&state->lock);
	take_version(state, grant);
	if (*spent + total <= grant->cap_nanodollars) {
		fill(state, grant->rate_nanodollars_per_s, grant->burst, now_ns);
		if (total <= BURST_MAX && total * NS_PER_S <= state->tokens) { /* at most 9e18 */
			state->tokens -= total * NS_PER_S;
			*spent += total;
			admitted = 1;
		}
	}
	bpf_spin_unlock(&state->lock);
	return admitted;
}

/* Grants.take_from. A total: 24 bits of amount, less than 2^19 segments. */
__noinline int take_from(struct way *way, __u32 index, __u32 amount)
{
	struct grant_terms *grant = bpf_map_lookup_elem(&grants, &index);
	struct link_terms *ingress;
	int reason = PAID;
	__u64 total;
	__u32 link;
	__s64 room;

	if (!way || !grant)
		return UNPAID_NO_GRANT;
	link = way->ingress_link;
	ingress = bpf_map_lookup_elem(&terms, &link);
	if (!ingress)
		return UNPAID_NO_GRANT;
	total = (__u64)amount * way->segments.packets;
	if (ingress->role == ROLE_MIRROR) {
		room = value_of(ingress->counters[SENT_NANODOLLARS]) -
		       value_of(ingress->counters[RECEIVED_NANODOLLARS]);
		if (room < 0 || total > (__u64)room)
			reason = UNPAID_OVER_MIRROR;
	}
	if (reason == PAID && !grant->valid)
		reason = UNPAID_GRANT_NOT_VALID;
	if (reason == PAID && !admit(index, grant, total, now_of(way)))
		reason = UNPAID_OVER_CAP;
	add(reason == PAID ? grant->packets : grant->refused, way->segments.packets);
	return reason;
}

static __always_inline int place_of(struct __sk_buff *skb, const struct way *way, __u32 ports, struct place *place)
{
	__u8 *ip = IP(skb, &way->packet);

	if (way->packet.version == 4) {
		if (ip + IPV4_BYTES > DATA_END(skb))
			return 0;
		WORD32(place->source) = WORD32(ip + 12);
		WORD32(place->destination) = WORD32(ip + 16);
	} else {
		if (ip + IPV6_BYTES > DATA_END(skb))
			return 0;
		__builtin_memcpy(place->source, ip + 8, 16);
		__builtin_memcpy(place->destination, ip + 24, 16);
	}
	__builtin_memcpy(&place->source_port, &ports, sizeof(ports));
	place->protocol = way->packet.protocol;
	place->family = way->packet.version;
	place->link = way->ingress_link;
	place->exact = 1;
	return 1;
}

/* The same place for all flows from its source. */
static __always_inline void widen(struct place *place)
{
	__builtin_memset(place->destination, 0, sizeof(place->destination));
	place->source_port = 0;
	place->destination_port = 0;
	place->protocol = 0;
	place->exact = 0;
}

/* billpay.mac.matching_epoch */
static __always_inline int made_by(const struct grant_terms *grant, struct mac_input *input, __u32 epoch, __u64 mac)
{
	for (__u32 i = 0; i < 3; i++) {
		set_epoch(input, i == 0 ? epoch : i == 1 ? epoch - 1 : epoch + 1);
		if (mac_of(input, grant->key[0], grant->key[1]) == mac)
			return 1;
	}
	return 0;
}

/* The grant whose key made the header's MAC, exact places first: its number, or why there is none. `first`: the one to
 * whom a wrong MAC is told. */
__noinline int find_grant(struct __sk_buff *skb, struct way *way, __u32 *first)
{
	struct settings *now = settings_now();
	struct place place = {};
	struct mac_input input;
	struct place_grants *found;
	struct grant_terms *grant;
	__u32 index, ports;
	int outcome = NO_GRANT;

	if (!way || !first || !now || !way->packet.is_whole)
		return NO_GRANT;
	ports = ports_of(skb, &way->packet);
	if (!place_of(skb, way, ports, &place) || !set_mac_addresses(skb, &way->packet, &input))
		return NO_GRANT;
	set_mac_words(&input, way->packet.protocol, ports, &way->words, way->bill.oad_count);
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < 2 * GATEWAY_GRANTS_PER_PLACE; i++) {
		if (i == GATEWAY_GRANTS_PER_PLACE)
			widen(&place);
		if (i % GATEWAY_GRANTS_PER_PLACE == 0)
			found = bpf_map_lookup_elem(&places, &place);
		if (!found || i % GATEWAY_GRANTS_PER_PLACE >= found->count)
			continue;
		index = found->grants[i % GATEWAY_GRANTS_PER_PLACE];
		grant = bpf_map_lookup_elem(&grants, &index);
		if (!grant)
			continue;
		if (made_by(grant, &input, now->epoch, way->words.mac))
			return index;
		if (outcome == NO_GRANT)
			*first = index;
		outcome = BAD_MAC;
	}
	return outcome;
}

/* Grants.implying: what pays for the packets of this flow without a header: the grant's number, or NO_GRANT. */
__noinline int find_implying(struct __sk_buff *skb, struct way *way)
{
	struct place place = {};
	struct place_grants *found;
	struct grant_terms *grant;
	__u32 index;

	if (!way || !way->packet.is_whole || !place_of(skb, way, ports_of(skb, &way->packet), &place))
		return NO_GRANT;
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < 2 * GATEWAY_GRANTS_PER_PLACE; i++) {
		if (i == GATEWAY_GRANTS_PER_PLACE)
			widen(&place);
		if (i % GATEWAY_GRANTS_PER_PLACE == 0)
			found = bpf_map_lookup_elem(&places, &place);
		if (!found || i % GATEWAY_GRANTS_PER_PLACE >= found->count)
			continue;
		index = found->grants[i % GATEWAY_GRANTS_PER_PLACE];
		grant = bpf_map_lookup_elem(&grants, &index);
		if (grant && grant->implied_nanodollars)
			return index;
	}
	return NO_GRANT;
}

/* Grants.take */
static __always_inline int take(struct __sk_buff *skb, struct way *way, __u32 amount)
{
	__u32 first = 0;
	int index = find_grant(skb, way, &first);
	struct grant_terms *grant;

	if (index >= 0)
		return take_from(way, index, amount);
	if (index == NO_GRANT)
		return UNPAID_NO_GRANT;
	grant = bpf_map_lookup_elem(&grants, &first);
	if (grant)
		add(grant->refused, way->segments.packets);
	return UNPAID_BAD_MAC;
}

static __always_inline int why_never(const struct link_terms *ingress)
{
	if (ingress->in_default)
		return UNPAID_IN_DEFAULT;
	return ingress->role == ROLE_NEVER ? UNPAID_NEVER_PAYS : PAID;
}

static __always_inline int why_unpaid(struct __sk_buff *skb, struct way *way, const struct link_terms *ingress,
				      __u32 amount)
{
	__u64 expected = LITTLE16(bpf_htons(ingress->peer_as));

	int reason;

	if (ingress->peer != PEER_HOST && !ingress->in_default)
		return ingress->names_itself && way->words.mac == expected ? PAID : UNPAID_NOT_BY_NEIGHBOUR;
	reason = why_never(ingress);
	return reason == PAID ? take(skb, way, amount) : reason;
}

static __always_inline void count_refused(struct way *way, const struct link_terms *ingress, __u32 reason,
					  __u32 offered)
{
	count_reason(reason, way->segments.packets);
	if (reason == UNPAID_NEVER_PAYS || reason == UNPAID_OVER_MIRROR) {
		add(ingress->counters[ROLE_REFUSED_NANODOLLARS], (__u64)offered * way->segments.packets);
		add(ingress->counters[ROLE_REFUSED_PACKETS], way->segments.packets);
	}
	alarm(way, reason);
}

/* -- what it costs ------------------------------------------------------------------------------------------------- */

/* billpay.tolls.must_drop: whether floor(draw * toll / 2^32) < shortfall; the toll is below 2^63, so its upper half by
 * the draw is as well. */
static __always_inline int must_drop(__u64 toll, __u64 offered_picodollars)
{
	struct settings *settings = settings_now();
	__u64 draw;

	if (!settings || toll <= offered_picodollars)
		return 0;
	draw = DRAW(settings, GATEWAY_DRAWS);
	return draw * (toll >> 32) + (draw * (toll & 0xffffffff) >> 32) < toll - offered_picodollars;
}

static __always_inline void count_arrived(const struct way *way, const struct link_terms *egress)
{
	__u32 link = way->egress_link;
	struct link_state *state;

	if (!egress->rate_bytes_per_s) /* nobody asks */
		return;
	state = bpf_map_lookup_elem(&states, &link);
	if (state)
		__sync_fetch_and_add(&state->arrived_bytes, (__u64)way->segments.wire_bytes +
				     (__u64)way->segments.packets * egress->overhead_bytes);
}

/* A price that nobody stands behind any more is none. */
static __always_inline __u64 congestion_of(struct way *way, const struct link_terms *egress)
{
	__u32 link = way->egress_link;
	struct price *price;

	if (!egress->has_congestion)
		return 0;
	price = bpf_map_lookup_elem(&prices, &link);
	if (!price || !price->congestion_picodollars || now_of(way) >= price->until_ns)
		return 0;
	return price->congestion_picodollars;
}

/* EgressToll.retain. Available: 24 bits of amount, 10 of the unit and 19 of segments; the toll is cut to that. */
static __always_inline __u32 retain(const struct way *way, const struct link_terms *egress, __u64 toll, __u32 amount)
{
	__u32 link = way->egress_link, carry_index = egress->counters[CARRY_PICODOLLARS];
	struct link_state *state = bpf_map_lookup_elem(&states, &link);
	__u64 *carry = bpf_map_lookup_elem(&counters, &carry_index);
	__u64 unit = PICO * way->segments.packets, taken = unit * amount, kept;

	if (!state || !carry || !unit)
		return 0;
	if (taken > toll)
		taken = toll;
	bpf_spin_lock(&state->lock);
	taken += *carry;
	kept = taken / unit;
	if (kept > amount)
		kept = amount;
	*carry = taken - kept * unit;
	bpf_spin_unlock(&state->lock);
	return kept;
}

/* What we retain of each segment, or DROPPED. The reader lets the parts of a toll be at most 2^42 for a packet and 2^35
 * for a byte (a packet holds 2^34), and a cap 2^43; there are less than 2^19 segments and 2^26 bytes: it all fits. */
__noinline int charge(struct way *way, __u32 amount, int may_drop)
{
	__u64 count, congestion, toll, cap;
	struct link_terms *egress;
	__u32 link, kept;

	if (!amount || !way)
		return 0;
	link = way->egress_link;
	egress = bpf_map_lookup_elem(&terms, &link);
	if (!egress)
		return 0;
	count = way->segments.packets;
	congestion = congestion_of(way, egress);
	cap = egress->cap_picodollars;
	if (cap != GATEWAY_NO_CAP)
		cap *= count;
	toll = egress->fixed_picodollars + congestion;
	if (egress->proportional_ppm)
		toll += (__u64)amount * PICO * egress->proportional_ppm / PPM; /* 24 + 10 + 20 bits */
	toll = toll * count + egress->per_byte_picodollars * way->segments.wire_bytes;
	if (congestion) {
		if (toll > cap)
			add(egress->counters[CAP_CUT_PICODOLLARS], toll - cap);
		if (may_drop && must_drop(toll < cap ? toll : cap, amount * PICO * count)) {
			count_arrived(way, egress);
			add(egress->counters[KEPT_NANODOLLARS], amount * count);
			add(egress->counters[KEPT_PACKETS], count);
			add(egress->counters[DROPPED_PACKETS], count);
			return DROPPED;
		}
	}
	kept = retain(way, egress, toll < cap ? toll : cap, amount);
	add(egress->counters[RETAINED_NANODOLLARS], kept * count);
	return kept;
}

/* billpay.tolls.class_of */
static __always_inline __u32 class_of(__u32 retained)
{
	__u32 bits = 1, value = 1 + retained;

#pragma unroll
	for (__u32 i = 1; i < CLASS_PAID_HIGHEST; i++)
		bits += (value >> i) != 0;
	return bits;
}

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

/* billpay.marking.VirtualQueue: whether this arrival is marked. Rates are at most 1.8e10 bytes a second, so that what
 * leaves in a second, in billionths, fits; after more than that the queue is empty, or rate and level are small. */
__noinline int overflows_virtually(__u32 link, __u32 size, __u64 now_ns)
{
	struct link_state *state = bpf_map_lookup_elem(&states, &link);
	struct link_terms *egress = bpf_map_lookup_elem(&terms, &link);
	__u64 elapsed, drained, scaled, level, rate;
	__u32 flag;

	if (!state || !egress)
		return 0;
	rate = egress->virtual_bytes_per_s;
	bpf_spin_lock(&state->lock);
	level = state->virtual_level_bytes;
	if (!state->virtual_last_ns) {
		state->virtual_last_ns = now_ns;
	} else if (now_ns > state->virtual_last_ns) {
		elapsed = now_ns - state->virtual_last_ns;
		state->virtual_last_ns = now_ns;
		if (elapsed > NS_PER_S && elapsed / NS_PER_S * rate >= level) {
			level = 0;
		} else {
			scaled = elapsed * rate + state->virtual_fraction;
			drained = scaled / NS_PER_S;
			state->virtual_fraction = scaled - drained * NS_PER_S;
			level = level > drained ? level - drained : 0;
		}
		if (!level)
			state->virtual_fraction = 0;
	}
	if (!level)
		state->flag = 0;
	level += size;
	if (level > egress->virtual_limit_bytes) {
		level -= size;
		state->flag = 1;
	}
	state->virtual_level_bytes = level;
	flag = state->flag;
	bpf_spin_unlock(&state->lock);
	return flag;
}

#ifdef HAS_QUEUES
/* A place in the link's queue, or none: what the packet carries stays with us then, who drop it. */
static __always_inline int is_admitted(struct __sk_buff *skb, struct way *way, const struct link_terms *egress,
				       __u32 left, __u32 class)
{
	__u32 count = way->segments.packets, bytes = way->segments.wire_bytes + count * egress->overhead_bytes;
	__u32 place = queue_admit(way->egress_link, class, bpf_get_hash_recalc(skb), bytes, now_of(way));

	if (place) {
		queue_tell(skb, place);
		return 1;
	}
	add(egress->counters[DROPPED_PACKETS], count);
	if (left) {
		add(egress->counters[KEPT_NANODOLLARS], (__u64)left * count);
		add(egress->counters[KEPT_PACKETS], count);
	}
	return 0;
}
#endif

/* GatewayCore._leave and _send. `left`: what each segment carries away. */
__noinline int leave(struct __sk_buff *skb, struct way *way, __u32 left, __u32 class)
{
	struct link_terms *egress;
	__u32 link, mark;

	if (!way)
		return TCX_NEXT;
	link = way->egress_link;
	egress = bpf_map_lookup_elem(&terms, &link);
	if (!egress)
		return TCX_NEXT;
	count_arrived(way, egress);
	if (egress->marking == MARKING_VIRTUAL_QUEUE &&
	    overflows_virtually(link, way->segments.wire_bytes, now_of(way)) && set_ce(skb, &way->packet))
		add(egress->counters[MARKED_PACKETS], way->segments.packets);
	if (way->alternative.index) {
		mark = ((__u32)way->alternative.index + 1) << OAD_MARK_SHIFT;
		skb->mark = (skb->mark & ~OAD_MARK_MASK) | (mark & OAD_MARK_MASK);
	}
#ifdef HAS_QUEUES
	if (egress->rate_bytes_per_s && !is_admitted(skb, way, egress, left, class))
		return TC_ACT_SHOT;
#endif
	if (left) {
		add(egress->counters[SENT_NANODOLLARS], (__u64)left * way->segments.packets);
		add(egress->counters[SENT_PACKETS], way->segments.packets);
	}
	return TCX_NEXT;
}

static __always_inline int pass_unpaid(struct __sk_buff *skb, struct way *way, const struct link_terms *egress)
{
	__u32 class = CLASS_UNPAID;

	add(egress->counters[UNPAID_PACKETS], way->segments.packets);
	if (way->has_header && !egress->agreed)
		take_out(skb, way);
	if (egress->rate_bytes_per_s && is_control(skb, &way->packet))
		class = CLASS_CONTROL;
	return leave(skb, way, 0, class);
}

static __always_inline int pass_paid(struct __sk_buff *skb, struct way *way, const struct link_terms *egress,
				     __u32 amount)
{
	int control = egress->rate_bytes_per_s && is_control(skb, &way->packet);
	int kept = charge(way, amount, !control);
	struct settings *settings = settings_now();
	__u32 left, class;

	if (kept == DROPPED || !settings)
		return TC_ACT_SHOT;
	left = amount - kept;
	class = control ? CLASS_CONTROL : amount ? class_of(kept) : CLASS_UNPAID;
	if (way->has_header && egress->agreed) {
		rewrite(skb, way, left, (bpf_ntohl(way->words.base) >> 4 & 15) + 1, settings->as_number);
	} else { /* nobody behind us could take it: what is left stays here, the packet goes on as an ordinary one */
		if (way->has_header)
			take_out(skb, way);
		add(egress->counters[KEPT_NANODOLLARS], (__u64)left * way->segments.packets);
		left = 0;
	}
	return leave(skb, way, left, class);
}

/* -- the whole way ------------------------------------------------------------------------------------------------- */

static __always_inline void count_received(struct way *way, const struct link_terms *ingress, __u32 amount)
{
	add(ingress->counters[RECEIVED_NANODOLLARS], (__u64)amount * way->segments.packets);
	add(ingress->counters[RECEIVED_PACKETS], way->segments.packets);
}

/* A packet without a header of a host whose grants say what such packets pay. */
static __always_inline int on_bare(struct __sk_buff *skb, struct way *way, const struct link_terms *ingress,
				   const struct link_terms *egress)
{
	__u32 index = find_implying(skb, way), amount;
	struct grant_terms *grant = bpf_map_lookup_elem(&grants, &index);
	int reason;

	if (!grant) /* NO_GRANT is no number of one */
		return pass_unpaid(skb, way, egress);
	amount = grant->implied_nanodollars;
	reason = why_never(ingress);
	if (reason == PAID)
		reason = take_from(way, index, amount);
	if (reason != PAID) {
		count_refused(way, ingress, reason, amount);
		return pass_unpaid(skb, way, egress);
	}
	count_received(way, ingress, amount);
	return pass_paid(skb, way, egress, amount);
}

static __always_inline int on_header(struct __sk_buff *skb, struct way *way, const struct link_terms *ingress,
				     const struct link_terms *egress)
{
	__u32 base = bpf_ntohl(way->words.base), offered = base >> 8, amount = offered;
	int reason;

	if (amount > ingress->packet_ceiling)
		amount = ingress->packet_ceiling;
	reason = why_unpaid(skb, way, ingress, amount);
	if (reason != PAID) {
		count_refused(way, ingress, reason, offered);
		rewrite(skb, way, offered, base >> 4 & 15, NO_ONE);
		return pass_unpaid(skb, way, egress);
	}
	if (amount < offered) {
		add(ingress->counters[CUT_NANODOLLARS], (__u64)(offered - amount) * way->segments.packets);
		add(ingress->counters[CUT_PACKETS], way->segments.packets);
		alarm(way, OVER_CEILING);
	}
	if (amount)
		count_received(way, ingress, amount);
	return pass_paid(skb, way, egress, amount);
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
	__u32 interface = skb->ifindex, link;
	__u32 *number = bpf_map_lookup_elem(&link_numbers, &interface);
	struct link_terms *ingress, *egress;
	struct settings *settings = settings_now();
	struct way way = {};
	struct route *route;
	int found;

	if (!number || !settings)
		return TCX_NEXT;
	way.ingress_link = link = *number;
	ingress = bpf_map_lookup_elem(&terms, &link);
	if (!ingress)
		return TCX_NEXT;
#ifdef HAS_QUEUES
	queue_forget(skb);
#endif
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
		return on_header(skb, &way, ingress, egress);
	if (found == NO_HEADER && settings->imply && ingress->peer == PEER_HOST)
		return on_bare(skb, &way, ingress, egress);
	if (found != NO_HEADER)
		count_reason(found, way.segments.packets);
	return pass_unpaid(skb, &way, egress);
}

#ifdef HAS_QUEUES
SEC("tc")
int gateway_leave(struct __sk_buff *skb)
{
	__u32 interface = skb->ifindex, link;
	__u32 *number = bpf_map_lookup_elem(&link_numbers, &interface);
	struct settings *settings = settings_now();
	struct link_terms *egress;

	if (!number || !settings)
		return TCX_NEXT;
	link = *number;
	egress = bpf_map_lookup_elem(&terms, &link);
	return egress ? queue_leave(skb, link, egress, NOW_NS(settings)) : TCX_NEXT;
}
#endif

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
