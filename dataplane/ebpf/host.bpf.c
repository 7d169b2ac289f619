/* The host's data plane in the kernel: whose packet is it, which class is it of, how much has passed.
 *
 * The way of a socket: it is created (sock_create) or connects (connect4/6) in its process -> that process's program
 * is found or numbered -> both are kept with the socket itself, so an accepted socket inherits them from its listener.
 * sockops sets pacing and congestion control before the first SYN; two iterators do the same for sockets that are
 * older than the agent or than the plan.
 *
 * The way of a packet: egress (tcx) -> flow -> the first time: program of its socket, first rule that agrees -> counts
 * -> HTB class as skb->priority. ingress (tcx) -> the same flow with the ends swapped -> counts -> IFB where arrivals
 * are shaped. On any doubt a packet goes on.
 *
 * A paced flow has an HTB class of its own. If somebody answers its marks by that pace, its packets leave as ECT(0) and
 * its transport does not hear of marks (RFC 3168, ECE). When these programs are gone, it hears of them again.
 *
 * Only helpers and fields of kernels from 6.6 on (tcx); no generated headers: the few kernel structs that are read are
 * declared here and relocated at load (CO-RE).
 */
#include "host.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/pkt_cls.h>

#define TCX_NEXT (-1)
#define NS_PER_S 1000000000ull
#define SOL_SOCKET 1
#define SO_MAX_PACING_RATE 47
#define SOL_TCP 6
#define TCP_CONGESTION 13
#define NO_PACING 0xffffffffu
#define PACING_TAG 0xa5 /* low byte of every rate that we set, by which `restore` knows them */

#define ECN_ECT0 2
#define TCP_SYN 0x02
#define TCP_ECE 0x40
#define PACED 0x10000u /* beside a minor number: of a class that is the flow's own */

#define RELOCATED __attribute__((preserve_access_index))
#define ADD(counter, amount) __sync_fetch_and_add(&(counter), (amount))

struct kernfs_node { const char *name; __u64 id; } RELOCATED;
struct cgroup { struct kernfs_node *kn; int level; struct cgroup *ancestors[]; } RELOCATED;
struct css_set { struct cgroup *dfl_cgrp; } RELOCATED;
struct qstr { const unsigned char *name; } RELOCATED;
struct super_block { __u32 s_dev; } RELOCATED;
struct inode { unsigned long i_ino; struct super_block *i_sb; } RELOCATED;
struct dentry { struct qstr d_name; } RELOCATED;
struct path { struct dentry *dentry; } RELOCATED;
struct file { struct path f_path; struct inode *f_inode; } RELOCATED;
struct mm_struct { struct file *exe_file; } RELOCATED;
typedef struct { __u32 val; } kuid_t;
struct cred { kuid_t uid; } RELOCATED;
struct task_struct {
	int tgid;
	struct mm_struct *mm;
	struct css_set *cgroups;
	const struct cred *cred;
	struct task_struct *group_leader;
} RELOCATED;
struct net { __u64 net_cookie; } RELOCATED;
typedef struct { struct net *net; } possible_net_t;
struct sock_common {
	possible_net_t skc_net;
	unsigned short skc_family;
	unsigned short skc_num;
	__be16 skc_dport;
	__be32 skc_daddr;
	struct { union { __u8 u6_addr8[16]; } in6_u; } skc_v6_daddr;
} RELOCATED;
struct sock { struct sock_common __sk_common; unsigned long sk_max_pacing_rate; } RELOCATED;
struct tcp_sock { int unused; };
struct socket { struct sock *sk; } RELOCATED;
struct bpf_iter_meta { void *seq; } RELOCATED;
struct bpf_iter__task_file {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
	__u32 fd;
	struct file *file;
} RELOCATED;
struct bpf_iter__tcp {
	struct bpf_iter_meta *meta;
	struct sock_common *sk_common;
} RELOCATED;

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, struct socket_owner);
} owners SEC(".maps");

/* Shared with the congestion control that is driven by price. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, __u32);
} socket_weights SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, PROGRAMS_MAX);
	__type(key, struct identity);
	__type(value, __u32);
} numbers SEC(".maps");

/* Numbers that are free; the agent fills it and gives back those of programs that are gone. */
struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, PROGRAMS_MAX);
	__type(value, __u32);
} free_numbers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PROGRAMS_MAX);
	__type(key, __u32);
	__type(value, struct program);
} programs SEC(".maps");

