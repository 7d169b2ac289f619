/* The reader's commands, run by BPF_PROG_TEST_RUN under the locks that packets take: pay, return, drop; which flows
 * changed; which are idle and forgotten. */
#pragma once
#include "payer_maps.h"

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
	struct change change;
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
		touch(flow, said, so_far, command.now_ns, &change);
		bpf_spin_unlock(&flow->lock);
		if (change.order)
			note(&command.flow, &change);
	}
	if (command.kind != FIND)
		obey(flow, &command, said);
	return OBEYED;
}

struct listing {
	struct question question;
	const struct settings *said;
	struct progress *so_far;
	__u64 oldest_ns;
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
	struct change change = {};
	int wanted, concerns_money;
	__u64 order;

	bpf_spin_lock(&flow->lock);
	turn = flow->turn;
	order = flow->order;
	wanted = turn > listing->question.since_turn;
	concerns_money = flow->spending.spent || flow->has_return || flow->received || flow->pool;
	if (wanted && !entry)
		touch(flow, listing->said, listing->so_far, flow->last_ns, &change);
	bpf_spin_unlock(&flow->lock);
	if (change.order)
		note(key, &change);
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
	__u64 last_ns;

	bpf_spin_lock(&flow->lock);
	last_ns = flow->last_ns;
	is_idle = (__s64)(listing->question.silent_since_ns - last_ns) >= 0;
	has_grant = flow->spending.spent || flow->has_return;
	bpf_spin_unlock(&flow->lock);
	/* without being told of it the reader would keep the grant's counter */
	if (!is_idle || (has_grant && !entry) ||
	    forget(flow, key, listing->question.silent_since_ns) != OBEYED) {
		listing->oldest_ns = least(listing->oldest_ns, last_ns);
		return 0;
	}
	if (has_grant && entry)
		list(listing, entry, key, 0, 0, 1);
	return 0;
}

static __always_inline int read_question(struct __sk_buff *skb, struct listing *listing)
{
	__u32 zero = 0;

	listing->count = 0;
	listing->oldest_ns = ~0ull;
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
	listing.so_far->oldest_ns = listing.oldest_ns;
	return listing.count;
}
