/* What a DEL waits for longest is an agent that has to be woken, and then only says what it knew all the time. So the agent
 * leaves word beforehand, of each pod that is nothing but a pair of links and its routes, what takes it from the kernel:
 * RUN/unwire/<name of the host link>. The plugin sends that, and keeps the DEL in the spool as if there were no agent, which
 * looks there every second and before anything that may depend on it. Nobody is woken, and nobody waits: the address is lent
 * again when the agent has done the DEL, and it has cooled.
 *
 * Such a file may be old, since the agent removes it some time after the pod. So it says whose it is, and its two parts are
 * sent one after the other: routes, which the kernel takes away only where this address is reached by this link, and only if
 * all were there, what buries the link.
 *
 * Killed at any point: the runtime asks again, finds no route, and the agent does what is left.
 *
 *   file     "berthU1\n", inode of the network namespace it is for (u64), index of the host link (u32), sizes of the
 *            container's id and the two batches (u16 each), unused (u16, u32), the id, the batches
 */
#define _GNU_SOURCE
#include "unwire.h"

#include <linux/netlink.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernel.h"
#include "name.h"

struct head {
    char magic[8];
    uint64_t namespace;
    uint32_t index;
    uint16_t id, sizes[2], unused[3];
};

static struct {
    union {
        struct head head;
        char bytes[2048];
    } file;
    const char *routes, *link; /* into it */
} word;

unsigned unwire_word(const char *folder) {
    struct head *head = &word.file.head;
    char name[LINK_NAME], file[sizeof "unwire/" + LINK_NAME];
    const char *container = getenv("CNI_CONTAINERID");
    if (!link_name(name)) return 0;
    snprintf(file, sizeof file, "unwire/%s", name);
    ssize_t size = read_published(folder, file, "berthU1\n", word.file.bytes, sizeof word.file.bytes);
    if (size < (ssize_t)sizeof *head) return 0;
    if (sizeof *head + head->id + head->sizes[0] + head->sizes[1] != (size_t)size) return 0;
    if (head->sizes[0] < NLMSG_HDRLEN || head->sizes[1] < NLMSG_HDRLEN) return 0; /* nothing would answer */
    const char *id = word.file.bytes + sizeof *head;
    if (strlen(container) != head->id || memcmp(container, id, head->id) || !in_namespace(head->namespace)) return 0;
    word.routes = id + head->id;
    word.link = word.routes + head->sizes[0];
    return head->index;
}

int unwire(void) {
    const uint16_t *sizes = word.file.head.sizes;
    int netlink = open_netlink(1);
    int done = netlink >= 0 && !send_batch(netlink, word.routes, sizes[0], 0) && !send_batch(netlink, word.link, sizes[1], 0);
    if (netlink >= 0) close(netlink);
    return done;
}