/* In which look at all open files somebody of that program had a socket. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PROGRAMS_MAX);
	__type(key, __u32);
	__type(value, __u32);
} last_passes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PROGRAMS_MAX);
	__type(key, __u32);
	__type(value, struct meter);
} meters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, FLOWS_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct flow_key);
	__type(value, struct flow);
} flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, struct link);
} links SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, struct link_shape);
} link_shapes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, PACED_MAX * PACED_LINKS_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct flow_key);
	__type(value, struct paced);
} paced_flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2 * RULES_MAX);
	__type(key, __u32);
	__type(value, struct rule);
} rules SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, CLASSES_MAX);
	__type(key, __u32);
	__type(value, struct traffic_class);
} classes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, CLASSES_MAX);
	__type(key, __u32);
	__type(value, __u32);
} next_leaves SEC(".maps");

/* When something of each class last passed, by the coarse clock; the agent gives idle classes' parts to the others. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, CLASSES_MAX);
	__type(key, __u32);
	__type(value, __u64);
} last_seen SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct settings);
} plan SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 16);
} seen SEC(".maps");

static __always_inline struct settings *settings(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&plan, &zero);
}

/* -- whose socket it is ------------------------------------------------------------------------------------------- */

static __always_inline void describe(struct program *program, struct task_struct *task)
{
	const char *name = (const char *)BPF_CORE_READ(task, mm, exe_file, f_path.dentry, d_name.name);
	struct cgroup *group;
	int level;

	if (name)
		bpf_probe_read_kernel_str(program->file_name, sizeof(program->file_name), name);
	group = BPF_CORE_READ(task, cgroups, dfl_cgrp);
	level = BPF_CORE_READ(group, level);
	for (int i = 0; i < GROUPS_KEPT; i++) {
		if (level - i <= 0) /* the root has no name */
			break;
		name = BPF_CORE_READ(group, kn, name);
		if (name)
			bpf_probe_read_kernel_str(program->group_names[i], GROUP_NAME_BYTES, name);
		group = BPF_CORE_READ(group, ancestors[level - i - 1]);
	}
}

/* The number of the program with this identity, which gets one if it is new. */
static __always_inline __u32 number_of(struct identity *identity, struct task_struct *task, __u32 process)
{
	struct program_seen *event;
	struct program *program;
	__u32 *known, number;

	known = bpf_map_lookup_elem(&numbers, identity);
	if (known)
		return *known;
	if (bpf_map_pop_elem(&free_numbers, &number))
		return UNATTRIBUTED;
	program = bpf_map_lookup_elem(&programs, &number);
	if (!program)
		return UNATTRIBUTED;
	__builtin_memset(program, 0, sizeof(*program));
	program->identity = *identity;
	program->process = process;
	if (task)
		describe(program, task);
	if (bpf_map_update_elem(&numbers, identity, &number, BPF_NOEXIST)) {
		bpf_map_push_elem(&free_numbers, &number, 0); /* another processor was faster */
		known = bpf_map_lookup_elem(&numbers, identity);
		return known ? *known : UNATTRIBUTED;
	}
	event = bpf_ringbuf_reserve(&seen, sizeof(*event), 0);
	if (event) {
		event->program = number;
		event->process = process;
		bpf_ringbuf_submit(event, 0);
	}
	return number;
}

static __always_inline __u32 program_of_current(__u32 process)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct file *file = BPF_CORE_READ(task, mm, exe_file);
	struct identity identity = {
		.group = BPF_CORE_READ(task, cgroups, dfl_cgrp, kn, id),
		.user = (__u32)bpf_get_current_uid_gid(),
		.kind = KIND_PROGRAM,
	};

	if (!file)
		return UNATTRIBUTED; /* a thread of the kernel */
	identity.inode = BPF_CORE_READ(file, f_inode, i_ino);
	identity.device = BPF_CORE_READ(file, f_inode, i_sb, s_dev);
	return number_of(&identity, task, process);
}

/* `socket` belongs to the process that is running now. */
#define OWN_BY_CURRENT(context, socket)                                                             \
	do {                                                                                        \
		__u32 process = bpf_get_current_pid_tgid() >> 32;                                   \
		struct settings *now_ = settings();                                                 \
		if (!now_ || bpf_get_netns_cookie(context) != now_->namespace)                      \
			break;                                                                      \
		struct socket_owner *owner =                                                        \
			bpf_sk_storage_get(&owners, (socket), 0, BPF_SK_STORAGE_GET_F_CREATE);      \
		if (owner && owner->process != process) {                                           \
			owner->process = process;                                                   \
			owner->program = program_of_current(process);                               \
		}                                                                                   \
	} while (0)

SEC("cgroup/sock_create")
int on_create(struct bpf_sock *socket)
{
	OWN_BY_CURRENT(socket, socket);
	return 1;
}

SEC("cgroup/connect4")
int on_connect4(struct bpf_sock_addr *call)
{
	if (call->sk)
		OWN_BY_CURRENT(call, call->sk);
	return 1;
}

SEC("cgroup/connect6")
int on_connect6(struct bpf_sock_addr *call)
{
	if (call->sk)
		OWN_BY_CURRENT(call, call->sk);
	return 1;
}

