/* Requests to the kernel; see kernel.c. */
#ifndef BERTH_KERNEL_H
#define BERTH_KERNEL_H
#include <stdint.h>
#include <sys/types.h>

/* Reads a file of the agent's folder. Returns its bytes, at most `size` of them; -1 if it is none that begins so. */
ssize_t read_published(const char *folder, const char *name, const char magic[8], void *into, size_t size);

/* Whether this process is in the network namespace with that inode. */
int in_namespace(uint64_t inode);

/* A socket of the namespace that this process is in, -1 if there is none to be had. On the host its port is told from
 * others'. */
int open_netlink(int host);

/* Sends a batch and waits for the answer to its last request. The kernel runs all of it, whatever fails first. Returns 0,
 * or the error number of what was refused first, but for `ignored`. */
int send_batch(int netlink, const char *batch, unsigned size, int ignored);

#endif
