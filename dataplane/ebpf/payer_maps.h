/* The maps of the host's programs, and how flows are found, made and told of. */
#pragma once
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
	__uint(map_flags, BPF_F_MMAPABLE);
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
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PAYER_CHANGED_MAX);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct changed);
} changed SEC(".maps");

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

/* What another processor has not written yet, or overwritten already, its order gives away. */
static __noinline int note(const struct flow_key *key, const struct change *change)
{
	struct changed *entry;
	__u32 place;

	if (!key || !change)
		return 0;
	place = change->order % PAYER_CHANGED_MAX;
	entry = bpf_map_lookup_elem(&changed, &place);
	if (!entry)
		return 0;
	*(volatile __u64 *)&entry->order = 0;
	entry->flow = *key;
	entry->turn = change->turn;
	asm volatile("" ::: "memory");
	*(volatile __u64 *)&entry->order = change->order;
	return 0;
}
