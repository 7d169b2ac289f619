/* The Bill-Pay header as packets meet it in the kernel: find it, check its MAC, put it in, change it, take it out.
 *
 * The same answers, bit for bit, as billpay/packet.py, header.py, mac.py and segments.py, whose comments say why; here
 * is how. The usual layouts are read and written in place; what is unusual is walked byte by byte in functions of its
 * own. Every header that is accepted lies in the first READ_BYTES of its packet, which `read_packet` brings into one
 * piece. Functions that are not static are looked at by the verifier once, whoever calls them.
 *
 * Sums: 2^16 is 1 modulo 65535, so checksums are added up of words of any size, as they lie in memory.
 */
#pragma once
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/types.h>
#include <stddef.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define TCX_NEXT (-1)
#define PACKET_OTHERHOST 3 /* somebody else's, seen by a promiscuous interface */

#define IPV4_BYTES 20u
#define IPV6_BYTES 40u
#define IPV4_OPTION 0x9e
#define IPV6_OPTION 0x3e
#define OADS_MAX 7u
#define PATH_LENGTH_MAX 15u
#define SMALLEST_WITH_CARRIER 32u
#define HEADER_SPACE 128u     /* more than any header that we accept, with its IP header */
#define READ_BYTES 112u       /* the longest of them, and the ports and lengths behind it */
#define FRAGMENT_BITS 0x3fff  /* more fragments, or an offset */
#define EXTENSIONS_MAX 8
#define HOP_BY_HOP_MAX 2048   /* bytes */

#define NEXT_HOP_BY_HOP 0
#define NEXT_ICMP 1
#define NEXT_TCP 6
#define NEXT_UDP 17
#define NEXT_ROUTING 43
#define NEXT_FRAGMENT 44
#define NEXT_ESP 50
#define NEXT_AH 51
#define NEXT_ICMPV6 58
#define NEXT_NONE 59
#define NEXT_DESTINATION 60

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define LITTLE16(word) ((__u16)(word))
#define LITTLE32(word) ((__u64)(word))
#define LITTLE64(word) (word)
#else
#define LITTLE16(word) __builtin_bswap16((__u16)(word))
#define LITTLE32(word) ((__u64)__builtin_bswap32(word))
#define LITTLE64(word) __builtin_bswap64(word)
#endif

/* Time and chance come from outside where a program is compared with the core that it has to equal: set before load. */
const volatile __u32 injected = 0;

#define NOW_NS(settings) (injected ? (settings)->now_ns : bpf_ktime_get_ns())
#define DRAW(settings, draws_max)                                                                                      \
	(injected ? (settings)->draws[(settings)->draws_used++ % (draws_max)] : bpf_get_prandom_u32())

/* What `locate` says; the reasons in the order of billpay.header.Malformed. */
enum located {
	NO_HEADER = -2,
	HEADER = -1,
	TRUNCATED = 0,
	LENGTH,
	OVERRUN,
	OAD_COUNT,
	DUPLICATE,
	AMOUNT_OVER_CEILING,
	ON_FRAGMENT,
	SHARED,
};

/* billpay.header.CannotCarry, and that it can. */
enum cannot_carry {
	CAN_CARRY = -1,
	NOT_IP = 0,
	FRAGMENT,
	AH,
	HOP_BY_HOP_PRESENT,
	ALREADY_PRESENT,
	OPTIONS_FULL,
	TOO_BIG,
};

/* An IP packet in an skb, and where its upper layer is. */
struct packet {
	__u32 start;	 /* of the IP header in the skb: bytes of the link layer */
	__u32 size;	 /* of the IP packet, padding of the link layer left out */
	__u32 offset;	 /* of the upper layer, from the IP header; where `is_whole` */
	__u8 version;	 /* 4 or 6 */
	__u8 protocol;	 /* of the upper layer */
	__u8 is_whole;	 /* the IP header and its extensions */
	__u8 is_fragment;
};

/* Where a well-formed header is, from the IP header. */
struct bill {
	__u32 offset; /* of the base word */
	__u32 oad_count;
	__u32 start; /* of its carrier */
	__u32 length;
};

/* The words of a header, as on the wire; slots that it has not are 0. */
struct header_words {
	__be32 base;
	__be32 slots[OADS_MAX];
	__u64 mac; /* the field's six bytes, the first one lowest */
};

struct segments {
	__u32 packets;
	__u32 wire_bytes; /* of all together, IP headers and all */
	__u32 header_bytes; /* in front of each content */
};

#define WORD16(at) (*(__u16 *)(at))
#define WORD32(at) (*(__u32 *)(at))
#define WORD64(at) (*(__u64 *)(at))
/* The compiler takes the value as it is in a register from here on: so a bound that is checked next is one that the
 * verifier sees hold. */
#define IN_REGISTER(value) asm volatile("" : "+r"(value))

