/* What the host's programs and the Python side share: layouts of map entries, limits, numbers of classes.
 *
 * dataplane/ebpf/layout.py mirrors every struct; tests/dataplane/test_ebpf_layout.py compares both by BTF.
 * All integers are the host's, except addresses and ports, which are as on the wire.
 */
#pragma once
#include <linux/bpf.h>
#include <linux/types.h>

#define PROGRAMS_MAX 4096
#define FLOWS_MAX 131072
#define CLASSES_MAX 64
#define RULES_MAX 256
#define PACED_MAX 256 /* flows */
#define PACED_LINKS_MAX 16 /* each of them may be named for so many links */
#define FLOW_LEAVES 16

#define CLASS_CONTROL 0
#define CLASS_DEFAULT 1

#define HTB_HANDLE 0x74140000u
#define LEAF_MINOR 0x10u
#define FLOW_LEAF_MINOR 0x1000u

#define UNATTRIBUTED 0 /* program number of the kernel's own packets, and of whatever could not be named */

#define FILE_NAME_BYTES 32
#define GROUP_NAME_BYTES 96
#define GROUPS_KEPT 3 /* a process's control group and those around it */

enum kind { KIND_UNATTRIBUTED, KIND_PROGRAM, KIND_FORWARDED };

/* Who a socket belongs to. Two processes with the same identity are one program. */
struct identity {
	__u64 group;     /* control group v2 */
	__u64 inode;     /* of the executable */
	__u32 device;    /* of the executable, as the kernel encodes it; KIND_FORWARDED: the interface it came in by */
	__u32 user;
	__u32 kind;
	__u32 zero;
};

/* What is known of a program at its first socket, for the rules and for people. */
struct program {
	struct identity identity;
	char file_name[FILE_NAME_BYTES];   /* last part of the executable's path */
	char group_names[GROUPS_KEPT][GROUP_NAME_BYTES]; /* the innermost control group first */
	__u32 process;                     /* the one that was first */
	__u32 zero;
};

struct tally {
	__u64 packets; /* on the wire: a segment-offloaded packet counts as its segments */
	__u64 bytes;   /* of the IP layer, on the wire */
	__u64 ce;
	__u64 ect;     /* ECT(0) and ECT(1) */
};

struct meter {
	struct tally sent;
	struct tally received;
};

/* One for each socket. */
struct socket_owner {
	__u32 program;
	__u32 process;
	__u32 paced_bytes_s; /* what we set as SO_MAX_PACING_RATE; 0: nothing */
	__u32 pass;          /* of the last look at all open files that found it with `process` */
	char replaced[16];   /* the congestion control that it had before ours; "": it has its own */
};

struct flow_key {
	__u8 local[16]; /* IPv4: the first four bytes */
	__u8 remote[16];
	__be16 local_port;
	__be16 remote_port;
	__u32 interface;
	__u8 family; /* 4 or 6 */
	__u8 protocol;
	__u16 zero;
};

/* What every packet touches comes first and is close together: with many flows it is cache misses that cost. */
struct flow {
	__u64 last_ns;
	__u32 program;
	__u32 generation; /* of the plan that chose traffic_class */
	__u32 judged_s;   /* when it was last compared with its socket's owner */
	__u32 process;
	__u16 traffic_class;
	__u16 minor;      /* of the HTB class that its packets go to */
	__u16 paced_minor; /* of the HTB class that is its own; 0: it has none */
	__u8 inbound;     /* the other side began it */
	__u8 marks;
	__u32 pacing;     /* of the settings, when paced_minor and marks were looked up */
	__u32 zero;
	struct meter meter;
	__u64 first_ns;
};

enum rule_fields {
	RULE_INODE = 1, /* of the executable */
	RULE_NAME = 2,  /* its file name */
	RULE_GROUP = 4, /* the name of one of its control groups, under group_mask */
	RULE_USER = 8,
	RULE_PROTOCOL = 16,
	RULE_REMOTE = 32,
	RULE_PORTS = 64,
};

enum marks {
	MARKS_CAPABLE = 1, /* it leaves as ECT(0) */
	MARKS_HIDDEN = 2,  /* its transport is not told of marks, as RFC 3168 tells them */
};

/* A flow with a pace of its own, by its key. */
struct paced {
	__u32 minor; /* 0: its class's */
	__u32 marks;
};

/* All fields that are named have to agree; the first rule that agrees decides. */
struct rule {
	__u64 inode;
	char file_name[FILE_NAME_BYTES];
	char group_name[GROUP_NAME_BYTES];
	char group_mask[GROUP_NAME_BYTES]; /* all ones where it has to agree: no branches for the verifier to follow */
	__u8 remote[16];
	__u32 fields;
	__u32 user;
	__u32 traffic_class;
	__u32 zero;
	__u16 first_port;    /* in the host's order */
	__u16 last_port;
	__u8 protocol;       /* IPPROTO_ICMP stands for ICMPv6 as well */
	__u8 family;         /* of remote */
	__u8 prefix_bits;
	__u8 padding;
};

struct traffic_class {
	__u32 minor;
	__u32 flow_leaves;      /* 0, or FLOW_LEAVES: each flow has one of so many leaves */
	__u32 pacing_bytes_s;   /* for each TCP socket; 0: none */
	__u32 weight;
	char congestion_control[16]; /* "": the program's own choice */
};

struct settings {
	__u32 generation; /* of the plan; flows of an earlier one are judged anew */
	__u32 rules;      /* how many, in rules[bank * RULES_MAX ...] */
	__u32 bank;       /* 0 or 1: the other one is being written */
	__u32 pass;       /* number of the current look at all open files */
	__u32 adopting;   /* second part of that look: sockets that nobody was found with change hands */
	__u32 putting_back; /* sockets get back what they had */
	__u32 pacing;       /* changes with every change of the map `paced` */
	__u32 zero;
	__u64 namespace;    /* ours, by its cookie: sockets of other network namespaces are not ours to name or to pace */
	__u64 paced_until_ns; /* an agent that is silent until then paces nothing any more, and answers no marks */
};

/* What passed an interface that we count at. */
struct link {
	struct meter meter;
	__u64 skbs_sent; /* as the interface itself counts packets */
	__u64 skbs_received;
	__u64 beyond_table; /* packets that found the flow table full */
};

/* What happens there beside counting. Apart from the counts, which only the kernel writes. */
struct link_shape {
	__u32 egress;      /* classes are told to HTB */
	__u32 ingress_ifb; /* arrivals are redirected there; 0: they are not */
	__u32 bare;        /* packets have no Ethernet header here, as on a tun; an IFB wants one */
};

/* Somebody new has a socket. */
struct program_seen {
	__u32 program;
	__u32 process;
};
