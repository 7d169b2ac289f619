/* dataplane/ebpf/billpay.h as a test asks it: one operation on one packet, and all that it says of it. */
#include "billpay.h"

enum operation { LOCATE, UPDATE, STRIP, INSERT, MARK };

struct question {
	__u64 key[2];
	__u32 operation, max_amount, amount, path_length, name, slot_index, slot, epoch, oad_count, mtu, segment_bytes;
	struct header_words words;
};

struct answer {
	__u64 mac;
	__s32 found, done, cannot;
	__u32 read, size, protocol, offset, is_whole, is_fragment, ports, packets, wire_bytes;
	struct bill bill;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct question);
} questions SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct answer);
} answers SEC(".maps");

__noinline int compute_mac(struct __sk_buff *skb, const struct packet *packet, const struct bill *bill)
{
	__u32 zero = 0;
	struct question *question = bpf_map_lookup_elem(&questions, &zero);
	struct answer *answer = bpf_map_lookup_elem(&answers, &zero);
	struct header_words words;
	struct mac_input input = {};

	if (!question || !answer || !packet || !bill || !read_words(skb, packet, bill, &words) ||
	    !set_mac_addresses(skb, packet, &input))
		return 0;
	set_mac_words(&input, packet->protocol, ports_of(skb, packet), &words, bill->oad_count);
	set_epoch(&input, question->epoch);
	answer->mac = mac_of(&input, question->key[0], question->key[1]);
	return 0;
}

__noinline int change(struct __sk_buff *skb, struct packet *packet, struct bill *bill)
{
	__u32 zero = 0;
	struct question *question = bpf_map_lookup_elem(&questions, &zero);

	if (!question || !packet || !bill)
		return 0;
	if (question->operation == UPDATE)
		return update(skb, packet, bill, question->amount, question->path_length, question->name,
			      question->slot_index, question->slot);
	return strip(skb, packet, bill);
}

__noinline int put_in(struct __sk_buff *skb, struct packet *packet)
{
	__u32 zero = 0;
	struct question *question = bpf_map_lookup_elem(&questions, &zero);

	return question && packet ? insert(skb, packet, &question->words, question->oad_count) : 0;
}

__noinline int may_carry(struct __sk_buff *skb, const struct packet *packet, __u32 count, __u32 mtu)
{
	return packet ? cannot_carry(skb, packet, count, mtu) : NOT_IP;
}

SEC("tc")
int probe(struct __sk_buff *skb)
{
	__u32 zero = 0;
	struct question *question = bpf_map_lookup_elem(&questions, &zero);
	struct answer *answer = bpf_map_lookup_elem(&answers, &zero);
	struct packet packet = {};
	struct segments segments;
	struct bill bill = {};

	if (!question || !answer)
		return TCX_NEXT;
	__builtin_memset(answer, 0, sizeof(*answer));
	answer->found = NO_HEADER;
	answer->read = read_packet(skb, ETH_HLEN, &packet);
	if (answer->read != 1)
		return TCX_NEXT;
	answer->size = packet.size;
	answer->protocol = packet.protocol;
	answer->offset = packet.offset;
	answer->is_whole = packet.is_whole;
	answer->is_fragment = packet.is_fragment;
	answer->ports = ports_of(skb, &packet);
	segments_of(skb, &packet, question->segment_bytes, &segments);
	answer->packets = segments.packets;
	answer->wire_bytes = segments.wire_bytes;
	answer->cannot = may_carry(skb, &packet, question->oad_count & 7, question->mtu);
	answer->found = locate(skb, &packet, question->max_amount, &bill);
	if (answer->found == HEADER)
		compute_mac(skb, &packet, &bill);
	answer->bill = bill;
	if (question->operation == INSERT && answer->cannot == CAN_CARRY)
		answer->done = put_in(skb, &packet);
	else if (question->operation == MARK)
		answer->done = set_ce(skb, &packet);
	else if (question->operation != LOCATE && question->operation != INSERT && answer->found == HEADER)
		answer->done = change(skb, &packet, &bill);
	return TCX_NEXT;
}

char _license[] SEC("license") = "GPL";
