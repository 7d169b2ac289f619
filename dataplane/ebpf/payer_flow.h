/* A flow's arithmetic: what its record does with a packet or a command, under its lock.
 *
 * The same, to the nanodollar, as hostagent/payments/flowtable.py (FlowRecord), datapath.py (HostCore) and
 * billpay/grants.py (GrantGate), whose comments say why. No maps, no packets and no helpers: none may be called while a
 * lock is held.
 */
#pragma once
#include "billpay.h"
#include "payer.h"

#define ADD(counter, amount) __sync_fetch_and_add(&(counter), (amount))
#define NS_PER_S 1000000000ull
#define MAX_AMOUNT 0xffffffu
#define MAX_ADMITTED 9000000000ull /* billpay.grants.MAX_BURST_NANODOLLARS: no bucket holds more */
#define NOTHING_REFUSED PAYER_COUNTERS

/* What is to be noted of a flow once its lock is open. */
struct change {
	__u64 order; /* 0: nothing */
	__u32 turn;
};

/* The turn is read under the lock: who lists the changes of a turn that is over takes it too, and so misses none. */
static __always_inline void touch(struct flow *flow, const struct settings *said, struct progress *so_far, __u64 now_ns,
				  struct change *change)
{
	__u32 turn = *(volatile const __u32 *)&said->turn;

	change->order = 0;
	flow->last_ns = now_ns;
	if (flow->turn != turn) {
		flow->turn = change->turn = turn;
		flow->order = change->order = ADD(so_far->order, 1) + 1;
	}
}

static __always_inline int is_valid(const struct allowance *allowance, __u64 unix_s)
{
	return allowance->not_before_unix_s <= unix_s && unix_s < allowance->expires_unix_s;
}

/* billpay.grants.GrantGate._fill */
static __always_inline void fill(struct allowance *allowance, __u64 now_ns)
{
	__u64 missing = allowance->burst - allowance->tokens, rate = allowance->rate_nanodollars_per_s;
	__u64 elapsed = now_ns - allowance->last_ns;

	if ((__s64)elapsed <= 0)
		return;
	allowance->last_ns = now_ns;
	if (!rate || !missing)
		return;
	/* no product overflows: short times are multiplied at once, for others it is asked how long they might be */
	if ((elapsed | rate) >> 31 ? elapsed > missing / rate : elapsed * rate >= missing)
		allowance->tokens = allowance->burst;
	else
		allowance->tokens += elapsed * rate;
}

/* billpay.grants.GrantGate.admit; NOTHING_REFUSED: the amount is taken out of the bucket. */
static __always_inline __u32 admit(struct allowance *allowance, __u64 amount, __u64 spent, __u64 now_ns)
{
	if (spent + amount > allowance->cap_nanodollars)
		return OVER_GRANT;
	fill(allowance, now_ns);
	if (amount > MAX_ADMITTED || amount * NS_PER_S > allowance->tokens)
		return OVER_RATE;
	allowance->tokens -= amount * NS_PER_S;
	return NOTHING_REFUSED;
}

static __always_inline void leave(struct flow *flow, __u32 packets)
{
	flow->leavings += packets;
	for (int i = 0; i < 32 && flow->leavings >= RECENT_LEAVINGS; i++) {
		flow->leavings >>= 1;
		flow->arrivals >>= 1;
	}
}

/* FlowRecord.part */
static __always_inline __u64 part(const struct flow *flow, int is_stream)
{
	__u64 arrivals = flow->arrivals, leavings = flow->leavings, unit = flow->unit, share = unit, gathered;
	int more_leave = leavings >= FEW_LEAVINGS && leavings * 4 > arrivals * 5;

	if (!is_stream && !more_leave)
		return flow->pool;
	if (more_leave)
		share = (unit * arrivals + leavings - 1) / leavings;
	gathered = flow->pool > unit ? flow->pool - unit : 0;
	share += (gathered + GATHERED_PARTS - 1) / GATHERED_PARTS;
	return share < flow->pool ? share : flow->pool;
}

static __always_inline __u64 least(__u64 one, __u64 other)
{
	return one < other ? one : other;
}

/* What is asked of a packet before the flow's lock is taken. */
struct leaving {
	__u32 packets; /* segments */
	__u32 wire_bytes;
	__u8 is_stream;
	__u8 has_content;
	__u8 is_reset;
};

/* What a packet is to carry, and what is needed to make it once the lock is open. */
struct payment {
	struct header_words words;
	__u64 key[2];
	__u64 *spent;
	__u32 amount; /* in each segment; 0: nothing */
	__u32 slot_count;
	__u32 version;
	__u32 epoch;
	__u8 returns;
	__u8 is_made; /* the MAC is there */
};

static __always_inline void use(struct flow *flow, const struct allowance *allowance, const __u64 *key,
				struct payment *payment, __u32 packets, __u32 epoch)
{
	__u64 mac = 0;

	*payment->spent += (__u64)payment->amount * packets;
	flow->out_paid_packets += packets;
	payment->version = flow->version;
	payment->is_made = allowance->is_made && allowance->made_epoch == epoch &&
			   (!payment->returns || allowance->made_amount == payment->amount);
	if (payment->is_made) {
		__builtin_memcpy(&mac, allowance->made, sizeof(allowance->made));
		payment->words.mac = LITTLE64(mac);
		return;
	}
	payment->key[0] = key[0];
	payment->key[1] = key[1];
	payment->epoch = epoch;
}

