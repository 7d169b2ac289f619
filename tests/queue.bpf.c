/* A gateway that knows nothing but its queue: the upper half of TOS is a packet's service class, all goes to link 0.
 * And the queue alone, asked about packets that nobody sent at times that never were. For tests. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include "gateway.h"

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

struct refused { __u64 packets[16]; };
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct refused);
} refused SEC(".maps");

#include "queue.h"

char _license[] SEC("license") = "GPL";

struct question { __u32 class, hash, bytes, pad; __u64 now; };

/* In link 0's queue. */
static __always_inline __u32 place_of(__u32 class, __u32 hash, __u32 bytes, __u64 now)
{
	struct queue_entry entry = {
		.now_ns = now, .class = class, .hash = hash, .packet_bytes = bytes, .frame_bytes = bytes,
	};

	queue_admit(&entry);
	return entry.place;
}

/* Behind an Ethernet header: a question. */
SEC("tc")
int ask(struct __sk_buff *skb)
{
	struct question asked;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &asked, sizeof(asked)))
		return -2;
	return place_of(asked.class, asked.hash, asked.bytes, asked.now);
}

SEC("tc")
int arrive(struct __sk_buff *skb)
{
	struct link_terms *link;
	struct refused *count;
	__u32 zero = 0, place;
	__u8 tos;

	queue_forget(skb);
	link = bpf_map_lookup_elem(&terms, &zero);
	count = bpf_map_lookup_elem(&refused, &zero);
	if (!link || !count || skb->protocol != bpf_htons(ETH_P_IP) || bpf_skb_load_bytes(skb, ETH_HLEN + 1, &tos, 1))
		return -1;
	place = place_of(tos >> 4, bpf_get_hash_recalc(skb), skb->len - ETH_HLEN + link->overhead_bytes,
			 bpf_ktime_get_ns());
	if (!place) {
		__sync_fetch_and_add(&count->packets[(tos >> 4) & 15], 1);
		return 2;
	}
	queue_tell(skb, place);
	return -1;
}

SEC("tc")
int leave(struct __sk_buff *skb)
{
	__u32 zero = 0;
	struct link_terms *link = bpf_map_lookup_elem(&terms, &zero);

	return queue_is_told(skb) || !link ? -1 : queue_count_other(skb, 0, link, bpf_ktime_get_ns());
}
