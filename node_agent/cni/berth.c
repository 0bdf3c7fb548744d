/* berth: the CNI plugin. A pipe without logic: all thinking is in the node agent.
 *
 * It copies the CNI_* environment and standard input into a memfd, opens CNI_NETNS, and passes both descriptors to the
 * agent with one small message (so nothing is bounded by a socket buffer, and the agent needs no view of the
 * runtime's mounts or processes). The answer comes back the same way. See berth_node/wire.py for the other side.
 *
 *   request   "berth/1 <errno of opening CNI_NETNS, 0 if fine or unset>"  + memfd [+ netns]
 *   answer    "berth/1 <exit code>"                                      + memfd with what to print
 *   memfd     CNI_A=x NUL CNI_B=y NUL NUL standard-input
 *
 * What it does by itself, because the agent may be restarting (an upgrade, a crash):
 *   ADD, CHECK, GC  try again for 20 s, then "try again later" (11). An agent that dies in the middle of a request is
 *                   asked again: every request is idempotent by container and interface.
 *   DEL             is spooled as a file that the agent reads before it accepts a connection, and succeeds at once.
 *   STATUS          the agent touches /run/berth/ready every few seconds from the first usable address of this boot
 *                   on (/run does not outlive a boot), so a mark younger than 60 s answers for a restarting agent.
 *   VERSION         is answered from here if nobody else does.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

/* Tests build it with a folder of their own and shorter seconds. */
#ifndef RUN
#define RUN "/run/berth"
#endif
#ifndef SECOND
#define SECOND 1000 /* milliseconds */
#endif
#define SOCKET RUN "/cni.sock"
#define SPOOL RUN "/spool"
#define READY RUN "/ready"
#define READY_SECONDS 60
#define PAUSE_MS 50
#define TOTAL_MS (120 * SECOND) /* an agent that dies at each request must not hold a runtime's thread for ever */

enum fallback { REFUSE, SPOOL_REQUEST, TRUST_READY, SAY_VERSIONS };
enum outcome { ANSWERED, NOT_CONNECTED, LOST, TIMED_OUT };

static const struct command {
    const char *name;
    long long patience_ms; /* how long a missing agent is waited for */
    long answer_ms;        /* how long an answer is waited for */
    enum fallback fallback;
} commands[] = {
    {"ADD", 20 * SECOND, 100 * SECOND, REFUSE}, {"CHECK", 20 * SECOND, 60 * SECOND, REFUSE},
    {"GC", 20 * SECOND, 100 * SECOND, REFUSE},  {"DEL", 0, 30 * SECOND, SPOOL_REQUEST},
    {"STATUS", SECOND, 5 * SECOND, TRUST_READY}, {"VERSION", 0, 2 * SECOND, SAY_VERSIONS},
};

extern char **environ;

static long long now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}

/* Prints a CNI error. The texts are ours or strerror's: nothing in them needs escaping in JSON. */
static int fail(int code, const char *message, int error) {
    printf("{\"cniVersion\":\"1.1.0\",\"code\":%d,\"msg\":\"%s\",\"details\":\"%s\"}\n", code, message,
           error ? strerror(error) : "");
    return 1;
}

static int put(int to, const char *data, size_t size) {
    while (size) {
        ssize_t n = write(to, data, size);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return -1;
        data += n;
        size -= (size_t)n;
    }
    return 0;
}

static int copy(int from, int to) {
    char buffer[16384];
    for (;;) {
        ssize_t n = read(from, buffer, sizeof buffer);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return (int)n;
        if (put(to, buffer, (size_t)n)) return -1;
    }
}

static int make_request(void) {
    int request = memfd_create("berth-request", MFD_CLOEXEC);
    if (request < 0) return -1;
    for (char **e = environ; *e; e++)
        if (!strncmp(*e, "CNI_", 4) && put(request, *e, strlen(*e) + 1)) return -1;
    return put(request, "", 1) || copy(STDIN_FILENO, request) ? -1 : request;
}

/* Opens the pod's network namespace. One that does not open is the agent's to explain: it gets the errno. */
static int open_netns(int *error) {
    const char *path = getenv("CNI_NETNS");
    int netns = path && *path ? open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK) : -1;
    *error = path && *path && netns < 0 ? errno : 0;
    return netns;
}

/* Sends the one message of a request, and closes the namespace. */
static int send_request(int peer, int request, int netns, int error) {
    int descriptors[2] = {request, netns};
    char text[32];
    struct iovec part = {text, (size_t)snprintf(text, sizeof text, "berth/1 %d", error)};
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof descriptors)];
    } control;
    memset(&control, 0, sizeof control);
    size_t size = sizeof(int) * (descriptors[1] < 0 ? 1 : 2);
    control.header.cmsg_level = SOL_SOCKET;
    control.header.cmsg_type = SCM_RIGHTS;
    control.header.cmsg_len = CMSG_LEN(size);
    memcpy(CMSG_DATA(&control.header), descriptors, size);
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = CMSG_SPACE(size)};
    ssize_t n = sendmsg(peer, &message, MSG_NOSIGNAL);
    if (netns >= 0) close(netns); /* a plugin that waits is not to keep a pod's namespace alive */
    return n < 0 ? -1 : 0;
}

