/* Where a packet goes: the route by its destination, the alternative that its sender wants and gets, and whether it is
 * control traffic (gateway/routing.py, gateway/control_traffic.py). */
#pragma once
#include "gateway_maps.h"

static __always_inline struct route *find_route(struct __sk_buff *skb, const struct packet *packet)
{
	__u8 *ip = IP(skb, packet);

	if (packet->version == 4) {
		struct route_key4 key = {.prefix_bits = 32};

		if (ip + IPV4_BYTES > DATA_END(skb))
			return NULL;
		key.address = WORD32(ip + 16);
		return bpf_map_lookup_elem(&routes4, &key);
	} else {
		struct route_key key = {.prefix_bits = 128};

		if (ip + IPV6_BYTES > DATA_END(skb))
			return NULL;
		__builtin_memcpy(key.address, ip + 24, sizeof(key.address));
		return bpf_map_lookup_elem(&routes6, &key);
	}
}

/* The slot that we use: the one with our number, else the first free one, else OADS_MAX. */
static __always_inline __u32 find_slot(const struct way *way, __u32 as_number)
{
	__u32 free = OADS_MAX;

	for (__u32 i = 0; i < OADS_MAX; i++) {
		__u32 number = bpf_ntohl(way->words.slots[i]) >> 16;

		if (i >= way->bill.oad_count)
			break;
		if (number == as_number)
			return i;
		if (!number && free == OADS_MAX)
			free = i;
	}
	return free;
}

/* Route.choose: an index of the route's alternatives. `wish` is our slot as the user filled it. */
static __always_inline __u32 alternative_for(const struct route *route, __u32 wish)
{
	__u32 undesirable = wish >> 4 & 0xfff, choice = wish & 15, bearable = 0, has_bearable = 0;

	if (undesirable & ISP_WRITTEN)
		return 0;
	for (__u32 i = 0; i < GATEWAY_ALTERNATIVES_MAX; i++) {
		__u32 number = route->alternatives[i].number;

		if (i >= route->count)
			break;
		if (number == choice)
			return i;
		if (!has_bearable && !(undesirable >> ((number - 1) & 31) & 1)) {
			bearable = i;
			has_bearable = 1;
		}
	}
	return bearable;
}

/* The alternative that the packet takes, and what we write into which of its slots. */
static __always_inline int choose(const struct route *route, struct way *way)
{
	struct settings *settings = settings_now();
	__u32 slot, chosen = 0;
	__be32 wish = 0;

	if (!route || !way || !settings)
		return 0;
	way->slot_index = slot = find_slot(way, settings->as_number);
	IN_REGISTER(slot);
	if (slot < OADS_MAX)
		wish = bpf_ntohl(way->words.slots[slot]);
	if (slot < OADS_MAX && settings->honours_preferences && wish >> 16 == settings->as_number)
		chosen = alternative_for(route, wish);
	IN_REGISTER(chosen);
	if (chosen < GATEWAY_ALTERNATIVES_MAX)
		way->alternative = route->alternatives[chosen];
	way->slot = bpf_htonl(settings->as_number << 16 | (__u32)route->bitmap << 4 | way->alternative.number);
	return 0;
}

/* gateway.control_traffic.is_control */
static __always_inline int is_control(struct __sk_buff *skb, const struct packet *packet)
{
	__u32 ports, from, to;
	__u8 kind;

	if (!packet || !packet->is_whole || packet->is_fragment)
		return 0;
	if (packet->protocol == NEXT_UDP || packet->protocol == NEXT_TCP) {
		ports = bpf_ntohl(ports_of(skb, packet)); /* 0 where they are not there */
		from = ports >> 16;
		to = ports & 0xffff;
		if (packet->protocol == NEXT_UDP)
			return from == ECHO_PORT && to == ECHO_PORT;
		return from == CONTROL_PORT || to == CONTROL_PORT || from == BGP_PORT || to == BGP_PORT;
	}
	if (packet->protocol == NEXT_ICMP || packet->protocol == NEXT_ICMPV6) {
		if (packet->size <= packet->offset)
			return 0;
		kind = byte_at(skb, packet, packet->offset);
		if (packet->protocol == NEXT_ICMP)
			return kind == 3 || kind == 4 || kind == 11 || kind == 12;
		return (kind >= 1 && kind <= 4) || (kind >= 133 && kind <= 137);
	}
	return packet->protocol == NEXT_OSPF;
}