/* HostCore._header_for: what is due back goes first; else the flow's own payment. The counter of a refusal. */
static __always_inline __u32 decide(struct flow *flow, const struct leaving *leaving, const struct settings *said,
				    __u64 now_ns, __u64 *spent, __u64 *spent_back, struct payment *payment)
{
	struct allowance *spending = &flow->spending, *returning = &flow->returning;
	__u64 due, room, total, packets = leaving->packets;
	__u32 refusal;

	if (flow->unit)
		leave(flow, packets);
	if (flow->pool && spent_back && returning->open && is_valid(returning, said->unix_s)) {
		due = leaving->has_content ? part(flow, leaving->is_stream) : flow->pool;
		room = returning->cap_nanodollars > *spent_back ? returning->cap_nanodollars - *spent_back : 0;
		if (packets > 1) {
			due = least(due, flow->pool / packets);
			room /= packets;
		}
		due = least(least(due, room), least(flow->ceiling, MAX_AMOUNT));
		total = due * packets;
		if (due && admit(returning, total, *spent_back, now_ns) == NOTHING_REFUSED) {
			payment->spent = spent_back;
			payment->amount = due;
			payment->returns = 1;
			use(flow, returning, flow->return_key, payment, packets, said->epoch);
			flow->returned += total;
			flow->pool -= total;
			return NOTHING_REFUSED;
		}
	}
	if (!flow->amount || !spent || !spending->open || leaving->is_reset)
		return NOTHING_REFUSED;
	if (!is_valid(spending, said->unix_s))
		return GRANT_NOT_VALID;
	refusal = admit(spending, flow->amount * packets, *spent, now_ns);
	if (refusal != NOTHING_REFUSED)
		return refusal;
	payment->spent = spent;
	payment->amount = flow->amount;
	payment->slot_count = flow->slot_count;
	for (int i = 0; i < SLOTS_MAX; i++)
		if (i < flow->slot_count)
			payment->words.slots[i] = flow->slots[i];
	use(flow, spending, flow->key, payment, packets, said->epoch);
	return NOTHING_REFUSED;
}

/* HostCore._pay_by_implication: the gateway takes what the grant says by itself. */
static __always_inline __u32 decide_implied(struct flow *flow, const struct leaving *leaving,
					    const struct settings *said, __u64 now_ns, __u64 *spent,
					    struct payment *payment)
{
	struct allowance *spending = &flow->spending;
	__u64 total = (__u64)flow->amount * leaving->packets;
	__u32 refusal;

	if (!total || !spent || !spending->open)
		return NOTHING_REFUSED;
	if (!is_valid(spending, said->unix_s))
		return GRANT_NOT_VALID;
	refusal = admit(spending, total, *spent, now_ns);
	if (refusal != NOTHING_REFUSED)
		return refusal;
	payment->amount = flow->amount;
	*spent += total;
	flow->out_paid_packets += leaving->packets;
	return NOTHING_REFUSED;
}

/* -- arriving ------------------------------------------------------------------------------------------------------ */

/* What came with a packet. */
struct arrival {
	__u64 now_ns;
	__u32 packets;
	__u32 amount; /* in each of them; 0: no payment of ours */
	__u32 wire_bytes;
	__u32 base; /* the amount, Pathlen and number of slots, as `struct observed` has them */
	__u8 is_ce;
	__be32 words[SLOTS_MAX];
};

static __always_inline int is_same(const struct observed *observed, const struct arrival *arrival)
{
	__u32 differ = (observed->base ^ arrival->base) & 15;

	for (int i = 0; i < SLOTS_MAX; i++)
		differ |= observed->words[i] ^ arrival->words[i];
	return !differ;
}

/* FlowRecord.observe: the oldest gives way. */
static __always_inline void observe(struct flow *flow, const struct arrival *arrival)
{
	struct observed *found = &flow->observed[0], *each;
	__u32 lowest = arrival->amount;

	for (int i = 0; i < OBSERVED_MAX; i++) {
		each = &flow->observed[i];
		if (each->seen && is_same(each, arrival)) {
			found = each;
			break;
		}
		if (each->seen < found->seen)
			found = each;
	}
	if (!found->seen || !is_same(found, arrival)) {
		found->packets = 0;
		found->received = 0;
		for (int i = 0; i < SLOTS_MAX; i++)
			found->words[i] = arrival->words[i];
	} else if (found->base >> 8 < lowest) {
		lowest = found->base >> 8;
	}
	found->base = lowest << 8 | (arrival->base & 0xff);
	found->packets += arrival->packets;
	found->received += (__u64)arrival->amount * arrival->packets;
	found->seen = ++flow->sightings;
}

/* -- commands ------------------------------------------------------------------------------------------------------ */

/* HostCore._allowed: another grant, or a later document of the one that is there. */
static __always_inline void allow(struct allowance *allowance, const struct command *command)
{
	int is_new = command->is_new || !allowance->spent;

	if (!is_new)
		fill(allowance, command->now_ns);
	allowance->burst = command->burst;
	if (is_new || allowance->tokens > command->burst)
		allowance->tokens = command->burst;
	if (is_new)
		allowance->last_ns = command->now_ns;
	allowance->cap_nanodollars = command->cap_nanodollars;
	allowance->rate_nanodollars_per_s = command->rate_nanodollars_per_s;
	allowance->not_before_unix_s = command->not_before_unix_s;
	allowance->expires_unix_s = command->expires_unix_s;
	allowance->spent = command->spent;
	allowance->open = 1;
	allowance->is_made = 0;
}

/* HostCore._take_late_share: the share of what came before we knew it. */
static __always_inline __u64 take_late_share(struct flow *flow, __u64 share, __u64 paid_packets)
{
	__u64 due = 0;

	if (!flow->share && share && paid_packets) {
		due = flow->pool;
		if (share <= due / paid_packets)
			due = share * paid_packets;
		flow->pool -= due;
	}
	flow->share = share;
	return due;
}
