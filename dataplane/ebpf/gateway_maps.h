/* The maps of the gateway's programs, a packet on its way through them, and what is read and counted all the time. */
#pragma once
#include "billpay.h"
#include "gateway.h"

#define NEAR_PLACES 1024

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

/* The programs' own: a guess at the link of an interface, which is right where the link's terms say so. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, GATEWAY_LINKS_MAX);
	__type(key, __u32);
	__type(value, __u32);
} near_links SEC(".maps");

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

/* The reader's, for each link, written behind `places`. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, GATEWAY_LINKS_MAX);
	__type(key, __u32);
	__type(value, struct link_places);
} link_places SEC(".maps");

/* The programs' own: what was found in `places` the last times, for each core, as long as that is the version. To find
 * something there takes longer than the MAC. */
struct near_place {
	struct place place;
	__u32 version; /* 0: nothing is here */
	struct place_grants grants;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, NEAR_PLACES);
	__type(key, __u32);
	__type(value, struct near_place);
} near_places SEC(".maps");

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

/* The programs' own: what flows are hashed with. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} flow_secret SEC(".maps");

#include "queue.h"

_Static_assert((int)SHARED == (int)MALFORMED_SHARED && (int)TRUNCATED == (int)MALFORMED_TRUNCATED,
	       "billpay.h and gateway.h name the same reasons");

#define GOLDEN 0x9e3779b97f4a7c15ull /* 2^64 divided by the golden ratio: it spreads what it multiplies */
#define CARRY_TRIES 32
#define PAID (-1) /* where a reason would be */
#define UNPAID (-1) /* where an amount would be */
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

/* The terms of the link with this interface, and its number; NULL: it is none of our links. */
static __always_inline struct link_terms *link_of(__u32 interface, __u32 *link)
{
	__u32 slot = interface % GATEWAY_LINKS_MAX, *near = bpf_map_lookup_elem(&near_links, &slot), *number;
	struct link_terms *found;

	if (!near)
		return NULL;
	*link = *near;
	found = bpf_map_lookup_elem(&terms, link);
	if (found && found->interface_index == interface)
		return found;
	number = bpf_map_lookup_elem(&link_numbers, &interface);
	if (!number)
		return NULL;
	*link = *near = *number;
	return bpf_map_lookup_elem(&terms, link);
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
