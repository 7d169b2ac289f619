/* Whether a packet is paid: its grant by flow or source, the MAC, the caps; or the neighbour's name (gateway/payments.py,
 * billpay/grants.py, billpay/mac.py). */
#pragma once
#include "gateway_maps.h"

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
static __always_inline int admit(__u32 index, const struct grant_terms *grant, __u64 total, __u32 count, __u64 now_ns)
{
	struct grant_state *state = bpf_map_lookup_elem(&grant_states, &index);
	__u32 spent_index = grant->spent, packets_index = grant->packets;
	__u64 *spent = bpf_map_lookup_elem(&counters, &spent_index);
	__u64 *packets = bpf_map_lookup_elem(&counters, &packets_index);
	int admitted = 0;

	if (!state || !spent || !packets)
		return 0;
	bpf_spin_lock(&state->lock);
	take_version(state, grant);
	if (*spent + total <= grant->cap_nanodollars) {
		fill(state, grant->rate_nanodollars_per_s, grant->burst, now_ns);
		if (total <= BURST_MAX && total * NS_PER_S <= state->tokens) { /* at most 9e18 */
			state->tokens -= total * NS_PER_S;
			*spent += total;
			*packets += count;
			admitted = 1;
		}
	}
	bpf_spin_unlock(&state->lock);
	return admitted;
}

/* Grants.take_from. A total: 24 bits of amount, less than 2^19 segments. */
static __always_inline int take_from(struct way *way, __u32 index, __u32 amount)
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
	if (reason == PAID && !admit(index, grant, total, way->segments.packets, now_of(way)))
		reason = UNPAID_OVER_CAP;
	if (reason != PAID)
		add(grant->refused, way->segments.packets);
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

static __always_inline int is_same(const struct place *one, const struct place *other)
{
	const __u32 *a = (const void *)one, *b = (const void *)other;
	__u32 differs = 0;

#pragma unroll
	for (__u32 i = 0; i < sizeof(*one) / 4; i++)
		differs |= a[i] ^ b[i];
	return !differs;
}

/* What is filed under the place, or NULL. `version`: read before. */
static __always_inline struct place_grants *grants_at(const struct place *place, __u32 version)
{
	const __u32 *source = (const void *)place->source;
	__u32 mixed = source[0] ^ source[1] ^ source[2] ^ source[3], slot;
	struct place_grants *found;
	struct near_place *near;

	mixed ^= (__u32)place->source_port << 16 | place->destination_port;
	slot = mixed * GOLDEN >> 32 & (NEAR_PLACES - 1);
	near = bpf_map_lookup_elem(&near_places, &slot);
	if (near && near->version == version && is_same(&near->place, place))
		return &near->grants;
	found = bpf_map_lookup_elem(&places, place);
	if (found && near) {
		near->place = *place;
		near->grants = *found;
		near->version = version;
	}
	return found;
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
	struct place_grants *found = NULL;
	struct link_places *where;
	struct grant_terms *grant;
	__u32 index, ports, link;
	int outcome = NO_GRANT;

	if (!way || !first || !now || !way->packet.is_whole)
		return NO_GRANT;
	link = way->ingress_link;
	where = bpf_map_lookup_elem(&link_places, &link);
	if (!where)
		return NO_GRANT;
	ports = ports_of(skb, &way->packet);
	if (!place_of(skb, way, ports, &place) || !set_mac_addresses(skb, &way->packet, &input))
		return NO_GRANT;
	set_mac_words(&input, way->packet.protocol, ports, &way->words, way->bill.oad_count);
#pragma clang loop unroll(disable)
	for (__u32 i = where->exact ? 0 : GATEWAY_GRANTS_PER_PLACE; i < 2 * GATEWAY_GRANTS_PER_PLACE; i++) {
		if (i == GATEWAY_GRANTS_PER_PLACE)
			widen(&place);
		if (i % GATEWAY_GRANTS_PER_PLACE == 0)
			found = grants_at(&place, where->version);
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
	struct place_grants *found = NULL;
	struct link_places *where;
	struct grant_terms *grant;
	__u32 index, link;

	if (!way || !way->packet.is_whole || !place_of(skb, way, ports_of(skb, &way->packet), &place))
		return NO_GRANT;
	link = way->ingress_link;
	where = bpf_map_lookup_elem(&link_places, &link);
	if (!where)
		return NO_GRANT;
#pragma clang loop unroll(disable)
	for (__u32 i = where->exact ? 0 : GATEWAY_GRANTS_PER_PLACE; i < 2 * GATEWAY_GRANTS_PER_PLACE; i++) {
		if (i == GATEWAY_GRANTS_PER_PLACE)
			widen(&place);
		if (i % GATEWAY_GRANTS_PER_PLACE == 0)
			found = grants_at(&place, where->version);
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