static __always_inline void note_use(__u32 program, __u32 pass)
{
	__u32 *last = bpf_map_lookup_elem(&last_passes, &program);

	if (last)
		*last = pass;
}

/* Sockets that are older than we, or were handed to another process. Read twice: first every socket whose recorded
 * process still has it open is noted, then the others go to whoever has them. */
SEC("iter/task_file")
int look_at_files(struct bpf_iter__task_file *step)
{
	struct task_struct *task = step->task;
	struct file *opened = step->file, *file;
	struct settings *now = settings();
	struct socket_owner *owner;
	struct identity identity = {.kind = KIND_PROGRAM};
	struct socket *socket;
	struct sock *sock;

	if (!task || !opened || !now)
		return 0;
	socket = bpf_sock_from_file(opened);
	if (!socket)
		return 0;
	sock = socket->sk;
	if (!sock || BPF_CORE_READ(sock, __sk_common.skc_net.net, net_cookie) != now->namespace)
		return 0;
	owner = bpf_sk_storage_get(&owners, sock, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!owner || owner->pass == now->pass)
		return 0;
	if (owner->process == (__u32)task->tgid) {
		owner->pass = now->pass;
		note_use(owner->program, now->pass);
		return 0;
	}
	file = BPF_CORE_READ(task, mm, exe_file);
	if (!now->adopting || !file)
		return 0;
	identity.inode = BPF_CORE_READ(file, f_inode, i_ino);
	identity.device = BPF_CORE_READ(file, f_inode, i_sb, s_dev);
	identity.user = BPF_CORE_READ(task, cred, uid.val);
	identity.group = BPF_CORE_READ(task, cgroups, dfl_cgrp, kn, id);
	owner->process = task->tgid;
	owner->pass = now->pass;
	owner->program = number_of(&identity, task, task->tgid);
	note_use(owner->program, now->pass);
	return 0;
}

/* -- which class it is of ---------------------------------------------------------------------------------------- */

struct judgement {
	struct flow_key *key;
	__u32 program;
	__u32 first_rule;
	__u32 traffic_class;
	__u16 port; /* the remote one, or ours of a flow that came to us; in the host's order */
	__u16 found;
};

static __always_inline int same_start(const __u8 *left, const __u8 *right, __u32 bits)
{
	for (int i = 0; i < 16; i++) {
		__u32 rest = bits > (__u32)i * 8 ? bits - i * 8 : 0;
		__u8 mask = rest >= 8 ? 0xff : (__u8)(0xff00 >> rest);

		if ((left[i] ^ right[i]) & mask)
			return 0;
	}
	return 1;
}

static __always_inline int same_name(const char *left, const char *right)
{
	const __u64 *a = (const __u64 *)left, *b = (const __u64 *)right;

	for (int i = 0; i < FILE_NAME_BYTES / 8; i++)
		if (a[i] != b[i])
			return 0;
	return 1;
}

static __always_inline int same_group(const char *name, const struct rule *rule)
{
	const __u64 *has = (const __u64 *)name, *wants = (const __u64 *)rule->group_name;
	const __u64 *mask = (const __u64 *)rule->group_mask;
	__u64 difference = 0;

	for (int i = 0; i < GROUP_NAME_BYTES / 8; i++)
		difference |= (has[i] ^ wants[i]) & mask[i];
	return !difference;
}

static __always_inline int agrees(const struct rule *rule, const struct program *program,
				  const struct judgement *flow)
{
	const struct flow_key *key = flow->key;
	__u8 protocol = key->protocol == IPPROTO_ICMPV6 ? IPPROTO_ICMP : key->protocol;

	if (rule->fields & (RULE_INODE | RULE_NAME | RULE_GROUP | RULE_USER) && flow->program == UNATTRIBUTED)
		return 0;
	if (rule->fields & (RULE_INODE | RULE_NAME | RULE_USER) && program->identity.kind != KIND_PROGRAM)
		return 0;
	if (rule->fields & RULE_INODE && rule->inode != program->identity.inode)
		return 0;
	if (rule->fields & RULE_NAME && !same_name(rule->file_name, program->file_name))
		return 0;
	if (rule->fields & RULE_USER && rule->user != program->identity.user)
		return 0;
	if (rule->fields & RULE_GROUP && !same_group(program->group_names[0], rule) &&
	    !same_group(program->group_names[1], rule) && !same_group(program->group_names[2], rule))
		return 0;
	if (rule->fields & RULE_PROTOCOL && rule->protocol != protocol)
		return 0;
	if (rule->fields & RULE_PORTS && (flow->port < rule->first_port || flow->port > rule->last_port))
		return 0;
	if (rule->fields & RULE_REMOTE &&
	    (rule->family != key->family || !same_start(rule->remote, key->remote, rule->prefix_bits)))
		return 0;
	return 1;
}

