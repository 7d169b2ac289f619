/* What a payer has to know of TCP: flags, content, and the MSS of a SYN, which leaves room for the header (clamp_mss of
 * billpay/packet.py). */
#pragma once
#include "payer_maps.h"

/* hostagent.payments.datapath.tcp_flags */
static __always_inline __u8 tcp_flags(struct __sk_buff *skb, const struct packet *packet)
{
	if (packet->size <= packet->offset + 13)
		return 0;
	if (packet->is_fragment && !(packet->version == 4 && packet->offset == IPV4_BYTES))
		return 0;
	return byte_at(skb, packet, packet->offset + 13);
}

/* hostagent.payments.datapath.has_content */
static __always_inline int has_content(struct __sk_buff *skb, const struct packet *packet)
{
	if (packet->protocol != NEXT_TCP || packet->is_fragment || packet->size <= packet->offset + 12)
		return 1;
	return packet->size > packet->offset + ((byte_at(skb, packet, packet->offset + 12) >> 4) << 2);
}

/* A TCP header's options; `mss`: where its value is, 0: nowhere yet. */
struct options {
	__u32 at;
	__u32 length;
	__u32 mss;
	__u8 bytes[64];
};

/* billpay.packet._find_mss, option by option */
static long read_option(__u32 index, void *context)
{
	struct options *options = context;
	__u32 at = options->at, size;
	__u8 kind;

	if (at >= options->length)
		return 1;
	kind = options->bytes[at & 63];
	if (!kind)
		return 1;
	size = options->bytes[(at + 1) & 63];
	if (kind == 1) {
		options->at = at + 1;
		return 0;
	}
	if (at + 1 >= options->length || size < 2 || at + size > options->length)
		return 1;
	options->at = at + size;
	if (kind != 2)
		return 0;
	options->mss = size == 4 ? at + 2 : 0;
	return 1;
}

/* billpay.packet.clamp_mss. A checksum that is left to hardware does not cover the MSS yet: the helper knows. */
static __noinline int clamp_mss(struct __sk_buff *skb, const struct packet *packet, __u32 reduce_by)
{
	__u32 tcp = packet->offset, length, at, old, new;
	struct options options = {};
	__u16 field, from, to;

	if (!reduce_by || packet->is_fragment || packet->size < tcp + TCP_BYTES)
		return 0;
	length = (byte_at(skb, packet, tcp + 12) >> 4) << 2;
	if (length > packet->size - tcp)
		length = packet->size - tcp;
	if (length <= TCP_BYTES)
		return 0;
	length -= TCP_BYTES;
	asm volatile("" : "+r"(length)); /* the compiler may not drop the bounds below */
	if (length < 1 || length > 40 ||
	    bpf_skb_load_bytes(skb, packet->start + tcp + TCP_BYTES, options.bytes, length))
		return 0;
	options.length = length;
	bpf_loop(40, read_option, &options, 0);
	at = options.mss;
	if (!at)
		return 0;
	old = (__u32)options.bytes[at & 63] << 8 | options.bytes[(at + 1) & 63];
	new = old > MINIMUM_MSS + reduce_by ? old - reduce_by : MINIMUM_MSS;
	if (new >= old)
		return 0;
	field = bpf_htons(new);
	from = bpf_htons(old);
	to = field;
	if (at & 1) { /* the two bytes fall into two words of the sum */
		from = __builtin_bswap16(from);
		to = __builtin_bswap16(to);
	}
	at += tcp + TCP_BYTES;
	bpf_l4_csum_replace(skb, packet->start + tcp + 16, from, to, sizeof(field));
	bpf_skb_store_bytes(skb, packet->start + at, &field, sizeof(field), 0);
	return 0;
}

static __always_inline void clamp(struct __sk_buff *skb, const struct packet *packet, const struct uplink *uplink)
{
	if (packet->protocol == NEXT_TCP && uplink->clamp_v4 && tcp_flags(skb, packet) & TCP_SYN)
		clamp_mss(skb, packet, packet->version == 4 ? uplink->clamp_v4 : uplink->clamp_v6);
}