/* The packet's bytes. In assembly, since the compiler would add to `skb` first, which the verifier does not like. */
#define CONTEXT_FIELD(skb, field)                                                                                      \
	({                                                                                                             \
		__u8 *value;                                                                                           \
		asm volatile("%0 = *(u32 *)(%1 + %2)"                                                                  \
			     : "=r"(value)                                                                             \
			     : "r"(skb), "i"(offsetof(struct __sk_buff, field)));                                      \
		value;                                                                                                 \
	})
#define DATA(skb) CONTEXT_FIELD(skb, data)
#define DATA_END(skb) CONTEXT_FIELD(skb, data_end)
#define IP(skb, packet) (DATA(skb) + ((packet)->start & 15)) /* the mask is for the verifier */

/* -- sums --------------------------------------------------------------------------------------------------------- */

/* A sum of words as 16 bits; 0 only for 0. Adding ~word subtracts it: both 0xffff and 0xffffffff are 0 mod 65535. */
static __always_inline __u32 fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

/* The same as Python's `% 65535`: 0, never 0xffff. */
static __always_inline __u16 checksum_of(__u64 sum)
{
	__u32 folded = fold(sum);

	return folded == 0xffff ? 0 : folded;
}

/* -- packets ------------------------------------------------------------------------------------------------------ */

static __always_inline int has_ports(__u8 protocol)
{
	return protocol == NEXT_TCP || protocol == NEXT_UDP || protocol == 33 || protocol == 132 || protocol == 136;
}

static __always_inline int is_skippable(__u8 next)
{
	return next == NEXT_HOP_BY_HOP || next == NEXT_ROUTING || next == NEXT_DESTINATION || next == 135 ||
	       next == 139 || next == 140;
}

/* billpay.header._SAFE_AFTER_HOP_BY_HOP */
static __always_inline int is_safe(__u8 next)
{
	return has_ports(next) || next == NEXT_ICMP || next == NEXT_ESP || next == NEXT_ICMPV6 || next == NEXT_NONE;
}

static __always_inline void set_transport(struct packet *packet, __u8 protocol, __u32 offset, __u8 is_fragment)
{
	packet->protocol = protocol;
	packet->offset = offset;
	packet->is_fragment = is_fragment;
	packet->is_whole = 1;
}

/* billpay.packet._walk_ipv6 */
__noinline int walk_extensions(struct __sk_buff *skb, struct packet *packet, __u32 next)
{
	__u32 at = IPV6_BYTES, limit = EXTENSIONS_MAX + (next == NEXT_HOP_BY_HOP);
	__u8 head[2];

	if (!packet)
		return 0;
	for (__u32 i = 0; i < EXTENSIONS_MAX + 1; i++) {
		if (i >= limit)
			return 0;
		if (next != NEXT_FRAGMENT && !is_skippable(next)) {
			set_transport(packet, next, at, 0);
			return 0;
		}
		if (packet->size < at + 8 || bpf_skb_load_bytes(skb, packet->start + at, head, sizeof(head)))
			return 0;
		if (next == NEXT_FRAGMENT) {
			set_transport(packet, head[0], at + 8, 1);
			return 0;
		}
		next = head[0];
		at += ((__u32)head[1] + 1) << 3;
		if (at > packet->size)
			return 0;
	}
	return 0;
}

/* The headers of an IP packet in one piece: how many bytes of it, 0 if they could not be had. */
static __always_inline __u32 bring_together(struct __sk_buff *skb, __u32 start)
{
	__u32 length = skb->len, wanted = start + READ_BYTES;

	if (length <= start)
		return 0;
	if (wanted > length)
		wanted = length;
	if (DATA(skb) + wanted > DATA_END(skb) && bpf_skb_pull_data(skb, wanted))
		return 0;
	return length - start;
}

/* 1: a whole IP header, and `packet` says what is behind it; 0: not; -1: it could not be read. `start`: 14 or 0. */
static __always_inline int read_packet(struct __sk_buff *skb, __u32 start, struct packet *packet)
{
	__u32 size = bring_together(skb, start), said;
	__u8 *ip, *end;

	if (!size)
		return skb->len > start ? -1 : 0;
	ip = DATA(skb) + start;
	end = DATA_END(skb);
	packet->start = start;
	packet->size = size;
	packet->is_whole = 0;
	packet->is_fragment = 0;
	packet->protocol = 0;
	packet->offset = 0;
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		if (ip + IPV4_BYTES > end || ip[0] >> 4 != 4)
			return 0;
		packet->version = 4;
		said = bpf_ntohs(WORD16(ip + 2));
		if (said < size && said >= IPV4_BYTES) /* as the kernel trims it before anybody else looks */
			packet->size = said;
		said = (__u32)(ip[0] & 15) << 2;
		if (said >= IPV4_BYTES && said <= packet->size)
			set_transport(packet, ip[9], said, (WORD16(ip + 6) & bpf_htons(FRAGMENT_BITS)) != 0);
		return 1;
	}
	if (skb->protocol != bpf_htons(ETH_P_IPV6) || ip + IPV6_BYTES > end || ip[0] >> 4 != 6)
		return 0;
	packet->version = 6;
	said = bpf_ntohs(WORD16(ip + 4));
	if (said && IPV6_BYTES + said < size)
		packet->size = IPV6_BYTES + said;
	if (ip[6] != NEXT_FRAGMENT && !is_skippable(ip[6])) {
		set_transport(packet, ip[6], IPV6_BYTES, 0);
		return 1;
	}
	if (ip[6] == NEXT_HOP_BY_HOP && packet->size >= IPV6_BYTES + 8 && ip + IPV6_BYTES + 8 <= end) {
		said = IPV6_BYTES + 8 + ((__u32)ip[41] << 3);
		if (said <= packet->size && ip[40] != NEXT_FRAGMENT && !is_skippable(ip[40])) {
			set_transport(packet, ip[40], said, 0);
			return 1;
		}
	}
	walk_extensions(skb, packet, ip[6]);
	return 1;
}

