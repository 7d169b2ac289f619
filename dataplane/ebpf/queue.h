/* The queue of a gateway's link whose rate is limited: who is let in before anything of it is counted as sent.
 *
 * Who goes next is the kernel's business: an HTB at the root of the link (gateway/kernel_queue.py), strict by service
 * class, in turns by flow within one. But what a qdisc drops we have counted as sent: so we must refuse before, and
 * need to know what waits without asking the qdisc, which no program can. Its queue is kept here as a fluid, which
 * drains at the link's rate: level c is what waits of class c and above, since only that is served before a packet of
 * class c. What the fluid does not know (a timer that came late, a packet that was lost on its way to the queue) the
 * reader process says now and then: a correction.
 *
 * Within a class, a flow that has more waiting than others is refused first: a flow leaf may hold eight times what is
 * free (Choudhury and Hahne 1998, dynamic thresholds), so that however greedy a flow is, there is room for the next.
 * Whose packets were served the fluid shares out among the leaves that have some, as the turns of the kernel do.
 *
 * Class and leaf travel from the ingress to the egress in skb->tc_index: forwarding keeps it (and overwrites
 * skb->priority), nothing else in the kernel uses it, and no firewall knows it, as it does the mark.
 */
#pragma once
#include <linux/bpf.h>
#include <linux/types.h>
#include <bpf/bpf_helpers.h>
#include "gateway.h"

#define QUEUE_CLASSES 9 /* 0 unpaid, 1..7 paid, 8 control */
#define QUEUE_CONTROL 8
#define QUEUE_LEAVES 16
#define QUEUE_FLOWS 1024
#define QUEUE_SHARE 20	       /* of 20 bytes that leave, one is the lowest class's, if it has some */
#define QUEUE_FULL_FRAME 1528
#define QUEUE_GREED 8	       /* times what is free: what one leaf may hold */
#define QUEUE_ROUNDS 3
#define QUEUE_AT_ONCE 500      /* of a second: 2 ms of the link are not yet a queue */
#define QUEUE_FLOW_SILENT_MS 2000
#define QUEUE_S_NS 1000000000ULL

/* What no two kinds of class identifiers share: 0x74, class, leaf; and in the qdisc 0x7414:0x10 + class * 16 + leaf. */
#define QUEUE_PLACE 0x7400
#define QUEUE_PLACE_MASK 0xff00
#define QUEUE_HANDLE 0x74140000
#define QUEUE_LEAF_MINOR 0x10
#define QUEUE_OTHER_MINOR 0x2 /* what no gateway program saw arrive: this machine's own packets */

/* What is written by packets is written under the lock of the link's state, as its virtual queue is. */
struct link_queue {
	__u32 next_leaf;
	__u32 unused;
	__u64 last_ns;	/* 0: never */
	__u64 fraction; /* of a byte, in billionths */
	__u64 level_bytes[QUEUE_CLASSES]; /* what waits of this class and those above */
	__u64 share;	/* what the lowest class may claim, in twentieths of a byte */
	__s64 corrected_bytes; /* of the corrections, how much is in the levels */
	__u64 leaves_bytes[QUEUE_CONTROL]; /* the sum of a class's leaves, with what was served and not shared out yet */
	__u32 leaf_bytes[QUEUE_CONTROL][QUEUE_LEAVES];
	__u32 flows[QUEUE_FLOWS]; /* leaf, and when a packet of it came, in units of 2^20 ns times 16 */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, GATEWAY_LINKS_MAX);
	__type(key, __u32);
	__type(value, struct link_queue);
} queues SEC(".maps");

/* The reader's: how much more waits than the fluid says, the sum of all that was ever found. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, GATEWAY_LINKS_MAX);
	__type(key, __u32);
	__type(value, __s64);
} queue_corrections SEC(".maps");

/* All bits set if the number is negative, else none, and no branch: in loops, the verifier would follow both ways of
 * each until it gives up. The compiler must not see what the number is, or it makes a branch of it again. */
static __always_inline __u64 queue_if_negative(__s64 number)
{
	asm volatile("" : "+r"(number));
	return number >> 63;
}

/* For numbers below 2^63, as all of these. */
static __always_inline __u64 queue_less(__u64 bytes, __u64 by)
{
	return (bytes - by) & ~queue_if_negative(bytes - by);
}

static __always_inline __u64 queue_min(__u64 one, __u64 other)
{
	return other + ((one - other) & queue_if_negative(one - other));
}

