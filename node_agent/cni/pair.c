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
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "kernel.h"
#include "name.h"

#define FIRST_INDEX (1u << 30) /* the agent's own links have lower ones */
#define CARRIER_LOOKS 1250 /* 2.5 s */

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
    char name[LINK_NAME];
    uint32_t index;
    int host, pod; /* sockets */
    int error;     /* of making it; -1 while it has not been tried */
} pair = {.host = -1, .pod = -1, .error = -1};

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
    struct head *head = &pair.form.head;
    ssize_t size = read_published(folder, "pair", "berthP1\n", pair.form.bytes, sizeof pair.form.bytes);
    if (size < (ssize_t)sizeof *head || !in_namespace(head->namespace)) return 0;
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
    if (!link_name(pair.name) || getrandom(&random, sizeof random, GRND_NONBLOCK) != sizeof random || !read_form(folder)) return 0;
    pair.index = FIRST_INDEX | (random & (FIRST_INDEX - 2)); /* even: the pod's end has the next one */
    return (size_t)snprintf(told, size, "BERTH_LINK=%u %u %s", pair.index, pair.form.head.mtu, pair.name) + 1;
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