/* A word of the packet that its size covers; 0 where it cannot be read. */
static __always_inline __u32 word_at(struct __sk_buff *skb, const struct packet *packet, __u32 at)
{
	__u32 word = 0;

	if (at <= HEADER_SPACE) {
		__u8 *place = IP(skb, packet) + at;

		if (place + 4 <= DATA_END(skb))
			return WORD32(place);
	}
	if (bpf_skb_load_bytes(skb, packet->start + at, &word, sizeof(word)))
		return 0;
	return word;
}

static __always_inline __u8 byte_at(struct __sk_buff *skb, const struct packet *packet, __u32 at)
{
	__u8 byte = 0;

	bpf_skb_load_bytes(skb, packet->start + at, &byte, sizeof(byte));
	return byte;
}

/* Source and destination port as they lie in the packet; 0 where a flow has none (billpay.packet.flow_key). */
static __always_inline __u32 ports_of(struct __sk_buff *skb, const struct packet *packet)
{
	if (!packet->is_whole || packet->is_fragment || !has_ports(packet->protocol) ||
	    packet->size < packet->offset + 4)
		return 0;
	return word_at(skb, packet, packet->offset);
}

/* billpay.segments.segments_of; `segment_bytes` is skb->gso_size. */
static __always_inline void segments_of(struct __sk_buff *skb, const struct packet *packet, __u32 segment_bytes,
					struct segments *segments)
{
	__u32 headers = packet->offset, size = packet->size;

	segments->packets = 1;
	segments->wire_bytes = size;
	segments->header_bytes = 0;
	if (!segment_bytes || !packet->is_whole || packet->is_fragment)
		return;
	if (packet->protocol == NEXT_TCP && size > headers + 12)
		headers += (byte_at(skb, packet, headers + 12) >> 4) << 2;
	else if (packet->protocol == NEXT_UDP)
		headers += 8;
	else
		return;
	if (size > headers)
		segments->packets = (size - headers + segment_bytes - 1) / segment_bytes;
	segments->wire_bytes = size + (segments->packets - 1) * headers;
	segments->header_bytes = headers;
}

/* TTL or hop limit at its end: the kernel answers it with an ICMP error. */
static __always_inline int expires_here(struct __sk_buff *skb, const struct packet *packet)
{
	__u8 *ip = IP(skb, packet);

	if (ip + IPV4_BYTES > DATA_END(skb))
		return 1;
	return (packet->version == 4 ? ip[8] : ip[7]) <= 1;
}

/* Sets *congestion experienced* where the sender understands it and nobody has set it yet; whether it did. */
static __always_inline int set_ce(struct __sk_buff *skb, const struct packet *packet)
{
	__u8 *ip = IP(skb, packet);
	__u32 before, after, ecn;

	if (ip + IPV4_BYTES > DATA_END(skb))
		return 0;
	before = WORD16(ip);
	ecn = packet->version == 4 ? ip[1] & 3 : ip[1] >> 4 & 3;
	if (ecn != 1 && ecn != 2)
		return 0;
	ip[1] |= packet->version == 4 ? 3 : 0x30;
	after = WORD16(ip);
	if (packet->version == 4)
		WORD16(ip + 10) = checksum_of((__u64)WORD16(ip + 10) + before + (after ^ 0xffff));
	else
		bpf_csum_update(skb, after + (before ^ 0xffff));
	return 1;
}

/* -- finding ------------------------------------------------------------------------------------------------------ */

struct walk {
	struct __sk_buff *skb;
	__u32 start; /* of the IP packet */
	__u32 at;
	__u32 present; /* where what is there ends */
	__u32 end;     /* where it should */
	__u32 found;   /* where the option starts; 0: not yet */
	__s32 outcome; /* HEADER: none but what `found` says */
	__u8 wanted;
	__u8 one_byte;
	__u8 beyond_length;
};