/* What left since the last time, in whole bytes; the rest of a byte is kept. Exact up to 147 Gbit/s. */
static __always_inline __u64 queue_served(struct link_queue *queue, __u64 rate_bytes_per_s, __u64 now)
{
	__u64 elapsed, seconds = 0, scaled, bytes;

	if (queue->last_ns == 0 || now <= queue->last_ns) {
		if (queue->last_ns == 0)
			queue->last_ns = now;
		return 0; /* another CPU was a little later */
	}
	elapsed = now - queue->last_ns;
	queue->last_ns = now;
	if (elapsed >= QUEUE_S_NS) {
		seconds = elapsed / QUEUE_S_NS;
		elapsed -= seconds * QUEUE_S_NS;
		if (seconds > 1000)
			seconds = 1000;
	}
	scaled = elapsed * rate_bytes_per_s + queue->fraction;
	bytes = scaled / QUEUE_S_NS;
	queue->fraction = scaled - bytes * QUEUE_S_NS;
	return bytes + seconds * rate_bytes_per_s;
}

/* Strict priority, but the lowest class has its share of what leaves while it waits; idle, it saves nothing up. */
static __always_inline void queue_drain(struct link_queue *queue, __u64 rate_bytes_per_s, __u64 now)
{
	__u64 served = queue_served(queue, rate_bytes_per_s, now), lowest, claimed = 0;
	int i;

	if (served == 0)
		return;
	lowest = queue->level_bytes[0] - queue->level_bytes[1];
	if (lowest) {
		queue->share += served;
		claimed = queue->share / QUEUE_SHARE;
		if (claimed >= lowest) {
			claimed = lowest;
			queue->share = 0;
		} else {
			queue->share -= claimed * QUEUE_SHARE;
		}
	} else {
		queue->share = 0;
	}
	queue->level_bytes[0] = queue_less(queue->level_bytes[0], served);
	if (claimed > served)
		claimed = served;
#pragma unroll
	for (i = 1; i < QUEUE_CLASSES; i++)
		queue->level_bytes[i] = queue_less(queue->level_bytes[i], served - claimed);
}

/* Where nothing waits there is nothing to correct: it is the lower classes who bear what the link did not send. */
static __always_inline void queue_correct(struct link_queue *queue, __s64 correction)
{
	__s64 by = correction - queue->corrected_bytes;
	int i;

	if (by == 0)
		return;
	queue->corrected_bytes = correction;
#pragma unroll
	for (i = 0; i < QUEUE_CLASSES; i++) {
		queue->level_bytes[i] = queue_less(queue->level_bytes[i] + by, 0) &
					queue_if_negative(-queue->level_bytes[i]);
	}
}

/* Takes what the class's leaves were served since the last time from those that have something, alike from each. Not
 * for each packet, but whenever it is a 32nd of the queue's limit. */
static __always_inline void queue_share_out(struct link_queue *queue, __u32 class, __u64 waiting, __u64 limit_bytes)
{
	__u64 sum = queue->leaves_bytes[class], due = queue_less(sum, waiting), have, part, leaf, taken;
	int round, i;

	if (due == 0 || (waiting && due <= limit_bytes >> 5))
		return;
	if (!waiting) { /* the usual packet of a link that is not full */
		__builtin_memset(queue->leaf_bytes[class], 0, sizeof(queue->leaf_bytes[class]));
		queue->leaves_bytes[class] = 0;
		return;
	}
#pragma clang loop unroll(disable)
	for (round = 0; round < QUEUE_ROUNDS; round++) {
		have = 0;
#pragma clang loop unroll(disable)
		for (i = 0; i < QUEUE_LEAVES; i++)
			have += queue_if_negative(-(__s64)queue->leaf_bytes[class][i]) & 1;
		part = due / (have + (have == 0));
#pragma clang loop unroll(disable)
		for (i = 0; i < QUEUE_LEAVES; i++) {
			leaf = queue->leaf_bytes[class][i];
			taken = queue_min(leaf, part);
			queue->leaf_bytes[class][i] = leaf - taken;
			due -= taken;
			sum -= taken;
		}
	}
	queue->leaves_bytes[class] = sum;
}

/* Flows have leaves of their own as long as there are enough: a new one gets the emptiest, and keeps it while it sends.
 */
