/* exec: runs CNI plugins as a runtime does and says how long each took, from exec to exit.
 *
 * Standard input is a plan, one word list a line:
 *   peer NAME NODE BINARY CONFIG   a plugin, the network namespace (a path) it runs in, its standard input (a path)
 *   run PEER COMMAND POD ID        one process of the batch that follows; POD is the path of the pod's namespace
 *   connect PEER COMMAND POD ID    the same, then one TCP connection from the pod to 10.0.1.5:7 on its node
 *   go SETTLE                      run the batch all at once, then pause for SETTLE milliseconds
 * Standard output has a line "PEER COMMAND exec|connect|batch MICROSECONDS" for each process and batch.
 * A plugin that fails ends it all: what it printed goes to standard error.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sched.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MOST 512

static struct peer {
    char name[32], binary[256], config[256];
    int node;
} peers[16];

static struct run {
    struct peer *peer;
    char command[16], pod[128], id[128];
    int connects, output;
    pid_t pid;
    double started;
} runs[MOST];

static int home;

static void die(const char *format, ...) {
    va_list values;
    va_start(values, format);
    vfprintf(stderr, format, values);
    va_end(values);
    fputc('\n', stderr);
    exit(1);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static void enter(int namespace) {
    if (setns(namespace, CLONE_NEWNET)) die("setns: %m");
}

static struct peer *find(const char *name) {
    for (struct peer *p = peers; p < peers + 16; p++)
        if (!strcmp(p->name, name) || !*p->name) return p;
    die("too many peers");
    return NULL;
}

static void start(struct run *run) {
    static char text[6][512];
    snprintf(text[0], sizeof text[0], "CNI_COMMAND=%s", run->command);
    snprintf(text[1], sizeof text[1], "CNI_CONTAINERID=%s", run->id);
    snprintf(text[2], sizeof text[2], "CNI_NETNS=%s", run->pod);
    snprintf(text[3], sizeof text[3],
             "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=bench;K8S_POD_NAME=%s;K8S_POD_UID=uid-%s;"
             "K8S_POD_INFRA_CONTAINER_ID=%s",
             run->id, run->id, run->id);
    char *environment[] = {text[0], text[1], text[2], text[3], "CNI_IFNAME=eth0", "CNI_PATH=/usr/lib/cni",
                           "PATH=/usr/sbin:/usr/bin:/sbin:/bin", NULL};
    char *arguments[] = {run->peer->binary, NULL};
    int answer[2], config = open(run->peer->config, O_RDONLY | O_CLOEXEC);
    if (config < 0 || pipe2(answer, O_CLOEXEC)) die("%s: %m", run->peer->config);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, config, 0);
    posix_spawn_file_actions_adddup2(&actions, answer[1], 1);
    enter(run->peer->node);
    run->started = now();
    if (posix_spawn(&run->pid, run->peer->binary, &actions, NULL, arguments, environment))
        die("%s does not start", run->peer->binary);
    enter(home);
    posix_spawn_file_actions_destroy(&actions);
    close(config);
    close(answer[1]);
    run->output = answer[0];
}

/* The pod's first packet. A lost one shows as a second, TCP's pause before it tries again. */
static void first_packet(struct run *run) {
    int pod = open(run->pod, O_RDONLY | O_CLOEXEC);
    if (pod < 0) die("%s: %m", run->pod);
    enter(pod);
    int peer = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    enter(home);
    close(pod);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(7)};
    to.sin_addr.s_addr = inet_addr("10.0.1.5");
    struct timeval limit = {.tv_sec = 5};
    setsockopt(peer, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    if (connect(peer, (struct sockaddr *)&to, sizeof to)) die("%s: no connection from %s: %m", run->peer->name, run->pod);
    printf("%s %s connect %.1f\n", run->peer->name, run->command, now() - run->started);
    close(peer);
}

static void finish(struct run *run, double ended, int status) {
    char text[16384];
    ssize_t size = 0, n;
    while (size < (ssize_t)sizeof text - 1 && (n = read(run->output, text + size, sizeof text - 1 - (size_t)size)) > 0) size += n;
    text[size] = 0;
    close(run->output);
    if (status) die("%s %s %s: exit %d: %s", run->peer->name, run->command, run->id, WEXITSTATUS(status), text);
    printf("%s %s exec %.1f\n", run->peer->name, run->command, ended - run->started);
}

static void go(int count, long settle) {
    double started = now(), ended = started;
    for (int i = 0; i < count; i++) start(&runs[i]);
    for (int left = count; left; left--) {
        int status, i = 0;
        pid_t pid = wait(&status);
        ended = now();
        while (i < count && runs[i].pid != pid) i++;
        if (i == count) die("wait: %m");
        if (runs[i].connects) first_packet(&runs[i]);
        finish(&runs[i], ended, status);
    }
    if (count) printf("%s %s batch %.1f\n", runs[0].peer->name, runs[0].command, ended - started);
    struct timespec pause = {settle / 1000, settle % 1000 * 1000000};
    nanosleep(&pause, NULL);
}

int main(void) {
    char line[1024], word[16], name[32], node[128];
    int count = 0;
    long settle;
    home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    while (fgets(line, sizeof line, stdin)) {
        struct run *run = &runs[count];
        struct peer peer;
        if (sscanf(line, "peer %31s %127s %255s %255s", peer.name, node, peer.binary, peer.config) == 4) {
            peer.node = open(node, O_RDONLY | O_CLOEXEC);
            if (peer.node < 0) die("%s: %m", node);
            *find(peer.name) = peer;
        } else if (sscanf(line, "go %ld", &settle) == 1) {
            go(count, settle);
            count = 0;
        } else if (sscanf(line, "%15s %31s %15s %127s %127s", word, name, run->command, run->pod, run->id) == 5) {
            run->peer = find(name);
            run->connects = !strcmp(word, "connect");
            if (++count == MOST) die("more than %d at once", MOST - 1);
        } else {
            die("not understood: %s", line);
        }
    }
    return 0;
}