static long walk_option(__u32 index, void *context)
{
	struct walk *walk = context;
	__u32 at = walk->at, length = 0;
	__u8 kind, said;

	if (at >= walk->present)
		return 1;
	if (bpf_skb_load_bytes(walk->skb, walk->start + at, &kind, sizeof(kind))) {
		walk->outcome = TRUNCATED;
		return 1;
	}
	if (kind == walk->one_byte) {
		walk->at = at + 1;
		return 0;
	}
	if (!kind)
		return 1;
	if (at + 1 < walk->present && !bpf_skb_load_bytes(walk->skb, walk->start + at + 1, &said, sizeof(said)))
		length = (__u32)said + walk->beyond_length;
	if (length < 2 || at + length > walk->present) {
		walk->outcome = NO_HEADER;
		if (kind == walk->wanted || walk->found)
			walk->outcome = walk->present == walk->end ? OVERRUN : TRUNCATED;
		return 1;
	}
	if (kind == walk->wanted) {
		if (walk->found) {
			walk->outcome = DUPLICATE;
			return 1;
		}
		walk->found = at;
	}
	walk->at = at + length;
	return 0;
}

/* billpay.header._walk_options: HEADER and where it starts, NO_HEADER, or why it is malformed. `found`: as if ours had
 * been met there already. */
__noinline int walk_options(struct __sk_buff *skb, const struct packet *packet, __u32 end, __u32 *found)
{
	struct walk walk = {};

	if (!packet || !found)
		return NO_HEADER;
	walk = (struct walk){
		.skb = skb,
		.start = packet->start,
		.at = packet->version == 4 ? IPV4_BYTES : IPV6_BYTES + 2,
		.present = end < packet->size ? end : packet->size,
		.end = end,
		.found = *found,
		.outcome = HEADER,
		.wanted = packet->version == 4 ? IPV4_OPTION : IPV6_OPTION,
		.one_byte = packet->version == 4,
		.beyond_length = packet->version == 4 ? 0 : 2,
	};

	bpf_loop(packet->version == 4 ? 64 : HOP_BY_HOP_MAX + 16, walk_option, &walk, 0);
	*found = walk.found;
	if (walk.outcome != HEADER)
		return walk.outcome;
	if (!walk.found)
		return NO_HEADER;
	return walk.present < end ? TRUNCATED : HEADER;
}

/* A header's size in bytes says how many slots it has; OADS_MAX + 1: none has that size. */
static __always_inline __u32 count_of_size(__u32 size)
{
	if (size < 10 || size > 38 || (size - 10) & 3)
		return OADS_MAX + 1;
	return (size - 10) >> 2;
}

static __always_inline __u32 carrier_bytes(__u32 version, __u32 count)
{
	return version == 4 ? 12 + 4 * count : (14 + 4 * count + 7) & ~7u;
}

/* Whether a hop-by-hop header ends with the PadN that belongs to so many slots. */
static __always_inline int is_padded(struct __sk_buff *skb, const struct packet *packet, __u32 end, __u32 count)
{
	__u8 pad[6] = {};

	if (bpf_skb_load_bytes(skb, packet->start + end - 6, pad, sizeof(pad)))
		return 0;
	if (count & 1)
		return WORD16(pad) == bpf_htons(0x0104) && !WORD16(pad + 2) && !WORD16(pad + 4);
	return WORD16(pad + 4) == bpf_htons(0x0100);
}

/* billpay.header._locate_slowly */
__noinline int locate_slowly(struct __sk_buff *skb, const struct packet *packet, __u32 max_amount, struct bill *bill)
{
	__u32 end, found = 0, count, base;
	int outcome;

	if (!packet || !bill)
		return NO_HEADER;
	if (packet->version == 4) {
		end = (__u32)(byte_at(skb, packet, 0) & 15) << 2;
	} else {
		if (packet->size < IPV6_BYTES + 2 || byte_at(skb, packet, 6) != NEXT_HOP_BY_HOP)
			return NO_HEADER;
		end = IPV6_BYTES + (((__u32)byte_at(skb, packet, 41) + 1) << 3);
	}
	outcome = walk_options(skb, packet, end, &found);
	if (outcome != HEADER)
		return outcome;
	count = count_of_size(byte_at(skb, packet, found + 1) - (packet->version == 4 ? 2 : 0));
	if (count > OADS_MAX)
		return LENGTH;
	base = bpf_ntohl(word_at(skb, packet, found + 2));
	if ((base & 15) != count)
		return OAD_COUNT;
	bill->offset = found + 2;
	bill->oad_count = count;
	bill->start = packet->version == 4 ? found : IPV6_BYTES;
	bill->length = carrier_bytes(packet->version, count);
	if (packet->version == 6 && (found != IPV6_BYTES + 2 || end != IPV6_BYTES + bill->length ||
				     !is_padded(skb, packet, end, count)))
		return SHARED;
	if (!packet->is_whole)
		return OVERRUN;
	if (packet->is_fragment)
		return ON_FRAGMENT;
	return base >> 8 > max_amount ? AMOUNT_OVER_CEILING : HEADER;
}