static long try_rule(__u64 index, void *context)
{
	struct judgement *flow = context;
	__u32 number = flow->first_rule + (__u32)index, who = flow->program;
	struct rule *rule = bpf_map_lookup_elem(&rules, &number);
	struct program *program = bpf_map_lookup_elem(&programs, &who);

	if (!rule || !program || !agrees(rule, program, flow))
		return 0;
	flow->traffic_class = rule->traffic_class;
	flow->found = 1;
	return 1;
}

/* DNS, DHCP, NTP, ICMP, agreements between neighbours, and an interactive shell go first unless a rule says else. */
static __always_inline int is_control(const struct flow_key *key, __u16 port)
{
	if (key->protocol == IPPROTO_ICMP || key->protocol == IPPROTO_ICMPV6)
		return 1;
	if (key->protocol == IPPROTO_TCP)
		return port == 53 || port == 853 || port == 22 || port == 7414;
	if (key->protocol == IPPROTO_UDP)
		return port == 53 || port == 67 || port == 68 || port == 123 || port == 546 || port == 547;
	return 0;
}

/* A class number below CLASSES_MAX. */
static __always_inline __u32 judge(struct flow_key *key, __u32 program, int inbound, const struct settings *now)
{
	struct judgement flow = {
		.key = key,
		.program = program,
		.first_rule = (now->bank & 1) * RULES_MAX,
		.port = bpf_ntohs(inbound ? key->local_port : key->remote_port),
	};

	bpf_loop(now->rules < RULES_MAX ? now->rules : RULES_MAX, try_rule, &flow, 0);
	if (!flow.found)
		flow.traffic_class = is_control(key, flow.port) ? CLASS_CONTROL : CLASS_DEFAULT;
	return flow.traffic_class & (CLASSES_MAX - 1);
}

static __always_inline __u16 minor_for(__u32 class_number)
{
	struct traffic_class *class = bpf_map_lookup_elem(&classes, &class_number);
	__u32 *next;

	if (!class || !class->flow_leaves)
		return LEAF_MINOR + class_number;
	next = bpf_map_lookup_elem(&next_leaves, &class_number);
	return FLOW_LEAF_MINOR + class_number * FLOW_LEAVES + (next ? ADD(*next, 1) : 0) % FLOW_LEAVES;
}

/* -- packets ------------------------------------------------------------------------------------------------------ */

struct arrival {
	struct flow_key key;
	__u32 packets;
	__u32 bytes;
	__u8 ecn;
	__u8 opens; /* a TCP SYN without ACK */
	__u8 flags; /* TCP's, the low eight */
	__u32 transport; /* where its header begins, from the IP header's; 0: it is not there */
};

struct ip4 {
	__u8 version_length, tos;
	__be16 total_length, id, fragment;
	__u8 ttl, protocol;
	__be16 check;
	__u8 source[4], destination[4];
};

struct ip6 {
	__u8 version_class, class_label;
	__be16 label;
	__be16 payload_length;
	__u8 next_header, hop_limit;
	__u8 source[16], destination[16];
};

#define ENDS(arrival, header, size, leaves)                                                        	do {                                                                                        		__builtin_memcpy((arrival)->key.local, (leaves) ? (header).source : (header).destination, size);  		__builtin_memcpy((arrival)->key.remote, (leaves) ? (header).destination : (header).source, size); 	} while (0)

/* Where the transport header begins behind an IPv6 header and its extensions; 0 if it cannot be said. */
static __always_inline __u32 behind_extensions(struct __sk_buff *skb, __u8 *next)
{
	struct { __u8 next, length; __be16 offset; } extension;
	__u32 at = sizeof(struct ip6);

	for (int i = 0; i < 6; i++) {
		__u8 kind = *next;

		if (kind != IPPROTO_HOPOPTS && kind != IPPROTO_ROUTING && kind != IPPROTO_DSTOPTS && kind != IPPROTO_FRAGMENT)
			return at;
		if (bpf_skb_load_bytes_relative(skb, at, &extension, sizeof(extension), BPF_HDR_START_NET))
			return 0;
		*next = extension.next;
		if (kind == IPPROTO_FRAGMENT && extension.offset & bpf_htons(0xfff8))
			return 0;
		at += kind == IPPROTO_FRAGMENT ? 8 : (extension.length + 1) * 8;
	}
	return 0;
}

