/* Traffic for bench.payments: as fast as one core makes it, and timed where Python would be too slow.
 *
 *   frames INTERFACE FILE HEAD_BYTES PAYLOAD_BYTES SECONDS CORE
 *   datagrams SOURCE DESTINATION FLOWS FIRST_PORT PAYLOAD_BYTES SECONDS CORE
 *   echo ADDRESS PORT CORE
 *   ping SOURCE DESTINATION PORT COUNT CORE OPTION
 *   receive ADDRESS PORT CORE
 *   stream SOURCE DESTINATION PORT SECONDS CORE OPTION RATE
 *
 * frames, datagrams and stream print "SENT NANOSECONDS"; ping a line of nanoseconds; receive and echo "ready", and
 * receive then "BYTES NANOSECONDS" of each connection. OPTION: the bytes of IP_OPTIONS in hexadecimal, or "-"; RATE: bytes a
 * second at most, or 0.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netpacket/packet.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BATCH 64
#define PORTS_OF_A_SOURCE 100 /* flows of one socket: each to another port */
#define PAYLOAD_MAX 65536
#define NS_PER_S 1000000000ull
#define CHUNK (1 << 18)
#define WARM_UP 50

union address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

static char payload[PAYLOAD_MAX];
static char chunk[1 << 20];

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * NS_PER_S + now.tv_nsec;
}

static void pin(const char *core)
{
	cpu_set_t cores;

	CPU_ZERO(&cores);
	CPU_SET(atoi(core), &cores);
	if (sched_setaffinity(0, sizeof(cores), &cores))
		fail("sched_setaffinity");
}

static socklen_t address_of(const char *text, int port, union address *address)
{
	memset(address, 0, sizeof(*address));
	if (strchr(text, ':')) {
		address->v6.sin6_family = AF_INET6;
		address->v6.sin6_port = htons(port);
		if (inet_pton(AF_INET6, text, &address->v6.sin6_addr) != 1)
			fail(text);
		return sizeof(address->v6);
	}
	address->v4.sin_family = AF_INET;
	address->v4.sin_port = htons(port);
	if (inet_pton(AF_INET, text, &address->v4.sin_addr) != 1)
		fail(text);
	return sizeof(address->v4);
}

/* A socket with that end; port 0: any. */
static int opened(const char *source, int port, int type)
{
	union address address;
	socklen_t size = address_of(source, port, &address);
	int one = 1, made = socket(address.any.sa_family, type, 0);

	if (made < 0)
		fail("socket");
	setsockopt(made, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(made, &address.any, size))
		fail("bind");
	return made;
}

static void set_option(int made, const char *text)
{
	unsigned char option[40];
	size_t size = strlen(text) / 2;

	if (!strcmp(text, "-"))
		return;
	for (size_t at = 0; at < size && at < sizeof(option); at++)
		if (sscanf(text + 2 * at, "%2hhx", &option[at]) != 1)
			fail("option");
	if (setsockopt(made, IPPROTO_IP, IP_OPTIONS, option, size))
		fail("IP_OPTIONS");
}

static void connect_to(int made, const char *destination, const char *port)
{
	union address address;
	socklen_t size = address_of(destination, atoi(port), &address);

	if (connect(made, &address.any, size))
		fail("connect");
}

/* Every head of the file in turn, each in front of the same payload. */
static int frames(char **argument)
{
	struct sockaddr_ll link = {.sll_family = AF_PACKET, .sll_ifindex = if_nametoindex(argument[0])};
	size_t head_bytes = atoi(argument[2]), count;
	uint64_t begun_ns, until_ns, sent = 0;
	struct mmsghdr *messages;
	struct iovec *vectors;
	int made;
	FILE *file = fopen(argument[1], "rb");
	char *heads;

	pin(argument[5]);
	if (!file)
		fail(argument[1]);
	fseek(file, 0, SEEK_END);
	count = ftell(file) / head_bytes;
	rewind(file);
	heads = malloc(count * head_bytes);
	if (fread(heads, head_bytes, count, file) != count)
		fail(argument[1]);
	/* Protocol 0: nothing is received, so that no other packet pays for our listening. */
	made = socket(AF_PACKET, SOCK_RAW, 0);
	if (made < 0 || bind(made, (struct sockaddr *)&link, sizeof(link)))
		fail(argument[0]);
	messages = calloc(count + BATCH, sizeof(*messages));
	vectors = calloc(2 * (count + BATCH), sizeof(*vectors));
	for (size_t number = 0; number < count + BATCH; number++) {
		vectors[2 * number].iov_base = heads + number % count * head_bytes;
		vectors[2 * number].iov_len = head_bytes;
		vectors[2 * number + 1].iov_base = payload;
		vectors[2 * number + 1].iov_len = atoi(argument[3]);
		messages[number].msg_hdr.msg_iov = &vectors[2 * number];
		messages[number].msg_hdr.msg_iovlen = 2;
	}
	begun_ns = now_ns();
	until_ns = begun_ns + atof(argument[4]) * NS_PER_S;
	for (size_t at = 0; now_ns() < until_ns; at = (at + BATCH) % count) {
		int done = sendmmsg(made, messages + at, BATCH, 0);

		sent += done > 0 ? done : 0;
	}
	printf("%llu %llu\n", (unsigned long long)sent, (unsigned long long)(now_ns() - begun_ns));
	return 0;
}

