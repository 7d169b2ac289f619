/* "price": congestion control by ECN marks and a weight. A socket of weight w behaves like w TCP connections in one.
 *
 * Decides: the window of each socket that uses it. Refuses to know: why a socket has its weight.
 * Source: MulTCP (Crowcroft and Oechslin 1998): w/window for each packet that is acknowledged, 1/(2w) of the window for
 * a mark; RFC 3168: one reduction for each window of data, which the kernel's CWR state gives us; RFC 5681 at weight 1.
 * Throughput is then w sqrt(2/p)/T for a share p of marked packets. Why so and not otherwise: docs/adr/0014.
 *
 * A loss halves the window whatever the weight, and where packets get lost the weight counts up to the window's root:
 * w connections in a window of w packets could only lose them.
 * No generated header: the structures below name only what is used, and libbpf finds it in the running kernel.
 */
#include <linux/bpf.h>
#include <linux/types.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

char license_text[] SEC("license") = "GPL"; /* struct_ops of TCP are for GPL programs only */

#define WEIGHT_MAX 1000
#define WINDOW_MIN 2
#define FRACTION_BITS 16
#define FRACTION_MASK ((1 << FRACTION_BITS) - 1)
#define LOSSY_MARKS 16
#define SOON_PACKETS_MIN 3 /* the first acknowledgement after a reduction covers so many */
#define DOUBLED_MAX 10     /* 2^10 times 1/(2 * WEIGHT_MAX) is more than half */

enum { TCP_CA_CWR = 2, TCP_CA_RECOVERY = 3, TCP_CA_LOSS = 4 };

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct sock;

struct inet_connection_sock {
	__u64 icsk_ca_priv[13];
};

struct tcp_sock {
	__u32 snd_cwnd;
	__u32 snd_cwnd_clamp;
	__u32 snd_ssthresh;
	__u32 prior_cwnd;
	__u32 lost_out;
	__u32 max_packets_out;
	__u8 is_cwnd_limited : 1;
};
#pragma clang attribute pop

struct tcp_congestion_ops {
	__u32 (*ssthresh)(struct sock *);
	void (*cong_avoid)(struct sock *, __u32, __u32);
	void (*set_state)(struct sock *, __u8);
	__u32 (*undo_cwnd)(struct sock *);
	char name[16];
	void (*init)(struct sock *);
};

/* By whoever decides on weights; 1 where there is none. An accepted connection has its listener's. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, __u32);
} socket_weights SEC(".maps");

/* In the socket, where the kernel keeps room for it. */
struct state {
	__u32 fraction; /* of a packet, in 1/65536, that the window has beyond snd_cwnd */
	__u32 cut_from; /* the window before a mark's reduction that is going on; 0: none is */
	__u32 heard;    /* packets acknowledged since the last reduction was over */
	__u32 lossy;    /* so many marks in a row without a loss are still to come before we trust marks alone */
	__u32 doubled;  /* marks in a row that came right after the one before */
};

static __always_inline struct state *state_of(struct tcp_sock *tp)
{
	return (struct state *)((struct inet_connection_sock *)tp)->icsk_ca_priv;
}

static __always_inline __u32 weight_of(struct tcp_sock *tp)
{
	__u32 *found = bpf_sk_storage_get(&socket_weights, tp, 0, 0);
	__u32 weight = found ? *found : 1;

	return weight < 1 ? 1 : weight > WEIGHT_MAX ? WEIGHT_MAX : weight;
}

static __always_inline __u32 at_least(__u32 value, __u32 least)
{
	return value < least ? least : value;
}

/* The greatest whole number that is neither more than `weight` nor than the root of `window`; 1 at least. */
static __always_inline __u32 at_most_root(__u32 weight, __u32 window)
{
	__u32 root = 0;

	if (weight * weight <= window)
		return weight;
	for (__u32 bit = 512; bit; bit >>= 1) /* up to WEIGHT_MAX */
		if ((root | bit) * (root | bit) <= window)
			root |= bit;
	return at_least(root, 1);
}

SEC("struct_ops/price_init")
void BPF_PROG(price_init, struct tcp_sock *tp)
{
	struct state *state = state_of(tp);

	state->fraction = 0;
	state->cut_from = 0;
	state->heard = 0;
	state->doubled = 0;
	state->lossy = 0;
}