/* 0 if it is an IP packet that we understand. Bytes and packets are as they are on the wire. */
static __always_inline int read_packet(struct __sk_buff *skb, struct arrival *it, int leaves)
{
	struct { __be16 source, destination; } ports;
	__u32 transport, headers;
	__u8 byte;

	it->key.interface = skb->ifindex;
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		struct ip4 ip;

		if (bpf_skb_load_bytes_relative(skb, 0, &ip, sizeof(ip), BPF_HDR_START_NET))
			return -1;
		ENDS(it, ip, 4, leaves);
		it->key.family = 4;
		it->key.protocol = ip.protocol;
		it->bytes = bpf_ntohs(ip.total_length);
		it->ecn = ip.tos & 3;
		transport = ip.fragment & bpf_htons(0x1fff) ? 0 : (ip.version_length & 15) * 4;
	} else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		struct ip6 ip;

		if (bpf_skb_load_bytes_relative(skb, 0, &ip, sizeof(ip), BPF_HDR_START_NET))
			return -1;
		ENDS(it, ip, 16, leaves);
		it->key.family = 6;
		it->bytes = bpf_ntohs(ip.payload_length) + sizeof(ip);
		it->ecn = (ip.class_label >> 4) & 3;
		it->key.protocol = ip.next_header;
		transport = behind_extensions(skb, &it->key.protocol);
	} else {
		return -1;
	}
	it->packets = skb->gso_segs > 1 ? skb->gso_segs : 1;
	if (it->packets > 1 && it->bytes < skb->gso_size * (it->packets - 1))
		it->bytes = skb->len - ETH_HLEN; /* longer than an IP header can say */
	if (!transport || (it->key.protocol != IPPROTO_TCP && it->key.protocol != IPPROTO_UDP))
		return 0;
	if (bpf_skb_load_bytes_relative(skb, transport, &ports, sizeof(ports), BPF_HDR_START_NET))
		return 0;
	it->key.local_port = leaves ? ports.source : ports.destination;
	it->key.remote_port = leaves ? ports.destination : ports.source;
	headers = transport + 8;
	if (it->key.protocol == IPPROTO_TCP) {
		if (!bpf_skb_load_bytes_relative(skb, transport + 13, &byte, 1, BPF_HDR_START_NET)) {
			it->opens = (byte & 0x12) == TCP_SYN;
			it->flags = byte;
			it->transport = transport;
		}
		if (it->packets == 1)
			return 0;
		if (!bpf_skb_load_bytes_relative(skb, transport + 12, &byte, 1, BPF_HDR_START_NET))
			headers = transport + (byte >> 4) * 4;
	}
	it->bytes += (it->packets - 1) * headers;
	return 0;
}

static __always_inline void count(struct tally *tally, const struct arrival *it)
{
	ADD(tally->packets, it->packets);
	ADD(tally->bytes, it->bytes);
	if (it->ecn == 3)
		ADD(tally->ce, it->packets);
	else if (it->ecn)
		ADD(tally->ect, it->packets);
}

/* Whose it is that leaves here: its socket's, or whoever is behind the interface that it came in by. */
static __always_inline __u32 sender(struct __sk_buff *skb, __u32 *process)
{
	struct bpf_sock *socket = skb->sk;
	struct socket_owner *owner;

	*process = 0;
	if (socket)
		socket = bpf_sk_fullsock(socket);
	if (socket) {
		owner = bpf_sk_storage_get(&owners, socket, 0, 0);
		if (!owner)
			return UNATTRIBUTED;
		*process = owner->process;
		return owner->program;
	}
	if (skb->ingress_ifindex && skb->ingress_ifindex != skb->ifindex) {
		struct identity identity = {
			.device = skb->tc_index ? skb->tc_index : skb->ingress_ifindex,
			.kind = KIND_FORWARDED,
		};

		return number_of(&identity, NULL, 0);
	}
	return UNATTRIBUTED;
}

/* Whose it is that arrives as the first packet of a flow: the socket's that waits for it. */
static __always_inline __u32 receiver(struct __sk_buff *skb, const struct arrival *it, __u32 *process)
{
	struct bpf_sock_tuple tuple = {};
	struct socket_owner *owner;
	struct bpf_sock *socket, *full;
	__u32 program = UNATTRIBUTED, size;

	*process = 0;
	if (it->key.family == 4) {
		__builtin_memcpy(&tuple.ipv4.saddr, it->key.remote, 4);
		__builtin_memcpy(&tuple.ipv4.daddr, it->key.local, 4);
		tuple.ipv4.sport = it->key.remote_port;
		tuple.ipv4.dport = it->key.local_port;
		size = sizeof(tuple.ipv4);
	} else {
		__builtin_memcpy(&tuple.ipv6.saddr, it->key.remote, 16);
		__builtin_memcpy(&tuple.ipv6.daddr, it->key.local, 16);
		tuple.ipv6.sport = it->key.remote_port;
		tuple.ipv6.dport = it->key.local_port;
		size = sizeof(tuple.ipv6);
	}
	if (it->key.protocol == IPPROTO_TCP)
		socket = bpf_skc_lookup_tcp(skb, &tuple, size, BPF_F_CURRENT_NETNS, 0);
	else if (it->key.protocol == IPPROTO_UDP)
		socket = bpf_sk_lookup_udp(skb, &tuple, size, BPF_F_CURRENT_NETNS, 0);
	else
		return UNATTRIBUTED;
	if (!socket)
		return UNATTRIBUTED;
	full = bpf_sk_fullsock(socket);
	if (full) {
		owner = bpf_sk_storage_get(&owners, full, 0, 0);
		if (owner) {
			program = owner->program;
			*process = owner->process;
		}
	}
	bpf_sk_release(socket);
	return program;
}