static __always_inline __u32 queue_leaf_of(struct link_queue *queue, __u32 class, __u32 hash, __u64 now)
{
	__u32 *flow = &queue->flows[hash & (QUEUE_FLOWS - 1)], clock = now >> 20, leaf, i;
	__u64 best = ~0ULL >> 1;

	if (*flow == 0 || ((clock - (*flow >> 4)) & 0xfffffff) > QUEUE_FLOW_SILENT_MS) {
#pragma clang loop unroll(disable)
		for (i = 0; i < QUEUE_LEAVES; i++) { /* the first of equals, in turns */
			leaf = (queue->next_leaf + i) & (QUEUE_LEAVES - 1);
			best = queue_min(best, (__u64)queue->leaf_bytes[class][leaf] << 4 | i);
		}
		leaf = (queue->next_leaf + best) & (QUEUE_LEAVES - 1);
		queue->next_leaf = leaf + 1;
		*flow = leaf;
	}
	leaf = *(volatile __u32 *)flow & (QUEUE_LEAVES - 1);
	*flow = clock << 4 | leaf;
	return leaf;
}

static __always_inline void queue_add(struct link_queue *queue, __u32 class, __u32 bytes)
{
	int i;

#pragma unroll
	for (i = 0; i < QUEUE_CLASSES; i++)
		queue->level_bytes[i] += bytes & queue_if_negative((__s64)i - class - 1);
}

/* The class's level, and the next one's. */
static __always_inline __u64 queue_level(const struct link_queue *queue, __u32 class, __u64 *above)
{
	if (class >= QUEUE_CONTROL) {
		*above = 0;
		return queue->level_bytes[QUEUE_CONTROL];
	}
	*above = queue->level_bytes[class + 1];
	return queue->level_bytes[class];
}

/* Whether `bytes` of a class that is not control may wait, where so much waits of the class and those above. */
static __always_inline int queue_has_room(const struct link_terms *terms, __u32 class, __u64 level, __u64 own,
					  __u64 in_leaf, __u32 bytes)
{
	__u64 limit = terms->limit_bytes, least;

	if (level <= terms->rate_bytes_per_s / QUEUE_AT_ONCE)
		return 1; /* however long it is */
	if (level + bytes <= limit && (terms->queueing == QUEUE_FIFO || in_leaf + bytes <= QUEUE_GREED * (limit - level)))
		return 1;
	if (class != 0 || terms->queueing == QUEUE_FIFO)
		return 0;
	/* What is served whatever the others send may also wait whatever of theirs waits. */
	least = limit / QUEUE_SHARE;
	if (least < 2 * QUEUE_FULL_FRAME)
		least = 2 * QUEUE_FULL_FRAME;
	return own + bytes <= least;
}

/* A packet that comes to a link with a queue, and what becomes of it. */
struct queue_entry {
	__u64 now_ns;
	__u32 link;
	__u32 class;
	__u32 hash; /* of its flow */
	__u32 packet_bytes; /* of all segments, what the virtual queue counts */
	__u32 frame_bytes;  /* and on the wire, what the queue holds */
	__u32 is_marked;    /* the virtual queue overflowed */
	__u32 place;	    /* in the queue, for `queue_tell`; 0: there is none, it is dropped */
};

/* billpay.marking.VirtualQueue: whether this arrival is marked. Rates are at most 1.8e10 bytes a second, so that what
 * leaves in a second, in billionths, fits; after more than that the queue is empty, or rate and level are small. */
static __always_inline __u32 queue_overflows_virtually(struct link_state *state, const struct link_terms *of_link,
						       __u32 bytes, __u64 now)
{
	__u64 level = state->virtual_level_bytes, rate = of_link->virtual_bytes_per_s, elapsed, drained, scaled;

	if (!state->virtual_last_ns) {
		state->virtual_last_ns = now;
	} else if (now > state->virtual_last_ns) {
		elapsed = now - state->virtual_last_ns;
		state->virtual_last_ns = now;
		if (elapsed > QUEUE_S_NS && elapsed / QUEUE_S_NS * rate >= level) {
			level = 0;
		} else {
			scaled = elapsed * rate + state->virtual_fraction;
			drained = scaled / QUEUE_S_NS;
			state->virtual_fraction = scaled - drained * QUEUE_S_NS;
			level = level > drained ? level - drained : 0;
		}
		if (!level)
			state->virtual_fraction = 0;
	}
	if (!level)
		state->flag = 0;
	level += bytes;
	if (level > of_link->virtual_limit_bytes) {
		level -= bytes;
		state->flag = 1;
	}
	state->virtual_level_bytes = level;
	return state->flag;
}