/* A mark takes 1/(2w) of the window; twice as much as the last one did if it comes right after it; never more than half.
 *
 * Right after: within half of what one of the w connections would have under way. One chance mark follows another that
 * soon once in w/window times, but a queue that marks everything until it is empty shows itself so. The receiver tells
 * us of one mark in a window at most; without doubling, a heavy socket would take such a queue for a light mark.
 */
static __always_inline __u64 cut_for_mark(struct state *state, __u64 window, __u32 weight)
{
	__u32 soon = at_least((window >> FRACTION_BITS) / (2 * weight), SOON_PACKETS_MIN);
	__u64 cut;

	if (state->heard > soon)
		state->doubled = 0;
	else if (state->doubled < DOUBLED_MAX)
		state->doubled++;
	cut = (window << state->doubled) / (2 * weight);
	return cut < window / 2 ? cut : window / 2;
}

/* The window after a reduction. It was a loss if packets are known to be lost, else a mark (or our own full queue). */
SEC("struct_ops/price_ssthresh")
__u32 BPF_PROG(price_ssthresh, struct tcp_sock *tp)
{
	struct state *state = state_of(tp);
	__u64 window = ((__u64)tp->snd_cwnd << FRACTION_BITS) | state->fraction;

	state->cut_from = 0;
	if (tp->lost_out)
		state->lossy = LOSSY_MARKS;
	if (tp->lost_out || tp->snd_cwnd < tp->snd_ssthresh) { /* slow start overshoots by as much as it has */
		state->doubled = 0;
		window /= 2;
	} else {
		state->lossy -= state->lossy != 0;
		state->cut_from = tp->snd_cwnd;
		window -= cut_for_mark(state, window, weight_of(tp));
	}
	state->heard = 0;
	state->fraction = window & FRACTION_MASK;
	return at_least(window >> FRACTION_BITS, WINDOW_MIN);
}

/* Packets that an acknowledgement covers, while no reduction goes on. */
SEC("struct_ops/price_cong_avoid")
void BPF_PROG(price_cong_avoid, struct tcp_sock *tp, __u32 ack, __u32 acked)
{
	struct state *state = state_of(tp);
	__u32 window = tp->snd_cwnd, room = tp->snd_ssthresh > window ? tp->snd_ssthresh - window : 0, began = 0;
	__u32 weight, most;
	__u64 more;

	state->heard += acked;
	if (!BPF_CORE_READ_BITFIELD(tp, is_cwnd_limited) && !(room && window < 2 * tp->max_packets_out))
		return; /* the program does not use what it has */
	if (room) { /* slow start, as everyone's */
		began = room < acked ? room : acked;
		window += began;
	}
	weight = weight_of(tp);
	most = state->lossy ? at_most_root(weight, window) : window;
	more = ((__u64)(acked - began) << FRACTION_BITS) * (weight < most ? weight : most) / at_least(window, 1);
	more += state->fraction;
	state->fraction = more & FRACTION_MASK;
	window += more >> FRACTION_BITS;
	tp->snd_cwnd = window < tp->snd_cwnd_clamp ? window : tp->snd_cwnd_clamp;
}

/* Packets get lost while a mark's reduction goes on: the kernel does not ask again, but a loss is a loss. */
SEC("struct_ops/price_set_state")
void BPF_PROG(price_set_state, struct tcp_sock *tp, __u8 to)
{
	struct state *state = state_of(tp);
	__u32 half;

	if (to == TCP_CA_CWR)
		return;
	if (state->cut_from && (to == TCP_CA_RECOVERY || to == TCP_CA_LOSS)) {
		half = at_least(state->cut_from / 2, WINDOW_MIN);
		if (tp->snd_ssthresh > half)
			tp->snd_ssthresh = half;
		state->lossy = LOSSY_MARKS;
	}
	state->cut_from = 0;
}

/* What was taken for a loss was none. */
SEC("struct_ops/price_undo_cwnd")
__u32 BPF_PROG(price_undo_cwnd, struct tcp_sock *tp)
{
	return at_least(tp->snd_cwnd, tp->prior_cwnd);
}

SEC(".struct_ops")
struct tcp_congestion_ops price = {
	.ssthresh = (void *)price_ssthresh,
	.cong_avoid = (void *)price_cong_avoid,
	.set_state = (void *)price_set_state,
	.undo_cwnd = (void *)price_undo_cwnd,
	.init = (void *)price_init,
	.name = "price",
};