static __always_inline void move_counts(struct meter *from, struct meter *to, const struct meter *amount)
{
	const __u64 *source = (const __u64 *)amount;
	__u64 *minus = (__u64 *)from, *plus = (__u64 *)to;

	for (int i = 0; i < (int)(sizeof(*amount) / 8); i++) {
		ADD(minus[i], -source[i]);
		ADD(plus[i], source[i]);
	}
}

/* Once a second, and under a new plan: the flow's program and class as they are now. */
static __always_inline void judge_again(struct __sk_buff *skb, struct arrival *it, struct flow *flow, int leaves,
					const struct settings *now, __u32 second)
{
	__u32 old = flow->program, process, program;

	flow->judged_s = second;
	program = leaves ? sender(skb, &process) : old == UNATTRIBUTED ? receiver(skb, it, &process) : old;
	if (program != UNATTRIBUTED && program != old) {
		struct meter *from = bpf_map_lookup_elem(&meters, &old), *to = bpf_map_lookup_elem(&meters, &program);

		if (old == UNATTRIBUTED && from && to)
			move_counts(from, to, &flow->meter); /* it was this program's from the beginning */
		flow->program = program;
		flow->process = process;
	} else if (flow->generation == now->generation) {
		return;
	}
	flow->traffic_class = judge(&it->key, flow->program, flow->inbound, now);
	flow->minor = minor_for(flow->traffic_class);
	flow->generation = now->generation;
}

/* -- paced flows -------------------------------------------------------------------------------------------------- */

static __always_inline void look_up_pacing(const struct arrival *it, struct flow *flow, const struct settings *now)
{
	struct paced *found = bpf_map_lookup_elem(&paced_flows, &it->key);

	if (bpf_ktime_get_coarse_ns() >= now->paced_until_ns)
		found = NULL;
	flow->paced_minor = found ? found->minor : 0;
	flow->marks = found ? found->marks : 0;
	flow->pacing = now->pacing;
}

/* Whether the packet's IP header is where it should be: what follows is written, not only read. */
static __always_inline int has_header_at(struct __sk_buff *skb, const struct arrival *it, __u32 at)
{
	__u8 first;

	return !bpf_skb_load_bytes(skb, at, &first, sizeof(first)) && first >> 4 == it->key.family;
}

/* Not-ECT becomes ECT(0), but not in a SYN: there it would say something else. `at`: of the IP header in the packet. */
static __always_inline void make_capable(struct __sk_buff *skb, struct arrival *it, __u32 at)
{
	__be16 was, now;

	if (it->ecn || it->flags & TCP_SYN || !has_header_at(skb, it, at))
		return;
	if (bpf_skb_load_bytes(skb, at, &was, sizeof(was)))
		return;
	now = was | (it->key.family == 4 ? bpf_htons(ECN_ECT0) : bpf_htons(ECN_ECT0 << 4));
	if (it->key.family == 4 && bpf_l3_csum_replace(skb, at + offsetof(struct ip4, check), was, now, sizeof(now)))
		return;
	if (!bpf_skb_store_bytes(skb, at, &now, sizeof(now), 0))
		it->ecn = ECN_ECT0;
}

/* ECE is cleared, but not in a SYN: there it is an offer. Of a connection with Accurate ECN it is a part of a number
 * and must not be touched: the agent says so. */
static __always_inline void hide_marks(struct __sk_buff *skb, const struct arrival *it, __u32 at)
{
	__u32 transport = at + it->transport;
	__be16 was, now;

	if (!(it->flags & TCP_ECE) || it->flags & TCP_SYN || !has_header_at(skb, it, at))
		return;
	if (bpf_skb_load_bytes(skb, transport + 12, &was, sizeof(was)))
		return;
	now = was & ~bpf_htons(TCP_ECE);
	if (!bpf_l4_csum_replace(skb, transport + 16, was, now, sizeof(now)))
		bpf_skb_store_bytes(skb, transport + 12, &now, sizeof(now), 0);
}

