/* What the gateway's programs and its reader process share, laid out alike in dataplane/ebpf/gateway_layout.py.
 *
 * Who writes what: the reader writes settings, terms, prices, routes, grants and places; the programs write states and
 * counters (a link's carry and what was spent of a grant are kept there and nowhere else). Nothing that both write is
 * in one value, so that no update undoes a packet's work.
 */
#pragma once
#include <linux/types.h>

#define GATEWAY_LINKS_MAX 64
#define GATEWAY_GRANTS_MAX 4096
#define GATEWAY_PLACES_MAX 8192
#define GATEWAY_ROUTES_MAX 16384
#define GATEWAY_ALTERNATIVES_MAX 11
#define GATEWAY_GRANTS_PER_PLACE 4
#define GATEWAY_COUNTERS_MAX 16384 /* as many as a counter file holds */
#define GATEWAY_DRAWS 4
#define GATEWAY_NO_CAP (~0ull)

/* Index into `struct link_terms.counters`: the counters of a link, by the names that gateway/egress.py gives them. */
enum link_counter {
	RECEIVED_NANODOLLARS,
	RECEIVED_PACKETS,
	SENT_NANODOLLARS,
	SENT_PACKETS,
	RETAINED_NANODOLLARS,
	KEPT_NANODOLLARS,
	KEPT_PACKETS,
	CARRY_PICODOLLARS,
	CAP_CUT_PICODOLLARS,
	MARKED_PACKETS,
	DROPPED_PACKETS,
	UNPAID_PACKETS,
	CUT_NANODOLLARS,
	CUT_PACKETS,
	ROLE_REFUSED_NANODOLLARS,
	ROLE_REFUSED_PACKETS,
	LINK_COUNTERS
};

/* Why a packet's header is no payment: the index into `struct settings.reasons`, and into a link's `alarms` where it
 * is one. The order is that of the names in gateway_layout.REASONS. */
enum reason {
	/* billpay.header.Malformed */
	MALFORMED_TRUNCATED,
	MALFORMED_LENGTH,
	MALFORMED_OVERRUN,
	MALFORMED_OAD_COUNT,
	MALFORMED_DUPLICATE,
	MALFORMED_AMOUNT_OVER_CEILING,
	MALFORMED_ON_FRAGMENT,
	MALFORMED_SHARED,
	/* gateway.payments.Unpaid */
	UNPAID_NO_GRANT,
	UNPAID_BAD_MAC,
	UNPAID_NOT_BY_NEIGHBOUR,
	UNPAID_IN_DEFAULT,
	UNPAID_OVER_CAP,
	UNPAID_GRANT_NOT_VALID,
	UNPAID_NEVER_PAYS,
	UNPAID_OVER_MIRROR,
	/* an alarm without a counter of its own */
	OVER_CEILING,
	/* passed untouched: what these programs cannot treat */
	PASSED_VLAN,	/* a tag in front of the IP packet: another link's traffic */
	PASSED_UNREADABLE,	/* its headers could not be brought together */
	PASSED_UNCHANGED,	/* the kernel refused the change that was due (no memory, or an odd offload) */
	REASONS
};

enum peer { PEER_HOST, PEER_GATEWAY, PEER_LEGACY };
enum role { ROLE_PAYER, ROLE_MIRROR, ROLE_NEVER };
enum marking { MARKING_NONE, MARKING_VIRTUAL_QUEUE };
enum queueing { QUEUE_NONE, QUEUE_FAIR, QUEUE_FIFO };

struct settings {
	__u64 now_ns;	       /* INJECTED: what the clock shows */
	__u32 draws[GATEWAY_DRAWS]; /* INJECTED: what chance gives, in the order in which it is asked for */
	__u32 draws_used;      /* INJECTED: how often it was asked; the harness sets it back */
	__u32 epoch;	       /* of MACs: minutes since 1970 */
	__u32 as_number;
	__u32 honours_preferences;
	__u32 reasons[REASONS]; /* counter indexes; 0 where there is none */
	__u32 imply;	       /* some grant pays for packets without a header */
};