/* A well-formed header straight after the fixed part of its IP header and alone there: HEADER, and its base word. */
static __always_inline int locate_usual(struct __sk_buff *skb, const struct packet *packet, struct bill *bill,
					__u32 *base)
{
	__u8 *ip = IP(skb, packet), *end = DATA_END(skb), *pad;
	__u32 count;

	if (ip + SMALLEST_WITH_CARRIER > end)
		return NO_HEADER;
	if (packet->version == 4) {
		count = (__u32)ip[0] - 0x48;
		if (count > OADS_MAX || packet->size < 32 + 4 * count)
			return NO_HEADER;
		*base = bpf_ntohl(WORD32(ip + 22));
		if (WORD16(ip + 20) != bpf_htons(IPV4_OPTION << 8 | (12 + 4 * count)) || (*base & 15) != count ||
		    WORD16(ip + 6) & bpf_htons(FRAGMENT_BITS))
			return NO_HEADER;
		bill->offset = 22;
		bill->start = IPV4_BYTES;
	} else {
		if (ip + 48 > end)
			return NO_HEADER;
		*base = bpf_ntohl(WORD32(ip + 44));
		count = *base & 15;
		if (count > OADS_MAX || WORD16(ip + 42) != bpf_htons(IPV6_OPTION << 8 | (10 + 4 * count)) ||
		    ip[41] != (carrier_bytes(6, count) >> 3) - 1 || !is_safe(ip[40]) ||
		    packet->size < IPV6_BYTES + carrier_bytes(6, count))
			return NO_HEADER;
		pad = ip + 54 + 4 * count;
		if (pad + 2 > end)
			return NO_HEADER;
		if (count & 1) {
			if (pad + 6 > end || WORD16(pad) != bpf_htons(0x0104) || WORD32(pad + 2))
				return NO_HEADER;
		} else if (WORD16(pad) != bpf_htons(0x0100)) {
			return NO_HEADER;
		}
		bill->offset = 44;
		bill->start = IPV6_BYTES;
	}
	bill->oad_count = count;
	bill->length = carrier_bytes(packet->version, count);
	return HEADER;
}

/* billpay.header.locate: HEADER, NO_HEADER, or why it is malformed. */
static __always_inline int locate(struct __sk_buff *skb, const struct packet *packet, __u32 max_amount,
				  struct bill *bill)
{
	__u8 *ip = IP(skb, packet);
	__u32 base;

	if (ip + IPV4_BYTES > DATA_END(skb))
		return NO_HEADER;
	if (packet->version == 4 ? ip[0] <= 0x45 : ip[6] != NEXT_HOP_BY_HOP)
		return NO_HEADER;
	if (packet->size >= SMALLEST_WITH_CARRIER && locate_usual(skb, packet, bill, &base) == HEADER)
		return base >> 8 > max_amount ? AMOUNT_OVER_CEILING : HEADER;
	return locate_slowly(skb, packet, max_amount, bill);
}

/* The header that was located; whether it could be read. */
static __always_inline int read_words(struct __sk_buff *skb, const struct packet *packet, const struct bill *bill,
				      struct header_words *words)
{
	__u8 *place = IP(skb, packet) + (bill->offset & 63), *end = DATA_END(skb), *field;

	if (place + 4 > end)
		return 0;
	words->base = WORD32(place);
#pragma unroll
	for (__u32 i = 0; i < OADS_MAX; i++) {
		words->slots[i] = 0;
		if (i < bill->oad_count && place + 8 + 4 * i <= end)
			words->slots[i] = WORD32(place + 4 + 4 * i);
	}
	field = place + 4 + 4 * (bill->oad_count & 7);
	if (field + 6 > end)
		return 0;
	words->mac = LITTLE32(WORD32(field)) | (__u64)LITTLE16(WORD16(field + 4)) << 32;
	return 1;
}

/* -- MAC ---------------------------------------------------------------------------------------------------------- */

/* What is authenticated (billpay.mac.mac_input) as SipHash takes it: little-endian words, the last one with the length.
 * The addresses apart, so that every other word has a fixed place. */
struct mac_input {
	__u64 addresses[4];
	__u64 rest[7];
	__u32 address_words; /* 1 or 4 */
	__u32 rest_words;
};

#define MAC_MASK 0xffffffffffffull
#define ROTATE(value, bits) ((value) << (bits) | (value) >> (64 - (bits)))
#define SIP_ROUND(a, b, c, d)                                                                                          \
	do {                                                                                                           \
		a += b;                                                                                                \
		b = ROTATE(b, 13) ^ a;                                                                                 \
		a = ROTATE(a, 32);                                                                                     \
		c += d;                                                                                                \
		d = ROTATE(d, 16) ^ c;                                                                                 \
		a += d;                                                                                                \
		d = ROTATE(d, 21) ^ a;                                                                                 \
		c += b;                                                                                                \
		b = ROTATE(b, 17) ^ c;                                                                                 \
		c = ROTATE(c, 32);                                                                                     \
	} while (0)