/* Counts the packet; the minor number of the HTB class that it goes to, and PACED. */
static __always_inline __u32 account(struct __sk_buff *skb, struct arrival *it, struct link *link,
				     const struct link_shape *shape, int leaves)
{
	__u64 now_ns = bpf_ktime_get_coarse_ns();
	__u32 second = now_ns / NS_PER_S, program;
	const struct settings *now = settings();
	__u32 class_number = CLASS_DEFAULT;
	struct meter *meter;
	struct flow *flow;
	__u64 *seen_ns;
	__u32 minor;

	flow = bpf_map_lookup_elem(&flows, &it->key);
	if (!flow && now) {
		struct flow fresh = {.first_ns = now_ns, .judged_s = second, .generation = now->generation};

		fresh.inbound = leaves ? 0 : 1;
		fresh.program = leaves ? sender(skb, &fresh.process) : receiver(skb, it, &fresh.process);
		fresh.traffic_class = judge(&it->key, fresh.program, fresh.inbound, now);
		fresh.minor = minor_for(fresh.traffic_class);
		bpf_map_update_elem(&flows, &it->key, &fresh, BPF_NOEXIST);
		flow = bpf_map_lookup_elem(&flows, &it->key);
		if (!flow) { /* the table is full: counted for its program all the same */
			ADD(link->beyond_table, it->packets);
			program = fresh.program;
			class_number = fresh.traffic_class;
			minor = fresh.minor;
		}
	}
	if (flow) {
		if (now && (flow->generation != now->generation || flow->judged_s != second)) {
			judge_again(skb, it, flow, leaves, now, second);
			flow->pacing = now->pacing - 1; /* looked up below: the agent may be silent by now */
		}
		if (now && flow->pacing != now->pacing)
			look_up_pacing(it, flow, now);
		if (flow->marks && shape) {
			if (leaves && flow->marks & MARKS_CAPABLE)
				make_capable(skb, it, shape->bare ? 0 : ETH_HLEN);
			else if (!leaves && flow->marks & MARKS_HIDDEN)
				hide_marks(skb, it, shape->bare ? 0 : ETH_HLEN);
		}
		flow->last_ns = now_ns;
		count(leaves ? &flow->meter.sent : &flow->meter.received, it);
		program = flow->program;
		class_number = flow->traffic_class;
		minor = leaves && flow->paced_minor ? PACED | flow->paced_minor : flow->minor;
	} else if (!now) {
		program = UNATTRIBUTED;
		minor = LEAF_MINOR + CLASS_DEFAULT;
	}
	meter = bpf_map_lookup_elem(&meters, &program);
	if (meter)
		count(leaves ? &meter->sent : &meter->received, it);
	count(leaves ? &link->meter.sent : &link->meter.received, it);
	seen_ns = bpf_map_lookup_elem(&last_seen, &class_number);
	if (seen_ns && *seen_ns != now_ns) /* the clock is coarse: most packets write nothing */
		*seen_ns = now_ns;
	return minor;
}

SEC("tc")
int on_leave(struct __sk_buff *skb)
{
	__u32 index = skb->ifindex;
	struct link *link = bpf_map_lookup_elem(&links, &index);
	struct link_shape *shape;
	struct arrival it = {};
	__u32 minor;

	if (!link)
		return TCX_NEXT;
	ADD(link->skbs_sent, 1);
	if (read_packet(skb, &it, 1))
		return TCX_NEXT;
	shape = bpf_map_lookup_elem(&link_shapes, &index);
	minor = account(skb, &it, link, shape, 1);
	if (minor & PACED || (shape && shape->egress))
		skb->priority = HTB_HANDLE | (minor & 0xffff);
	return TCX_NEXT;
}

SEC("tc")
int on_arrive(struct __sk_buff *skb)
{
	__u32 index = skb->ifindex;
	struct link *link = bpf_map_lookup_elem(&links, &index);
	struct link_shape *shape;
	struct arrival it = {};
	__u32 minor;

	if (!link)
		return TCX_NEXT;
	ADD(link->skbs_received, 1);
	if (read_packet(skb, &it, 0))
		return TCX_NEXT;
	shape = bpf_map_lookup_elem(&link_shapes, &index);
	minor = account(skb, &it, link, shape, 0);
	if (!shape || !shape->ingress_ifb)
		return TCX_NEXT;
	if (shape->bare && bpf_skb_change_head(skb, ETH_HLEN, 0))
		return TCX_NEXT;
	skb->priority = HTB_HANDLE | minor;
	return bpf_redirect(shape->ingress_ifb, 0);
}

/* At the ports of a bridge: which port a forwarded packet came in by, since behind the bridge it is only "the bridge". */
SEC("tc")
int on_bridge_port(struct __sk_buff *skb)
{
	skb->tc_index = (__u16)skb->ifindex;
	return TCX_NEXT;
}

/* -- sockets that are paced, or controlled in another way ---------------------------------------------------------- */