/* As programs send: by sockets, PORTS_OF_A_SOURCE flows of each. */
static int datagrams(char **argument)
{
	int flows = atoi(argument[2]), first_port = atoi(argument[3]);
	int sockets = (flows + PORTS_OF_A_SOURCE - 1) / PORTS_OF_A_SOURCE;
	int ports = flows < PORTS_OF_A_SOURCE ? flows : PORTS_OF_A_SOURCE;
	union address *ends = calloc(ports + BATCH, sizeof(*ends));
	struct mmsghdr *messages = calloc(ports + BATCH, sizeof(*messages));
	struct iovec vector = {.iov_base = payload, .iov_len = atoi(argument[4])};
	uint64_t begun_ns, until_ns, sent = 0;
	int *made = calloc(sockets, sizeof(*made));

	pin(argument[6]);
	for (int number = 0; number < sockets; number++)
		made[number] = opened(argument[0], first_port + number, SOCK_DGRAM);
	for (int number = 0; number < ports + BATCH; number++) {
		messages[number].msg_hdr.msg_namelen =
			address_of(argument[1], first_port + number % ports, &ends[number]);
		messages[number].msg_hdr.msg_name = &ends[number];
		messages[number].msg_hdr.msg_iov = &vector;
		messages[number].msg_hdr.msg_iovlen = 1;
	}
	begun_ns = now_ns();
	until_ns = begun_ns + atof(argument[5]) * NS_PER_S;
	for (int at = 0, turn = 0; now_ns() < until_ns; turn = (turn + 1) % sockets) {
		int done = sendmmsg(made[turn], messages + at, BATCH, 0);

		sent += done > 0 ? done : 0;
		if (turn == sockets - 1)
			at = (at + BATCH) % ports;
	}
	printf("%llu %llu\n", (unsigned long long)sent, (unsigned long long)(now_ns() - begun_ns));
	return 0;
}

static int echo(char **argument)
{
	int made = opened(argument[0], atoi(argument[1]), SOCK_DGRAM);
	union address peer;
	char text[2048];

	pin(argument[2]);
	puts("ready");
	fflush(stdout);
	for (;;) {
		socklen_t size = sizeof(peer);
		ssize_t came = recvfrom(made, text, sizeof(text), 0, &peer.any, &size);

		if (came < 0)
			return 1;
		sendto(made, text, came, 0, &peer.any, size);
	}
}

static int ping(char **argument)
{
	int made = opened(argument[0], atoi(argument[2]), SOCK_DGRAM), count = atoi(argument[3]);
	struct timeval patience = {.tv_sec = 1};
	char text[2048];

	pin(argument[4]);
	set_option(made, argument[5]);
	setsockopt(made, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	connect_to(made, argument[1], argument[2]);
	for (int number = 0; number < count + WARM_UP; number++) {
		uint64_t begun_ns = now_ns();

		if (send(made, payload, 40, 0) < 0)
			fail("send");
		if (recv(made, text, sizeof(text), 0) < 0)
			continue; /* lost: it has no round trip */
		if (number >= WARM_UP)
			printf("%llu ", (unsigned long long)(now_ns() - begun_ns));
	}
	puts("");
	return 0;
}

static int receive(char **argument)
{
	int made = opened(argument[0], atoi(argument[1]), SOCK_STREAM);

	pin(argument[2]);
	if (listen(made, 8))
		fail("listen");
	puts("ready");
	fflush(stdout);
	for (;;) {
		int connection = accept(made, NULL, NULL);
		uint64_t begun_ns = now_ns(), bytes = 0;
		ssize_t came;

		if (connection < 0)
			return 1;
		while ((came = recv(connection, chunk, sizeof(chunk), 0)) > 0)
			bytes += came;
		printf("%llu %llu\n", (unsigned long long)bytes, (unsigned long long)(now_ns() - begun_ns));
		fflush(stdout);
		close(connection);
	}
}

static int stream(char **argument)
{
	int made = opened(argument[0], atoi(argument[2]), SOCK_STREAM);
	uint64_t begun_ns, until_ns, sent = 0;
	struct linger at_once = {.l_onoff = 1};
	unsigned int most = atoi(argument[6]);

	pin(argument[4]);
	set_option(made, argument[5]);
	if (most && setsockopt(made, SOL_SOCKET, SO_MAX_PACING_RATE, &most, sizeof(most)))
		fail("SO_MAX_PACING_RATE");
	connect_to(made, argument[1], argument[2]);
	begun_ns = now_ns();
	until_ns = begun_ns + atof(argument[3]) * NS_PER_S;
	while (now_ns() < until_ns) {
		ssize_t done = send(made, chunk, CHUNK, 0);

		if (done < 0)
			fail("send");
		sent += done;
	}
	shutdown(made, SHUT_WR);
	if (recv(made, payload, 1, 0) < 0) /* until the other end has it all */
		fail("recv");
	setsockopt(made, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once)); /* the port is free for the next round */
	printf("%llu %llu\n", (unsigned long long)sent, (unsigned long long)(now_ns() - begun_ns));
	return 0;
}

static const struct {
	const char *name;
	int arguments;
	int (*run)(char **argument);
} programs[] = {
	{"frames", 6, frames}, {"datagrams", 7, datagrams}, {"echo", 3, echo},
	{"ping", 6, ping},     {"receive", 3, receive},	    {"stream", 7, stream},
};

int main(int count, char **words)
{
	for (size_t number = 0; count > 1 && number < sizeof(programs) / sizeof(*programs); number++)
		if (!strcmp(words[1], programs[number].name) && count == programs[number].arguments + 2)
			return programs[number].run(words + 2);
	fputs("generator: see its first lines\n", stderr);
	return 2;
}
