/* floor: the least that a plugin can do. A fresh process reads its environment and standard input, opens the pod's
 * network namespace, sends the netlink messages that Berth's data plane sends, and prints a result.
 *
 * Whoever calls it has recorded the messages of each pod beforehand (record.py): /run/floor/<pod>.<CNI_COMMAND>, where
 * <pod> is the last part of CNI_NETNS. There is no pool, no journal, no agent. The file has parts one after the other:
 * a struct part, then its bytes. The descriptor of the namespace is the only thing that is written into them here.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct part {
    int in_pod;        /* sent by a socket of the pod's namespace */
    unsigned last;     /* sequence number of the message whose answer ends this part */
    int descriptor_at; /* where the namespace's descriptor goes, -1 for nowhere */
    unsigned size;
};

static int fail(const char *what) {
    printf("{\"cniVersion\":\"1.1.0\",\"code\":100,\"msg\":\"%s: %s\"}\n", what, strerror(errno));
    return 1;
}

/* Waits for the answer to the last message. Something that is gone already is fine, as it is for Berth's DEL. */
static int answered(int netlink, unsigned last) {
    static char buffer[32768];
    for (;;) {
        ssize_t size = recv(netlink, buffer, sizeof buffer, 0);
        if (size < 0) return -1;
        for (struct nlmsghdr *m = (void *)buffer; NLMSG_OK(m, size); m = NLMSG_NEXT(m, size)) {
            int error = m->nlmsg_type == NLMSG_ERROR ? -((struct nlmsgerr *)NLMSG_DATA(m))->error : 0;
            if (error && error != ENODEV && error != ESRCH) {
                errno = error;
                return -1;
            }
            if (m->nlmsg_seq == last) return 0;
        }
    }
}

int main(void) {
    static char config[65536], messages[65536];
    const char *command = getenv("CNI_COMMAND"), *path = getenv("CNI_NETNS"), *pod = path ? strrchr(path, '/') : NULL;
    if (!command || !pod || read(0, config, sizeof config) < 0) return fail("environment or standard input");
    char name[256];
    snprintf(name, sizeof name, "/run/floor%s.%s", pod, command);
    int file = open(name, O_RDONLY | O_CLOEXEC);
    ssize_t size = file < 0 ? -1 : read(file, messages, sizeof messages);
    if (size < 0) return fail(name);
    int namespace = open(path, O_RDONLY | O_CLOEXEC), home = -1, sockets[2] = {-1, -1};
    if (namespace < 0) return fail(path);
    for (char *at = messages; at < messages + size;) {
        struct part part;
        memcpy(&part, at, sizeof part);
        at += sizeof part;
        if (sockets[part.in_pod] < 0) {
            if (part.in_pod && ((home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC)) < 0 || setns(namespace, CLONE_NEWNET)))
                return fail("setns");
            sockets[part.in_pod] = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
            if (part.in_pod && setns(home, CLONE_NEWNET)) return fail("setns");
        }
        if (part.descriptor_at >= 0) memcpy(at + part.descriptor_at, &namespace, sizeof namespace);
        if (send(sockets[part.in_pod], at, part.size, 0) < 0 || answered(sockets[part.in_pod], part.last))
            return fail("netlink");
        at += part.size;
    }
    return puts("{\"cniVersion\":\"1.1.0\",\"ips\":[{\"address\":\"10.0.2.1/32\",\"gateway\":\"169.254.1.1\"}]}") < 0;
}