/* The six bytes of a MAC, the first one lowest. The key's bytes as two little-endian words. */
__noinline __u64 mac_of(const struct mac_input *input, __u64 low_key, __u64 high_key)
{
	__u64 a = low_key ^ 0x736f6d6570736575ull, b = high_key ^ 0x646f72616e646f6dull;
	__u64 c = low_key ^ 0x6c7967656e657261ull, d = high_key ^ 0x7465646279746573ull;

	if (!input)
		return 0;
	for (__u32 i = 0; i < 4; i++) {
		if (i >= input->address_words)
			break;
		d ^= input->addresses[i];
		SIP_ROUND(a, b, c, d);
		SIP_ROUND(a, b, c, d);
		a ^= input->addresses[i];
	}
	for (__u32 i = 0; i < 7; i++) {
		if (i >= input->rest_words)
			break;
		d ^= input->rest[i];
		SIP_ROUND(a, b, c, d);
		SIP_ROUND(a, b, c, d);
		a ^= input->rest[i];
	}
	c ^= 0xff;
	SIP_ROUND(a, b, c, d);
	SIP_ROUND(a, b, c, d);
	SIP_ROUND(a, b, c, d);
	SIP_ROUND(a, b, c, d);
	return (a ^ b ^ c ^ d) & MAC_MASK;
}

/* Another epoch (minutes since 1970) in the same input. */
static __always_inline void set_epoch(struct mac_input *input, __u32 epoch)
{
	__u64 word = LITTLE32(bpf_htonl(epoch));

	input->rest[0] = (input->rest[0] & MAC_MASK) | word << 48;
	input->rest[1] = (input->rest[1] & ~0xffffull) | word >> 16;
}

/* All but addresses and epoch. `ports` as in the packet; the Pathlen in `base` does not count. */
static __always_inline void set_mac_words(struct mac_input *input, __u8 protocol, __u32 ports,
					  const struct header_words *words, __u32 oad_count)
{
	__u64 base = LITTLE32(words->base & bpf_htonl(0xffffff0f)), bytes;
	const __be32 *slots = words->slots;

	bytes = (input->address_words == 1 ? 22 : 46) + 4 * oad_count;
	input->rest[0] = protocol | LITTLE32(ports) << 16;
	input->rest[1] = base << 16 | LITTLE32(slots[0]) << 48;
	input->rest[2] = LITTLE32(slots[0]) >> 16 | LITTLE32(slots[1]) << 16 | LITTLE32(slots[2]) << 48;
	input->rest[3] = LITTLE32(slots[2]) >> 16 | LITTLE32(slots[3]) << 16 | LITTLE32(slots[4]) << 48;
	input->rest[4] = LITTLE32(slots[4]) >> 16 | LITTLE32(slots[5]) << 16 | LITTLE32(slots[6]) << 48;
	input->rest[5] = LITTLE32(slots[6]) >> 16;
	input->rest[6] = 0;
	input->rest_words = 2 + ((oad_count + 1) >> 1);
	/* What is behind the last slot is 0 there, so the length finds its place free. */
	input->rest[(input->rest_words - 1) & 7] |= bytes << 56;
}

/* Source and destination, as they lie in the packet. */
static __always_inline int set_mac_addresses(struct __sk_buff *skb, const struct packet *packet,
					     struct mac_input *input)
{
	__u8 *ip = IP(skb, packet);

	if (packet->version == 4) {
		if (ip + IPV4_BYTES > DATA_END(skb))
			return 0;
		input->address_words = 1;
		input->addresses[0] = LITTLE64(WORD64(ip + 12));
		return 1;
	}
	if (ip + IPV6_BYTES > DATA_END(skb))
		return 0;
	input->address_words = 4;
	input->addresses[0] = LITTLE64(WORD64(ip + 8));
	input->addresses[1] = LITTLE64(WORD64(ip + 16));
	input->addresses[2] = LITTLE64(WORD64(ip + 24));
	input->addresses[3] = LITTLE64(WORD64(ip + 32));
	return 1;
}

/* -- changing ----------------------------------------------------------------------------------------------------- */

/* The header with a new amount and path length, the name of who left it (0: no one's), and a new slot unless
 * `slot_index` is OADS_MAX. Nothing else changes but the IPv4 header checksum (billpay.header.update). */
