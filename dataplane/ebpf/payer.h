/* What the host's payment programs and the agent's reader process share, laid out alike in payer_layout.py.
 *
 * Who writes what: the reader writes settings, uplinks and peers; the programs write flows, progress and counters. What
 * the reader wants of a flow it says by a `struct command`, which payer_obey carries out under the flow's lock, so that
 * no update undoes a packet's work.
 */
#pragma once
#include <linux/types.h>

#define PAYER_FLOWS_MAX 131072
#define PAYER_UPLINKS_MAX 64
#define PAYER_PEERS_MAX 65536
#define PAYER_COUNTERS_MAX 16384
#define PAYER_LISTED_MAX 16384
#define PAYER_CHANGED_MAX 256
#define PAYER_EVENT_BYTES (1 << 20) /* over a thousand probes, the longest events */
#define OBSERVED_MAX 8
#define SLOTS_MAX 7
#define PROBE_BYTES 512
#define FEW_LEAVINGS 8	   /* hostagent.payments.flowtable: FEW, RECENT, GATHERED */
#define RECENT_LEAVINGS 64
#define GATHERED_PARTS 64

/* The order is that of the names in payer_layout.COUNTERS. */
enum payer_counter {
	/* billpay.header.Malformed, as billpay.h numbers it */
	PAYER_MALFORMED_TRUNCATED,
	PAYER_MALFORMED_LENGTH,
	PAYER_MALFORMED_OVERRUN,
	PAYER_MALFORMED_OAD_COUNT,
	PAYER_MALFORMED_DUPLICATE,
	PAYER_MALFORMED_AMOUNT_OVER_CEILING,
	PAYER_MALFORMED_ON_FRAGMENT,
	PAYER_MALFORMED_SHARED,
	/* billpay.header.CannotCarry, likewise */
	PAYER_NOT_IP,
	PAYER_FRAGMENT,
	PAYER_AH,
	PAYER_HOP_BY_HOP_PRESENT,
	PAYER_ALREADY_PRESENT,
	PAYER_OPTIONS_FULL,
	PAYER_TOO_BIG,
	/* sums */
	SHARE,
	REFUNDED,
	RETURNED,
	UNRETURNED,
	/* why a packet is unpaid, or its payment not ours */
	NOT_BY_GATEWAY,
	GRANT_NOT_VALID,
	OVER_GRANT,
	OVER_RATE,
	READER_SILENT, /* nobody can say any more which grants are valid */
	FLOWS_FULL,
	/* passed untouched: what these programs cannot treat */
	UNTREATED_VLAN,	      /* a tag in front of the IP packet: another link's traffic */
	UNTREATED_UNREADABLE, /* its headers could not be brought together */
	UNTREATED_UNCHANGED,  /* the kernel refused the change that was due: no memory, an offload that forbids it */
	PAYER_COUNTERS
};

struct settings {
	__u64 now_ns;	/* INJECTED: what the clock shows */
	__u64 until_ns; /* of the monotonic clock: after that nobody is there who tells the date; nothing is paid */
	__u64 unix_s;
	__u32 epoch;	/* of MACs: minutes since 1970 */
	__u32 turn;	/* of reports: what a flow's changes are stamped with */
	__u32 peers;	/* how many there are */
	__u32 counters[PAYER_COUNTERS]; /* indexes */
};

/* The 5-tuple (billpay.packet.FlowKey); an IPv4 address is followed by zeros. */
struct flow_key {
	__u8 source[16];
	__u8 destination[16];
	__be16 source_port;
	__be16 destination_port;
	__u8 protocol;
	__u8 family; /* 4 or 6 */
	__u8 zero[2];
};

struct uplink {
	__u32 number;	    /* 1 and on: in the order of the plan, which fits a byte */
	__u16 header_bytes; /* of the link layer in front of the IP packet: 14, or 0 */
	__u8 grows_udp;	    /* it computes checksums; else the kernel drops offloaded UDP packets that grew */
	__u8 pad;
	__u32 gateway_as;
	__u32 mtu;
	__u8 agreed;
	__u8 implied; /* no header survives there: the gateway takes what the grant says */
	__u8 clamp_v4; /* what the MSS is lowered by; 0: not at all */
	__u8 clamp_v6;
	__u32 received; /* counter indexes, as the next three */
	__u32 received_packets;
	__u32 sent;
	__u32 sent_packets;
};

/* Whose agents we tell what arrived. */
struct peer { __u8 address[16]; __u32 family; };

struct progress {
	__u64 order;	 /* of the flows that changed in a turn */
	__u64 oldest_ns; /* since when the most silent flow was silent at the last sweep; all ones: there was none */
};

