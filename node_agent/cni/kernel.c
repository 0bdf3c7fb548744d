/* Requests to the kernel (rtnetlink), which the agent has packed: what is in them is not known here. And how the files are
 * read that the agent publishes them in. */
#define _GNU_SOURCE
#include "kernel.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#define PORTS 0x42450000u /* what the kernel tells of our requests names such a port: the agent knows it is no news */
#define NETLINK_SECONDS 10 /* for the answer; the request itself waits for the kernel's lock as long as that takes */
#define OPERSTATE 16 /* IFLA_OPERSTATE */
#define UP 6         /* IF_OPER_UP */

int in_namespace(uint64_t inode) {
    struct stat here;
    return !stat("/proc/self/ns/net", &here) && (uint64_t)here.st_ino == inode;
}

ssize_t read_published(const char *folder, const char *name, const char magic[8], void *into, size_t size) {
    char path[160];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t have = file < 0 ? -1 : read(file, into, size);
    if (file >= 0) close(file);
    return have < 8 || memcmp(into, magic, 8) ? -1 : have;
}

int open_netlink(int host) {
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

int send_batch(int netlink, const char *batch, unsigned size, int ignored) {
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
