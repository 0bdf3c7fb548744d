/* The pod's pair of links. What a pod's wiring takes longest at is the kernel's work for a new pair, and the agent needs
 * about as long until it has chosen an address and written it down. So the plugin has the kernel make the pair
 * meanwhile, and carries out the rest when the agent has answered with it. What is sent is the agent's in both cases:
 *
 *   the form      RUN/pair, which the agent writes: the request that makes a pair and the one that takes it away, and
 *                 where in them indexes, MACs, name and descriptor go. An agent that knows nothing of forms makes the
 *                 links anew, as it does with anything that is in its way.
 *   the answer    batches that make the pod's addresses and routes, and give the pair its alias. Until then the pair
 *                 has no address, and nothing leads to it.
 *
 * Killed at any point: the agent notices, and takes the pair away by its index; a pair that nobody named goes after a
 * minute (dataplane/repair.py), and the kernel drops it with the pod's namespace. Whatever the kernel refuses here, the
 * agent tries again by itself, and words the error.
 *
 *   form     "berthP1\n", inode of the network namespace it is for (u64), sizes of the two requests, numbers of their
 *            places, MTU, unused (u16 each), the places (u16 offset, u16 kind), the two requests
 *   kinds    'h' 'p' index of the host's and the pod's end, 'H' 'P' their MACs, 'n' the namespace's descriptor,
 *            'N' the host's link name
 */
#define _GNU_SOURCE
#include "pair.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define IFNAME "eth0" /* whose form the agent writes */
#define FIRST_INDEX (1u << 30) /* the agent's own links have lower ones */
#define PORTS 0x42450000u /* what the kernel tells of our requests names such a port: the agent knows it is no news */
#define NETLINK_SECONDS 10 /* for the answer; the request itself waits for the kernel's lock as long as that takes */
#define CARRIER_LOOKS 1250 /* 2.5 s */
#define OPERSTATE 16 /* IFLA_OPERSTATE */
#define UP 6         /* IF_OPER_UP */

struct head {
    char magic[8];
    uint64_t namespace;
    uint16_t sizes[2], places[2], mtu, unused[3];
};

struct place {
    uint16_t offset, kind;
};

static struct {
    union {
        struct head head;
        char bytes[2048];
    } form;
    char *requests[2]; /* into the form; NULL as long as there is none */
    struct place *places[2];
    char name[16];
    uint32_t index;
    int host, pod; /* sockets */
    int error;     /* of making it; -1 while it has not been tried */
} pair = {.host = -1, .pod = -1, .error = -1};

/* ------------------------------------------------------------------------------------------ the host link's name */

static uint32_t rotated(uint32_t value, int bits) {
    return value << bits | value >> (32 - bits);
}