/* A grant that a flow's packets may spend from, and the last header that was made under it. */
struct allowance {
	__u64 tokens; /* nanodollar·ns */
	__u64 last_ns;
	__u64 burst; /* nanodollar·ns: at most 9e18 */
	__u64 rate_nanodollars_per_s;
	__u64 cap_nanodollars;
	__u64 not_before_unix_s;
	__u64 expires_unix_s;
	__u32 spent; /* counter index; 0: there is no grant */
	__u8 open;
	__u8 is_made; /* the MAC of an epoch and an amount */
	__u8 made[6];
	__u32 made_epoch;
	__u32 made_amount;
	__u32 pad;
};

/* Payments that arrived with one combination of slots. */
struct observed {
	__u32 base; /* like a base word: the lowest amount, the last Pathlen, the number of slots */
	__u32 words[SLOTS_MAX];
	__u64 packets;
	__u64 received;
	__u64 seen; /* the greater the later; 0: this one is free */
};

/* One direction of a conversation (hostagent.payments.flowtable.FlowRecord). With many flows a packet's time is that of
 * the cache lines that it has to fetch, so what a packet that pays has to do with comes first: an entry of the kernel's
 * hash table begins with 96 bytes of its own, the key among them, so the lines here end after 32, 96 and 160 bytes, and
 * those are all that a packet with up to four slots touches. */
struct flow {
	struct bpf_spin_lock lock;
	__u32 turn; /* in which it changed last */
	__u64 last_ns;
	__u32 version; /* of what commands said */
	__u8 slot_count;
	__u8 has_return; /* a grant, by which something may go back */
	__u8 uplink;	 /* by which it left last; 0: by none yet */
	__u8 gone;	 /* it is being forgotten */
	__u32 unit;
	__u32 amount;
	__u64 out_packets;
	__u64 out_bytes;
	__u64 out_paid_packets;
	__u64 pool;
	struct allowance spending;
	__be32 slots[SLOTS_MAX];
	__u32 ceiling;
	struct allowance returning;
	__u64 key[2];	     /* of the grants, each key's bytes as two little-endian words */
	__u64 return_key[2];
	__u64 order; /* its place among those that changed in its turn */
	__u64 arrivals;
	__u64 share;
	__u64 in_packets;
	__u64 in_bytes;
	__u64 in_paid_packets;
	__u64 in_ce_packets;
	__u64 received;
	__u64 refunded;
	__u64 returned;
	__u64 sightings;
	__u32 leavings;
	__u32 pays;
	struct observed observed[OBSERVED_MAX];
};

enum command_kind { FIND, PAY, RETURN, DROP, FORGET };
enum outcome { OBEYED, NO_ROOM, NOT_THERE };

/* What payer_obey gets behind 14 bytes of nothing; it returns an `enum outcome`. */
struct command {
	struct flow_key flow;
	__u32 kind;
	__u32 is_new; /* PAY, RETURN: another grant than the flow had; else a later document of the same */
	__u64 now_ns;
	__u64 key[2];
	__u64 cap_nanodollars;
	__u64 rate_nanodollars_per_s;
	__u64 burst;
	__u64 not_before_unix_s;
	__u64 expires_unix_s;
	__u64 share;
	__u32 spent;
	__u32 amount; /* PAY; RETURN: the ceiling */
	__u32 slot_count;
	__be32 slots[SLOTS_MAX];
};

/* What payer_list and payer_sweep get likewise. They return how many entries of `listed` they wrote. Both walk through
 * the whole table, which takes milliseconds however few flows it has; so each change is noted in `changed` as well, at
 * the place of its order, and a reader that finds few changes there asks no further.
 *
 * payer_list: the flows that changed after a turn; those that find no place there count as changed now.
 * payer_sweep: forgets the flows that were silent since a time, and lists those of them that had a grant. */
struct question {
	__u64 silent_since_ns;
	__u32 since_turn;
	__u32 pad;
};

struct listed {
	struct flow_key flow;
	__u64 order;
	__u32 turn;
	__u32 concerns_money;
};

struct changed {
	struct flow_key flow;
	__u64 order; /* 0: it is being written */
	__u32 turn;
	__u32 pad;
};

enum event_kind { FLOW_SEEN, RECEIPT_SEEN, PROBE_SEEN };

struct event {
	__u32 kind;
	__u32 pad;
	struct flow_key flow;
};

struct probe_event {
	struct event event;
	__u64 arrived_ns;
	__u32 remaining;
	__u32 slot_count;
	__be32 words[SLOTS_MAX];
	__u32 payload_bytes;
	__u8 payload[PROBE_BYTES];
};