static int misunderstood(int error) {
    return fail(5, "the answer of Berth's node agent is not understood: install plugin and agent of one release", error);
}

static enum outcome receive_answer(int peer, int *code) {
    char text[32];
    struct iovec part = {text, sizeof text - 1};
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } control;
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    ssize_t n;
    do n = recvmsg(peer, &message, MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return TIMED_OUT;
    if (n <= 0) return LOST;
    text[n] = 0;
    struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
    int answer;
    /* an exit status has 8 bits: 256 would pass an error off as success */
    if (!rights || rights->cmsg_type != SCM_RIGHTS || sscanf(text, "berth/%*d %d", code) != 1 || *code < 0 || *code > 255) {
        *code = misunderstood(0);
        return ANSWERED;
    }
    memcpy(&answer, CMSG_DATA(rights), sizeof answer);
    if (lseek(answer, 0, SEEK_SET) || copy(answer, STDOUT_FILENO)) *code = misunderstood(errno);
    return ANSWERED;
}

static enum outcome exchange(const struct command *command, int request, int *code, int *error) {
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = SOCKET};
    struct timeval limit = {.tv_sec = command->answer_ms / 1000, .tv_usec = command->answer_ms % 1000 * 1000};
    int peer = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    enum outcome outcome = NOT_CONNECTED;
    /* Before connect(), which wakes the agent: the message is to be there when it looks. */
    int why, netns = open_netns(&why);
    /* SO_SNDTIMEO bounds connect() too, which blocks while the agent's backlog is full (unix(7)). */
    if (peer >= 0 && !setsockopt(peer, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) &&
        !setsockopt(peer, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit) &&
        !connect(peer, (struct sockaddr *)&address, sizeof address))
        outcome = send_request(peer, request, netns, why) ? LOST : receive_answer(peer, code);
    *error = outcome == ANSWERED ? 0 : errno;
    if (netns >= 0 && outcome == NOT_CONNECTED) close(netns);
    if (peer >= 0) close(peer);
    return outcome;
}

/* Keeps a DEL for the agent. The rename makes it appear whole; a name with a leading dot is ignored by the agent, so a
 * kill before the rename leaves a DEL that the runtime saw fail. tmpfs needs no fsync: a reboot ends every pod. */
static int spool(int request) {
    char draft[128], name[128];
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    snprintf(name, sizeof name, SPOOL "/%lld.%09ld.%d", (long long)t.tv_sec, t.tv_nsec, (int)getpid());
    snprintf(draft, sizeof draft, SPOOL "/.%lld.%09ld.%d", (long long)t.tv_sec, t.tv_nsec, (int)getpid());
    mkdir(RUN, 0700);
    mkdir(SPOOL, 0700);
    int file = open(draft, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (file < 0) return fail(5, "Berth's node agent is down and the DEL could not be kept in " SPOOL, errno);
    if (lseek(request, 0, SEEK_SET) || copy(request, file) || close(file) || rename(draft, name)) {
        int error = errno;
        unlink(draft);
        return fail(5, "Berth's node agent is down and the DEL could not be kept in " SPOOL, error);
    }
    return 0;
}

static int recently_ready(void) {
    struct stat mark;
    if (stat(READY, &mark)) return 0;
    long long age = (long long)time(NULL) - (long long)mark.st_mtime;
    return age > -READY_SECONDS && age < READY_SECONDS; /* a clock set back must not make it ready for ever */
}

static int fall_back(const struct command *command, int request, int error) {
    if (command->fallback == SPOOL_REQUEST) return spool(request);
    if (command->fallback == TRUST_READY)
        return recently_ready() ? 0 : fail(50, "Berth's node agent does not answer at " SOCKET ": is it running?", error);
    if (command->fallback == SAY_VERSIONS)
        return puts("{\"cniVersion\":\"1.1.0\",\"supportedVersions\":[\"0.3.1\",\"0.4.0\",\"1.0.0\",\"1.1.0\"]}") < 0;
    return fail(11, "Berth's node agent does not answer at " SOCKET ": is it running?", error);
}

int main(void) {
    const char *name = getenv("CNI_COMMAND");
    const struct command *command = NULL;
    for (size_t i = 0; name && i < sizeof commands / sizeof *commands; i++)
        if (!strcmp(name, commands[i].name)) command = &commands[i];
    if (!command) return fail(4, "CNI_COMMAND must be one of ADD, DEL, CHECK, GC, STATUS, VERSION", 0);
    int request = make_request();
    if (request < 0) return fail(5, "cannot copy standard input and the environment", errno);
    long long started = now_ms(), deadline = started + command->patience_ms;
    for (int code = 1, error = 0;;) {
        enum outcome outcome = exchange(command, request, &code, &error);
        if (outcome == ANSWERED) return code;
        long long now = now_ms();
        if (outcome == LOST) deadline = now + command->patience_ms; /* it was there: wait for it afresh */
        if (outcome == TIMED_OUT || now >= deadline || now - started >= TOTAL_MS)
            return fall_back(command, request, error);
        nanosleep(&(struct timespec){.tv_nsec = PAUSE_MS * 1000000L}, NULL);
    }
}