/* A place in the queue for the packet, or none; and whether it is marked. All that a link with a queue knows changes
 * here at once, under one lock: the caller has none. A function of its own, which is verified once and not for each way
 * that leads to it; its stack is a part of the caller's 512 bytes. */
__attribute__((noinline)) int queue_admit(struct queue_entry *entry)
{
	__u32 link, class, bytes, hash, packet_bytes, leaf = 0, admitted = 1, is_marked = 0;
	const struct link_terms *of_link;
	struct link_state *state;
	struct link_queue *queue;
	__u64 level, above, own, now;
	__s64 *correction, by;

	if (!entry)
		return 0;
	link = entry->link;
	of_link = bpf_map_lookup_elem(&terms, &link);
	state = bpf_map_lookup_elem(&states, &link);
	queue = bpf_map_lookup_elem(&queues, &link);
	correction = bpf_map_lookup_elem(&queue_corrections, &link);
	if (!of_link || !state || !queue || !correction)
		return 0;
	class = entry->class;
	if (of_link->queueing == QUEUE_FIFO)
		class = 0;
	else if (class > QUEUE_CONTROL)
		class = QUEUE_CONTROL;
	bytes = entry->frame_bytes;
	packet_bytes = entry->packet_bytes;
	hash = entry->hash;
	now = entry->now_ns;
	by = *(volatile __s64 *)correction;
	bpf_spin_lock(&state->lock);
	if (of_link->marking == MARKING_VIRTUAL_QUEUE)
		is_marked = queue_overflows_virtually(state, of_link, packet_bytes, now);
	queue_drain(queue, of_link->rate_bytes_per_s, now);
	queue_correct(queue, by);
	if (class < QUEUE_CONTROL) {
		level = queue_level(queue, class, &above);
		own = queue_less(level, above);
		if (of_link->queueing != QUEUE_FIFO) {
			queue_share_out(queue, class, own, of_link->limit_bytes);
			leaf = queue_leaf_of(queue, class, hash, now);
		}
		admitted = queue_has_room(of_link, class, level, own, queue->leaf_bytes[class][leaf], bytes);
		if (admitted) {
			queue->leaf_bytes[class][leaf] += bytes;
			queue->leaves_bytes[class] += bytes;
		}
	}
	if (admitted)
		queue_add(queue, class, bytes);
	bpf_spin_unlock(&state->lock);
	entry->is_marked = is_marked;
	entry->place = admitted ? QUEUE_PLACE | class << 4 | leaf : 0;
	return 0;
}

/* Nothing of a former gateway's may be believed. */
static __always_inline void queue_forget(struct __sk_buff *skb)
{
	skb->tc_index = 0;
}

static __always_inline void queue_tell(struct __sk_buff *skb, __u32 place)
{
	skb->tc_index = place;
}

/* At the egress: the class of the HTB, if a program of ours let the packet in. */
static __always_inline int queue_is_told(struct __sk_buff *skb)
{
	__u32 place = skb->tc_index;

	skb->tc_index = 0;
	if ((place & QUEUE_PLACE_MASK) != QUEUE_PLACE)
		return 0;
	skb->priority = QUEUE_HANDLE | (QUEUE_LEAF_MINOR + (place & 0xff));
	return 1;
}

/* What no program of ours let in (this machine's own packets) goes first and takes its part of the link from the
 * others. */
static __always_inline int queue_count_other(struct __sk_buff *skb, __u32 link, const struct link_terms *of_link,
					     __u64 now)
{
	struct link_state *state = bpf_map_lookup_elem(&states, &link);
	struct link_queue *queue = bpf_map_lookup_elem(&queues, &link);
	__s64 *correction = bpf_map_lookup_elem(&queue_corrections, &link);
	__u32 bytes;
	__s64 by;

	skb->priority = QUEUE_HANDLE | QUEUE_OTHER_MINOR;
	if (!state || !queue || !correction || of_link->rate_bytes_per_s == 0)
		return -1;
	bytes = skb->wire_len - of_link->header_bytes + of_link->overhead_bytes;
	by = *(volatile __s64 *)correction;
	bpf_spin_lock(&state->lock);
	queue_drain(queue, of_link->rate_bytes_per_s, now);
	queue_correct(queue, by);
	queue_add(queue, of_link->queueing == QUEUE_FIFO ? 0 : QUEUE_CONTROL, bytes);
	bpf_spin_unlock(&state->lock);
	return -1;
}