/* Sets up one TCP socket by its class. `context` is what bpf_setsockopt takes. */
#define SET_UP(context, owner, class_number, storage_socket)                                       	do {                                                                                        		__u32 number_ = (class_number);                                                     		struct traffic_class *class_ = bpf_map_lookup_elem(&classes, &number_);             		__u32 rate_, *weight_;                                                              		if (!class_)                                                                        			break;                                                                      		rate_ = class_->pacing_bytes_s;                                                     		if (rate_ != (owner)->paced_bytes_s) {                                              			__u32 set_ = rate_ ? rate_ : NO_PACING;                                     			if (!bpf_setsockopt((context), SOL_SOCKET, SO_MAX_PACING_RATE, &set_, 4))    				(owner)->paced_bytes_s = rate_;                                     		}                                                                                   		weight_ = bpf_sk_storage_get(&socket_weights, (storage_socket), 0,                  					     BPF_SK_STORAGE_GET_F_CREATE);                          		if (weight_)                                                                        			*weight_ = class_->weight;                                                  		if (class_->congestion_control[0]) {                                                			if (!(owner)->replaced[0])                                                  				bpf_getsockopt((context), SOL_TCP, TCP_CONGESTION, (owner)->replaced, 16); 			bpf_setsockopt((context), SOL_TCP, TCP_CONGESTION, class_->congestion_control, 16); 		} else if ((owner)->replaced[0]) {                                                  			bpf_setsockopt((context), SOL_TCP, TCP_CONGESTION, (owner)->replaced, 16);   			(owner)->replaced[0] = 0;                                                   		}                                                                                   	} while (0)

SEC("sockops")
int on_socket(struct bpf_sock_ops *event)
{
	struct bpf_sock *socket = event->sk;
	struct settings *now = settings();
	struct socket_owner *owner;
	struct flow_key key = {};
	int inbound = event->op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB;

	if (event->op != BPF_SOCK_OPS_TCP_CONNECT_CB && !inbound)
		return 1;
	if (!socket || !now || bpf_get_netns_cookie(event) != now->namespace)
		return 1;
	owner = bpf_sk_storage_get(&owners, socket, 0, 0);
	if (!owner)
		return 1;
	key.protocol = IPPROTO_TCP;
	key.local_port = bpf_htons(event->local_port);
	key.remote_port = event->remote_port >> 16;
	if (event->family == 2) {
		__u32 remote = event->remote_ip4;

		key.family = 4;
		__builtin_memcpy(key.remote, &remote, 4);
	} else {
		/* Read one by one: the verifier wants each at a constant offset of the unmodified context. */
		volatile struct bpf_sock_ops *told = event;
		__u32 *remote = (__u32 *)key.remote;

		key.family = 6;
		remote[0] = told->remote_ip6[0];
		remote[1] = told->remote_ip6[1];
		remote[2] = told->remote_ip6[2];
		remote[3] = told->remote_ip6[3];
	}
	SET_UP(event, owner, judge(&key, owner->program, inbound, now), socket);
	return 1;
}

/* Every TCP socket of this network namespace, under a new plan; or, putting back, as it was before us. */
SEC("iter/tcp")
int look_at_sockets(struct bpf_iter__tcp *step)
{
	struct settings *now = settings();
	struct sock_common *common = step->sk_common;
	struct socket_owner *owner;
	struct tcp_sock *tcp;
	struct flow_key key = {.protocol = IPPROTO_TCP};

	if (!common || !now)
		return 0;
	tcp = bpf_skc_to_tcp_sock(common);
	if (!tcp)
		return 0;
	owner = bpf_sk_storage_get(&owners, tcp, 0, 0);
	if (now->putting_back) {
		__u32 rate = NO_PACING;
		__u64 has = ((struct sock *)tcp)->sk_max_pacing_rate;

		if (has < NO_PACING && (has & 0xff) == PACING_TAG)
			bpf_setsockopt(tcp, SOL_SOCKET, SO_MAX_PACING_RATE, &rate, sizeof(rate));
		if (owner && owner->replaced[0])
			bpf_setsockopt(tcp, SOL_TCP, TCP_CONGESTION, owner->replaced, sizeof(owner->replaced));
		return 0;
	}
	if (!owner)
		return 0;
	key.local_port = bpf_htons(common->skc_num);
	key.remote_port = common->skc_dport;
	if (common->skc_family == 2) {
		__be32 remote = common->skc_daddr;

		key.family = 4;
		__builtin_memcpy(key.remote, &remote, 4);
	} else {
		key.family = 6;
		BPF_CORE_READ_INTO(&key.remote, common, skc_v6_daddr);
	}
	SET_UP(tcp, owner, judge(&key, owner->program, 0, now), tcp);
	return 0;
}

char _license[] SEC("license") = "GPL";
