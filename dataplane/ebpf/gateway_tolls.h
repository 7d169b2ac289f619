/* What a packet costs: the toll and what is retained of it to the picodollar, the drop rule, the class of service
 * (billpay/tolls.py). */
#pragma once
#include "gateway_maps.h"

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

/* EgressToll.retain. Available: 24 bits of amount, 10 of the unit and 19 of segments; the toll is cut to that. A lock
 * costs five times what the exchange does. Who finds the carry changed by others again and again leaves his part there,
 * and the next packet pays it. */
static __always_inline __u32 retain(const struct way *way, const struct link_terms *egress, __u64 toll, __u32 amount)
{
	__u32 carry_index = egress->counters[CARRY_PICODOLLARS];
	__u64 *carry = bpf_map_lookup_elem(&counters, &carry_index);
	__u64 unit = PICO * way->segments.packets, taken = unit * amount, kept, before, due;

	if (!carry || !unit)
		return 0;
	if (taken > toll)
		taken = toll;
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < CARRY_TRIES; i++) {
		before = *(volatile __u64 *)carry;
		due = taken + before;
		kept = due / unit;
		if (kept > amount)
			kept = amount;
		if (__sync_val_compare_and_swap(carry, before, due - kept * unit) == before)
			return kept;
	}
	kept = taken / unit;
	__sync_fetch_and_add(carry, taken - kept * unit);
	return kept;
}

/* What we retain of each segment, or DROPPED. The reader lets the parts of a toll be at most 2^42 for a packet and 2^35
 * for a byte (a packet holds 2^34), and a cap 2^43; there are less than 2^19 segments and 2^26 bytes: it all fits. */
static __always_inline int charge(struct way *way, const struct link_terms *egress, __u32 amount, int may_drop)
{
	__u64 count, congestion, toll, cap;
	__u32 kept;

	if (!amount)
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