static __always_inline int update(struct __sk_buff *skb, const struct packet *packet, const struct bill *bill,
				  __u32 amount, __u32 path_length, __be16 name, __u32 slot_index, __be32 slot)
{
	__u8 *ip = IP(skb, packet), *end = DATA_END(skb), *place, *field, *own;
	__u32 change;
	__be32 base;
	__u64 sum;

	if (path_length > PATH_LENGTH_MAX)
		path_length = PATH_LENGTH_MAX;
	base = bpf_htonl(amount << 8 | path_length << 4 | bill->oad_count);
	place = ip + (bill->offset & 63);
	field = place + 4 + 4 * (bill->oad_count & 7);
	if (ip + IPV4_BYTES > end || place + 4 > end || field + 6 > end)
		return 0;
	sum = (__u64)WORD32(place) + ~base + WORD32(field) + WORD16(field + 4) + (name ^ 0xffff);
	WORD32(place) = base;
	WORD32(field) = 0;
	WORD16(field) = name;
	WORD16(field + 4) = 0;
	if (slot_index < OADS_MAX) {
		own = place + 4 + 4 * slot_index;
		if (own + 4 > end)
			return 0;
		sum += (__u64)WORD32(own) + ~slot;
		WORD32(own) = slot;
	}
	change = fold(sum); /* old - new */
	if (packet->version == 6) {
		bpf_csum_update(skb, change ^ 0xffff);
		return 1;
	}
	if (bill->offset & 1) /* words at an odd place straddle those of the sum */
		change = __builtin_bswap16(change);
	WORD16(ip + 10) = checksum_of((__u64)WORD16(ip + 10) + change);
	return 1;
}

#define IP4_WORDS(first, tos, total) bpf_htonl((__u32)(first) << 24 | (__u32)(tos) << 16 | ((total) & 0xffff))

/* Options in front of ours are moved behind: the room that the kernel takes out is that right after the IP header. */
static __noinline __attribute__((unused)) int strip_among_options(struct __sk_buff *skb, const struct packet *packet,
								   const struct bill *bill)
{
	__u32 before = bill->start - IPV4_BYTES;
	__u8 options[40];

	if (before < 1 || before > 28)
		return 0;
	if (bpf_skb_load_bytes(skb, packet->start + IPV4_BYTES, options, before))
		return 0;
	if (bpf_skb_adjust_room(skb, -(__s32)bill->length, BPF_ADJ_ROOM_NET, BPF_F_ADJ_ROOM_FIXED_GSO))
		return 0;
	return !bpf_skb_store_bytes(skb, packet->start + IPV4_BYTES, options, before, 0);
}

/* The packet as if it had never had the header: carrier out, lengths and IPv4 header checksum right
 * (billpay.header.strip). 0: the kernel refused, and the packet is as it was. */
static __always_inline int strip(struct __sk_buff *skb, struct packet *packet, const struct bill *bill)
{
	__u8 *ip = IP(skb, packet), *end = DATA_END(skb), *place;
	__u32 total, first, tos = 0, option = 0, before;
	__u64 sum = 0;

	if (ip + IPV4_BYTES > DATA_END(skb))
		return 0;
	first = packet->version == 4 ? ip[0] : 0;
	if (packet->version == 4) {
		place = ip + (bill->start & 63);
#pragma unroll
		for (__u32 i = 0; i < 10; i++)
			if (4 * i < bill->length && place + 4 * i + 4 <= end)
				sum += WORD32(place + 4 * i);
		option = fold(sum);
		if (bill->start & 1)
			option = __builtin_bswap16(option);
		tos = ip[1];
		total = bpf_ntohs(WORD16(ip + 2));
	} else {
		if (ip + IPV6_BYTES + 1 > DATA_END(skb))
			return 0;
		first = ip[IPV6_BYTES];
		total = bpf_ntohs(WORD16(ip + 4));
	}
	if (packet->version == 4 && bill->start != IPV4_BYTES) {
		if (!strip_among_options(skb, packet, bill))
			return 0;
	} else if (bpf_skb_adjust_room(skb, -(__s32)bill->length, BPF_ADJ_ROOM_NET, BPF_F_ADJ_ROOM_FIXED_GSO)) {
		return 0;
	}
	packet->size -= bill->length;
	packet->offset -= bill->length;
	total -= bill->length;
	ip = IP(skb, packet);
	if (ip + IPV4_BYTES > DATA_END(skb))
		return 0;
	if (packet->version == 4) {
		before = bpf_htons((bill->length >> 2 << 8) + bill->length); /* what the two lengths lose */
		WORD32(ip) = IP4_WORDS(first - (bill->length >> 2), tos, total);
		WORD16(ip + 10) = checksum_of((__u64)WORD16(ip + 10) + before + option);
		bpf_csum_update(skb, option);
	} else {
		before = WORD32(ip + 4);
		WORD16(ip + 4) = bpf_htons(total);
		ip[6] = first;
		bpf_csum_update(skb, fold((__u64)WORD32(ip + 4) + ~before));
	}
	return 1;
}

/* billpay.header._refuse_ipv6 and its caller. */
static __always_inline int refuse_ipv6(const struct packet *packet, __u8 following)
{
	if (is_safe(following))
		return CAN_CARRY;
	if (!packet->is_whole)
		return NOT_IP;
	if (packet->is_fragment || following == NEXT_FRAGMENT)
		return FRAGMENT;
	if (packet->protocol == NEXT_AH)
		return AH;
	return following == NEXT_HOP_BY_HOP ? HOP_BY_HOP_PRESENT : CAN_CARRY;
}