static void sha1_block(uint32_t state[5], const unsigned char *block) {
    uint32_t w[80], a = state[0], b = state[1], c = state[2], d = state[3], e = state[4];
    for (int i = 0; i < 80; i++) {
        const unsigned char *at = block + 4 * i;
        w[i] = i < 16 ? (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3]
                      : rotated(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
    }
    for (int i = 0; i < 80; i++) {
        uint32_t f, k;
        if (i < 20) f = (b & c) | (~b & d), k = 0x5A827999;
        else if (i < 40) f = b ^ c ^ d, k = 0x6ED9EBA1;
        else if (i < 60) f = (b & c) | (b & d) | (c & d), k = 0x8F1BBCDC;
        else f = b ^ c ^ d, k = 0xCA62C1D6;
        uint32_t next = rotated(a, 5) + f + e + k + w[i];
        e = d, d = c, c = rotated(b, 30), b = a, a = next;
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d, state[4] += e;
}

/* FIPS 180-4; the first 11 hexadecimal digits, as names.py has them. */
static void name_of(const char *text, size_t size) {
    uint32_t state[5] = {0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0};
    unsigned char last[128] = {0};
    uint64_t bits = (uint64_t)size * 8;
    for (; size >= 64; text += 64, size -= 64) sha1_block(state, (const unsigned char *)text);
    memcpy(last, text, size);
    last[size] = 0x80;
    size_t blocks = size < 56 ? 1 : 2;
    for (int i = 0; i < 8; i++) last[64 * blocks - 1 - (size_t)i] = (unsigned char)(bits >> 8 * i);
    for (size_t i = 0; i < blocks; i++) sha1_block(state, last + 64 * i);
    snprintf(pair.name, sizeof pair.name, "eni%08x%03x", (unsigned)state[0], (unsigned)(state[1] >> 20));
}

/* The value of a key of CNI_ARGS, "K=V;K=V"; the last one counts. */
static size_t argument(const char *key, const char **value) {
    const char *at = getenv("CNI_ARGS");
    size_t found = 0, wanted = strlen(key);
    while (at && *at) {
        size_t length = strcspn(at, ";");
        if (length > wanted && !strncmp(at, key, wanted) && at[wanted] == '=') {
            *value = at + wanted + 1;
            found = length - wanted - 1;
        }
        at += length + (at[length] == ';');
    }
    return found;
}

/* By the rule of names.py. 0 if there is no name to be had. */
static int name_pair(void) {
    const char *container = getenv("CNI_CONTAINERID"), *ifname = getenv("CNI_IFNAME"), *namespace, *pod;
    char text[1024];
    int size = -1;
    if (!container || !*container || !ifname || strcmp(ifname, IFNAME)) return 0;
    size_t first = argument("K8S_POD_NAMESPACE", &namespace), second = argument("K8S_POD_NAME", &pod);
    if (first && second && first + second < sizeof text - 2)
        size = snprintf(text, sizeof text, "%.*s.%.*s", (int)first, namespace, (int)second, pod);
    else if (!first || !second)
        size = snprintf(text, sizeof text, "%s/" IFNAME, container);
    if (size <= 0 || (size_t)size >= sizeof text) return 0;
    name_of(text, (size_t)size);
    return 1;
}

/* ------------------------------------------------------------------------------------------------------ the form */

static void mac_of(uint32_t index, int end, char mac[6]) {
    const char bytes[6] = {0x02, (char)(end ? 0xbf : 0xbe), (char)(index >> 24), (char)(index >> 16), (char)(index >> 8), (char)index};
    memcpy(mac, bytes, 6);
}

static int fill_in(int which, int netns) {
    char host[6], pod[6];
    uint32_t indexes[2] = {pair.index, pair.index + 1};
    mac_of(pair.index, 0, host);
    mac_of(pair.index, 1, pod);
    for (size_t i = 0; i < pair.form.head.places[which]; i++) {
        struct place place = pair.places[which][i];
        const void *value;
        size_t size;
        switch (place.kind) {
        case 'h': value = &indexes[0], size = 4; break;
        case 'p': value = &indexes[1], size = 4; break;
        case 'H': value = host, size = 6; break;
        case 'P': value = pod, size = 6; break;
        case 'n': value = &netns, size = 4; break;
        case 'N': value = pair.name, size = strlen(pair.name); break;
        default: return -1;
        }
        if (place.offset + size > pair.form.head.sizes[which]) return -1;
        memcpy(pair.requests[which] + place.offset, value, size);
    }
    return 0;
}

/* Reads the form. A plugin that was called in another namespace than the agent's leaves everything to the agent. */
static int read_form(const char *folder) {
    char path[128];
    struct stat here;
    struct head *head = &pair.form.head;
    snprintf(path, sizeof path, "%s/pair", folder);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t size = file < 0 ? -1 : read(file, pair.form.bytes, sizeof pair.form.bytes);
    if (file >= 0) close(file);
    if (size < (ssize_t)sizeof *head || memcmp(head->magic, "berthP1\n", 8)) return 0;
    if (stat("/proc/self/ns/net", &here) || (uint64_t)here.st_ino != head->namespace) return 0;
    size_t places = sizeof(struct place) * ((size_t)head->places[0] + head->places[1]);
    if (sizeof *head + places + head->sizes[0] + head->sizes[1] != (size_t)size) return 0;
    pair.places[0] = (struct place *)(head + 1);
    pair.places[1] = pair.places[0] + head->places[0];
    pair.requests[0] = pair.form.bytes + sizeof *head + places;
    pair.requests[1] = pair.requests[0] + head->sizes[0];
    return 1;
}

int pair_suits(const char *config, size_t size) {
    /* containerd writes HostPort, CNI's conventions hostPort */
    static const char *const more[] = {"ostPort\"", "berth/security-groups"};
    for (size_t i = 0; i < sizeof more / sizeof *more; i++)
        if (memmem(config, size, more[i], strlen(more[i]))) return 0;
    return 1;
}

size_t pair_offer(const char *folder, char *told, size_t size) {
    uint32_t random;
    if (!name_pair() || getrandom(&random, sizeof random, GRND_NONBLOCK) != sizeof random || !read_form(folder)) return 0;
    pair.index = FIRST_INDEX | (random & (FIRST_INDEX - 2)); /* even: the pod's end has the next one */
    return (size_t)snprintf(told, size, "BERTH_LINK=%u %u %s", pair.index, pair.form.head.mtu, pair.name) + 1;
}

/* --------------------------------------------------------------------------------------------------- the kernel */

/* A socket of the namespace that this process is in. On the host its port is told from others'. */
static int open_netlink(int host) {
    struct timeval limit = {.tv_sec = NETLINK_SECONDS};
    int opened = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE), bound = !host;
    if (opened < 0) return -1;
    for (int attempt = 0; !bound && attempt < 4; attempt++) {
        uint16_t random;
        if (getrandom(&random, sizeof random, GRND_NONBLOCK) != sizeof random) break;
        struct sockaddr_nl address = {.nl_family = AF_NETLINK, .nl_pid = PORTS | random};
        bound = !bind(opened, (struct sockaddr *)&address, sizeof address);
    }
    if (!bound || setsockopt(opened, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit)) {
        close(opened);
        return -1;
    }
    return opened;
}

static uint32_t last_number(const char *batch, unsigned size) {
    uint32_t number = 0;
    for (unsigned at = 0; at + sizeof(struct nlmsghdr) <= size;) {
        struct nlmsghdr header;
        memcpy(&header, batch + at, sizeof header);
        if (header.nlmsg_len < sizeof header) break;
        number = header.nlmsg_seq;
        at += NLMSG_ALIGN(header.nlmsg_len);
    }
    return number;
}

static int operstate(const struct nlmsghdr *message) {
    const char *at = (const char *)message + NLMSG_LENGTH(sizeof(struct ifinfomsg)), *end = (const char *)message + message->nlmsg_len;
    while (at + sizeof(struct rtattr) <= end) {
        const struct rtattr *attribute = (const void *)at;
        if (attribute->rta_len < sizeof *attribute) break;
        if (attribute->rta_type == OPERSTATE) return at[sizeof *attribute];
        at += RTA_ALIGN(attribute->rta_len);
    }
    return 0;
}

/* Sends a batch and waits for the answer to its last request. The kernel runs all of it, whatever fails first. */
static int send_batch(int netlink, const char *batch, unsigned size, int ignored) {
    static _Alignas(8) char buffer[32768];
    uint32_t last = last_number(batch, size);
    int failure = 0;
    if (send(netlink, batch, size, 0) != (ssize_t)size) return errno ? errno : EIO;
    for (;;) {
        ssize_t length = recv(netlink, buffer, sizeof buffer, 0);
        if (length < 0 && errno == EINTR) continue;
        if (length < 0) return errno == EAGAIN ? ETIMEDOUT : errno;
        for (struct nlmsghdr *m = (void *)buffer; NLMSG_OK(m, length); m = NLMSG_NEXT(m, length)) {
            int error = m->nlmsg_type == NLMSG_ERROR ? -((struct nlmsgerr *)NLMSG_DATA(m))->error : 0;
            if (error && error != ignored && !failure) failure = error;
            if (m->nlmsg_seq != last) continue;
            /* a link that is asked for must be able to send: else the agent knows how to wait */
            return failure || m->nlmsg_type != RTM_NEWLINK || operstate(m) == UP ? failure : EAGAIN;
        }
    }
}

void pair_make(int netns) {
    struct stat there;
    if (!pair.requests[0] || !pair.error) return;
    pair.error = EIO;
    if (fill_in(0, netns) || netns < 0 || fstat(netns, &there)) return;
    if ((uint64_t)there.st_ino == pair.form.head.namespace) return; /* the node's own: the agent refuses that */
    if (pair.host < 0) pair.host = open_netlink(1);
    pair.error = pair.host < 0 ? EIO : send_batch(pair.host, pair.requests[0], pair.form.head.sizes[0], 0);
    if (!pair.error && (setns(netns, CLONE_NEWNET) || (pair.pod = open_netlink(0)) < 0)) {
        pair_undo();
        pair.error = EIO;
    }
}

int pair_carry_out(char *batches, const unsigned sizes[3], int ignored, int *batch) {
    int error = pair.error ? EIO : 0;
    for (*batch = 0; !error && *batch < 3; batches += sizes[(*batch)++]) {
        error = send_batch(*batch == 1 ? pair.pod : pair.host, batches, sizes[*batch], *batch ? 0 : ignored);
        /* kernels before 6.8 take up to a second until a link can send, by a work of their own */
        for (int looks = 0; error == EAGAIN && *batch == 2 && looks < CARRIER_LOOKS; looks++) {
            nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
            error = send_batch(pair.host, batches, sizes[2], 0);
        }
        if (error) break;
    }
    return error;
}

void pair_undo(void) {
    if (pair.error || !pair.requests[0]) return;
    pair.error = -1;
    if (!fill_in(1, -1)) send_batch(pair.host, pair.requests[1], pair.form.head.sizes[1], ENODEV);
}