/* One page of memory that the reader maps: to write a price costs no system call. */
struct price {
	__u64 congestion_picodollars;
	__u64 until_ns; /* of the monotonic clock: after that nobody stands behind the price, and there is none */
};

struct link_terms {
	__u32 interface_index;
	__u32 header_bytes; /* of the link layer in front of the IP packet: 14, or 0 */
	__u8 peer;
	__u8 agreed;
	__u8 in_default;
	__u8 role;
	__u8 marking;
	__u8 queueing;
	__u8 names_itself;  /* the neighbour's name is expected in the MAC field */
	__u8 has_congestion; /* the price is a part of the toll */
	__u32 peer_as;
	__u32 max_amount;
	__u32 packet_ceiling;
	__u32 overhead_bytes;
	__u32 proportional_ppm;
	__u64 fixed_picodollars;
	__u64 per_byte_picodollars;
	__u64 cap_picodollars; /* GATEWAY_NO_CAP: none */
	__u64 virtual_bytes_per_s; /* of the virtual queue */
	__u64 virtual_limit_bytes;
	__u64 rate_bytes_per_s; /* of the real queue */
	__u64 limit_bytes;
	__u32 counters[LINK_COUNTERS];
};

/* The lock is for the virtual queue and the real one (struct link_queue): what arrives there changes both at once. */
struct link_state {
	struct bpf_spin_lock lock;
	__u32 flag;	       /* of the virtual queue: it overflowed and has not been empty since */
	__u64 virtual_last_ns; /* 0: never */
	__u64 virtual_level_bytes;
	__u64 virtual_fraction;
	__u64 arrived_bytes;  /* since ever: the reader takes differences */
	__u64 alarms[REASONS]; /* since ever */
};

struct alternative { __u8 number; __u8 index; __u16 link; };

struct route {
	__u16 bitmap; /* as an ISP-OAD shows it */
	__u16 count;  /* 0: one of our own addresses, or nobody's: the packet passes as it is */
	struct alternative alternatives[GATEWAY_ALTERNATIVES_MAX]; /* the ISP's preference first */
};

struct route_key { __u32 prefix_bits; __u8 address[16]; };

/* Where a grant is looked for: exact, or everything 0 but link, family and source. */
struct place {
	__u8 source[16];
	__u8 destination[16];
	__be16 source_port;
	__be16 destination_port;
	__u8 protocol;
	__u8 family; /* 4 or 6 */
	__u8 exact;
	__u8 link;
};

/* Of a link: where no place is exact, nobody needs to look for one. The version is another after each change of what is
 * filed under a place, and never 0. */
struct link_places { __u32 exact; __u32 version; };

struct place_grants {
	__u32 count;
	__u32 grants[GATEWAY_GRANTS_PER_PLACE];
};

#define GATEWAY_REPLACES_NOTHING (~0ull) /* as its old rate: a grant whose bucket is full at `since_ns` */

/* One version of a grant. What it replaced still counts up to `since_ns`, at its rate (billpay.grants.GrantGate). */
struct grant_terms {
	__u64 key[2]; /* the key's bytes as two little-endian words */
	__u64 cap_nanodollars;
	__u64 rate_nanodollars_per_s;
	__u64 burst; /* nanodollar·ns: at most 9e18 */
	__u64 old_rate_nanodollars_per_s;
	__u64 old_burst;
	__u64 since_ns;
	__u32 version; /* another than the state's: since_ns and what was before it are due */
	__u32 valid;
	__u32 spent;	/* counter indexes */
	__u32 packets;
	__u32 refused;
	__u32 implied_nanodollars; /* what each packet without a header pays; 0: nothing */
};

struct grant_state {
	struct bpf_spin_lock lock;
	__u32 version;
	__u64 tokens; /* nanodollar·ns */
	__u64 last_ns;
};
