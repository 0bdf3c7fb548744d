/* rtt: UDP back and forth between two network namespaces. Prints the least and the median time there and back, in
 * microseconds.
 *
 *   rtt CLIENT-NAMESPACE SERVER-NAMESPACE SERVER-ADDRESS TIMES
 *
 * One thread plays both: a datagram over veth is in the other's socket when send(2) returns or soon after, so what is
 * timed is the way through the kernel, not how long the scheduler takes to wake somebody.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static void die(const char *what) {
    perror(what);
    exit(1);
}

static int udp(const char *namespace) {
    int fd = open(namespace, O_RDONLY | O_CLOEXEC), made = -1;
    if (fd < 0 || setns(fd, CLONE_NEWNET) || (made = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)) < 0) die(namespace);
    struct timeval limit = {.tv_sec = 2};
    setsockopt(made, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    close(fd);
    return made;
}

static int compare(const void *a, const void *b) {
    double d = *(const double *)a - *(const double *)b;
    return (d > 0) - (d < 0);
}

int main(int count, char **words) {
    if (count != 5) return 2;
    int times = atoi(words[4]), server = udp(words[2]), client = udp(words[1]);
    double *took = calloc((size_t)times, sizeof *took);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(7)}, from;
    address.sin_addr.s_addr = inet_addr(words[3]);
    if (bind(server, (void *)&address, sizeof address) || connect(client, (void *)&address, sizeof address)) die("bind");
    char data[32] = "there and back";
    for (int i = -times / 10; i < times; i++) { /* the first tenth warms the caches */
        struct timespec began, ended;
        socklen_t length = sizeof from;
        clock_gettime(CLOCK_MONOTONIC, &began);
        if (send(client, data, sizeof data, 0) < 0 ||
            recvfrom(server, data, sizeof data, 0, (void *)&from, &length) < 0 ||
            sendto(server, data, sizeof data, 0, (void *)&from, length) < 0 || recv(client, data, sizeof data, 0) < 0)
            die("there and back");
        clock_gettime(CLOCK_MONOTONIC, &ended);
        if (i >= 0) took[i] = (double)(ended.tv_sec - began.tv_sec) * 1e6 + (double)(ended.tv_nsec - began.tv_nsec) / 1e3;
    }
    qsort(took, (size_t)times, sizeof *took, compare);
    printf("%.2f %.2f\n", took[0], took[times / 2]);
    return 0;
}