/* Why the packet goes without a header of so many slots, in billpay.header's order. `mtu`: of what it may be then. */
static __always_inline int cannot_carry(struct __sk_buff *skb, const struct packet *packet, __u32 count, __u32 mtu)
{
	__u8 *ip = IP(skb, packet);
	__u32 grow = carrier_bytes(packet->version, count), found = 0, header;
	int refusal;

	if (ip + IPV4_BYTES > DATA_END(skb))
		return NOT_IP;
	if (packet->version == 6) {
		if (bpf_ntohs(WORD16(ip + 4)) + IPV6_BYTES != packet->size)
			return NOT_IP;
		refusal = refuse_ipv6(packet, ip[6]);
		if (refusal != CAN_CARRY)
			return refusal;
		grow += packet->size;
		return grow > mtu || grow - IPV6_BYTES > 0xffff ? TOO_BIG : CAN_CARRY;
	}
	header = (__u32)(ip[0] & 15) << 2;
	if (bpf_ntohs(WORD16(ip + 2)) != packet->size || header < IPV4_BYTES || header > packet->size)
		return NOT_IP;
	if (WORD16(ip + 6) & bpf_htons(FRAGMENT_BITS))
		return FRAGMENT;
	if (ip[9] == NEXT_AH)
		return AH;
	if (header != IPV4_BYTES && walk_options(skb, packet, header, &found) != NO_HEADER)
		return ALREADY_PRESENT;
	if (header + grow > 60)
		return OPTIONS_FULL;
	if (packet->size + grow > mtu || packet->size + grow > 0xffff)
		return TOO_BIG;
	found = IPV4_BYTES; /* options that do not parse would hide whether ours is the only one */
	if (header != IPV4_BYTES && walk_options(skb, packet, header, &found) != HEADER)
		return NOT_IP;
	return CAN_CARRY;
}

/* Puts a header in that it can carry; lengths and IPv4 header checksum become right. 0: the kernel refused. */
static __always_inline int insert(struct __sk_buff *skb, struct packet *packet, const struct header_words *words,
				  __u32 count)
{
	__u32 grow = carrier_bytes(packet->version, count), before, option = 0;
	__u8 *ip, *end, *place, *field, next = 0;
	__u64 sum = 0;

	if (bpf_skb_adjust_room(skb, grow, BPF_ADJ_ROOM_NET, BPF_F_ADJ_ROOM_FIXED_GSO))
		return 0;
	packet->size += grow;
	packet->offset += grow;
	ip = IP(skb, packet);
	end = DATA_END(skb);
	if (ip + IPV4_BYTES > end)
		return 0;
	before = packet->version == 4 ? WORD32(ip) : WORD32(ip + 4);
	place = ip + (packet->version == 4 ? IPV4_BYTES : IPV6_BYTES + 2);
	if (packet->version == 6) {
		if (ip + IPV6_BYTES + 2 > end)
			return 0;
		ip[IPV6_BYTES] = ip[6];
		ip[IPV6_BYTES + 1] = (grow >> 3) - 1;
		sum = WORD16(ip + IPV6_BYTES);
		ip[6] = next;
		WORD16(ip + 4) = bpf_htons(packet->size - IPV6_BYTES);
	} else {
		WORD32(ip) = IP4_WORDS(ip[0] + (grow >> 2), ip[1], packet->size);
	}
	field = place + 6 + 4 * (count & 7);
	if (place + 6 > end || field + 6 > end)
		return 0;
	option = packet->version == 4 ? IPV4_OPTION << 8 | grow : IPV6_OPTION << 8 | (10 + 4 * count);
	WORD16(place) = bpf_htons(option);
	WORD32(place + 2) = words->base;
	WORD32(field) = LITTLE32((__u32)words->mac);
	WORD16(field + 4) = LITTLE16(words->mac >> 32);
	sum += (__u64)WORD16(place) + words->base + WORD32(field) + WORD16(field + 4);
#pragma unroll
	for (__u32 i = 0; i < OADS_MAX; i++)
		if (i < count && place + 10 + 4 * i <= end) {
			WORD32(place + 6 + 4 * i) = words->slots[i];
			sum += words->slots[i];
		}
	if (packet->version == 4) {
		WORD16(ip + 10) = checksum_of((__u64)WORD16(ip + 10) + before + ~WORD32(ip) + (fold(sum) ^ 0xffff));
		return 1;
	}
	place = field + 6;
	if (place + 2 > end)
		return 0;
	WORD16(place) = count & 1 ? bpf_htons(0x0104) : bpf_htons(0x0100);
	sum += (__u64)WORD16(place) + WORD32(ip + 4) + ~before;
	if (count & 1) {
		if (place + 6 > end)
			return 0;
		WORD32(place + 2) = 0;
	}
	bpf_csum_update(skb, fold(sum));
	return 1;
}
