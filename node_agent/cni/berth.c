/* berth: the CNI plugin. A pipe without logic: all thinking is in the node agent. (What it does with its own hands, of what
 * the agent has thought before, is in pair.c and unwire.c.)
 *
 * It copies the CNI_* environment and standard input into a memfd, opens CNI_NETNS, and passes both descriptors to the
 * agent with one small message (so nothing is bounded by a socket buffer, and the agent needs no view of the
 * runtime's mounts or processes). The answer comes back the same way. See berth_node/wire.py for the other side.
 *
 *   request   "berth/1 <errno of opening CNI_NETNS, 0 if fine or unset>"  + memfd [+ netns]
 *   answer    "berth/1 <exit code>"                                      + memfd with what to print, or if that is short
 *             "berth/1 <exit code>" newline what-to-print
 *             or, before that, "berth/1 wire <sizes> <ignored>" newline batches what-to-print: then a message back says
 *             "berth/1 wired", and it is printed; or "berth/1 refused <batch> <errno>", and another answer comes
 *   memfd     BERTH_TAKES=short NUL CNI_A=x NUL CNI_B=y NUL NUL standard-input
 *             (BERTH_TAKES: what kinds of answers are understood; BERTH_LINK=<index> <MTU> <name>: the links that are
 *             being made here. An agent of before knows neither.)
 *
 * Nearly all that a pod waits for here is processors that have fallen asleep and have to be woken one by one. So it
 * connects before anything else, which wakes the agent while the request is still being put together; and when a
 * processor is idle, it looks for the answer in a loop for some milliseconds instead of letting its own fall asleep.
 *
 * What it does by itself, because the agent may be restarting (an upgrade, a crash):
 *   ADD, CHECK, GC  try again for 20 s, then "try again later" (11). An agent that dies in the middle of a request is
 *                   asked again: every request is idempotent by container and interface.
 *   DEL             is spooled as a file that the agent reads before it accepts a connection, and succeeds at once.
 *                   So it is where an agent is there and the pod is gone from the kernel already: see unwire.c.
 *   STATUS          the agent touches /run/berth/ready every few seconds from the first usable address of this boot
 *                   on (/run does not outlive a boot), so a mark younger than 60 s answers for a restarting agent.
 *   VERSION         is answered from here if nobody else does.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
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

#include "pair.h"
#include "unwire.h"

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
#ifndef LOOK_US
#define LOOK_US 4000 /* an ADD takes one or two milliseconds */
#endif
#define TOTAL_MS (120 * SECOND) /* an agent that dies at each request must not hold a runtime's thread for ever */

enum fallback { REFUSE, SPOOL_REQUEST, TRUST_READY, SAY_VERSIONS };
enum outcome { WIRED, ANSWERED, NOT_CONNECTED, LOST, TIMED_OUT }; /* WIRED: answered, by what was done here */

static const struct command {
    const char *name;
    long long patience_ms; /* how long a missing agent is waited for */
    long answer_ms;        /* how long an answer is waited for */
    enum fallback fallback;
    enum hand { NONE, MAKES_LINKS, UNWIRES } hand; /* what it does by itself: see pair.c, unwire.c */
} commands[] = {
    {"ADD", 20 * SECOND, 100 * SECOND, REFUSE, MAKES_LINKS}, {"CHECK", 20 * SECOND, 60 * SECOND, REFUSE, NONE},
    {"GC", 20 * SECOND, 100 * SECOND, REFUSE, NONE}, {"DEL", 0, 30 * SECOND, SPOOL_REQUEST, UNWIRES},
    {"STATUS", SECOND, 5 * SECOND, TRUST_READY, NONE}, {"VERSION", 0, 2 * SECOND, SAY_VERSIONS, NONE},
};

extern char **environ;

/* Prints a CNI error. The texts are ours or strerror's: nothing in them needs escaping in JSON. */
static int fail(int code, const char *message, int error) {
    printf("{\"cniVersion\":\"1.1.0\",\"code\":%d,\"msg\":\"%s\",\"details\":\"%s\"}\n", code, message,
           error ? strerror(error) : "");
    return 1;
}

static long long now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000LL + t.tv_nsec / 1000;
}

static long long now_ms(void) {
    return now_us() / 1000;
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

/* Fills a buffer from a file. What it returns is less than its size at the file's end only; -1 is an error. */
static ssize_t fill(int from, char *buffer, size_t size) {
    size_t have = 0;
    while (have < size) {
        ssize_t n = read(from, buffer + have, size - have);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return -1;
        if (!n) break;
        have += (size_t)n;
    }
    return (ssize_t)have;
}

static int copy(int from, int to) {
    char buffer[16384];
    for (;;) {
        ssize_t n = fill(from, buffer, sizeof buffer);
        if (n < 0 || put(to, buffer, (size_t)n)) return -1;
        if (n < (ssize_t)sizeof buffer) return 0;
    }
}

/* Writes the environment and standard input, in one write if they are short. */
static int make_request(int pair) {
    static const char takes[] = "BERTH_TAKES=short";
    char buffer[32768], input[16384];
    size_t used = sizeof takes;
    int request = memfd_create("berth-request", MFD_CLOEXEC);
    ssize_t size = fill(STDIN_FILENO, input, sizeof input);
    if (request < 0 || size < 0) return -1;
    memcpy(buffer, takes, used);
    if (pair && size < (ssize_t)sizeof input && pair_suits(input, (size_t)size))
        used += pair_offer(RUN, buffer + used, sizeof buffer - used);
    for (char **e = environ; *e; e++) {
        size_t length = strlen(*e) + 1;
        if (strncmp(*e, "CNI_", 4)) continue;
        if (used + length >= sizeof buffer) {
            if (put(request, buffer, used)) return -1;
            used = 0;
        }
        if (length >= sizeof buffer) {
            if (put(request, *e, length)) return -1;
            continue;
        }
        memcpy(buffer + used, *e, length);
        used += length;
    }
    buffer[used++] = 0;
    if (used + (size_t)size > sizeof buffer) {
        if (put(request, buffer, used)) return -1;
        used = 0;
    }
    memcpy(buffer + used, input, (size_t)size);
    if (put(request, buffer, used + (size_t)size)) return -1;
    return size == (ssize_t)sizeof input && copy(STDIN_FILENO, request) ? -1 : request;
}

static int uncopied(void) {
    return fail(5, "cannot copy standard input and the environment", errno);
}

/* Opens the pod's network namespace. One that does not open is the agent's to explain: it gets the errno. */
static int open_netns(int *error) {
    const char *path = getenv("CNI_NETNS");
    int netns = path && *path ? open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK) : -1;
    *error = path && *path && netns < 0 ? errno : 0;
    return netns;
}

/* Sends the one message of a request. */
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
    return sendmsg(peer, &message, MSG_NOSIGNAL) < 0 ? -1 : 0;
}

static int misunderstood(int error) {
    return fail(5, "the answer of Berth's node agent is not understood: install plugin and agent of one release", error);
}

/* Whether a processor has nothing to do: no more is running than this and the agent. */
static int processors_idle(void) {
    char text[64];
    int file = open("/proc/loadavg", O_RDONLY | O_CLOEXEC), running = 0;
    ssize_t n = file < 0 ? -1 : read(file, text, sizeof text - 1);
    cpu_set_t mine;
    if (file >= 0) close(file);
    if (n <= 0 || sched_getaffinity(0, sizeof mine, &mine)) return 0;
    text[n] = 0;
    return sscanf(text, "%*s %*s %*s %d/", &running) == 1 && running <= CPU_COUNT(&mine) && CPU_COUNT(&mine) > 1;
}

/* Waits for the answer awake, if nobody else wants the processor, and asleep from then on. */
static ssize_t receive(int peer, struct msghdr *message, int awake) {
    ssize_t n = -1;
    errno = EAGAIN; /* the loop may find its time over before it has begun */
    for (long long until = now_us() + LOOK_US; awake && now_us() < until;) {
        n = recvmsg(peer, message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
        if (n >= 0 || (errno != EAGAIN && errno != EWOULDBLOCK)) break;
    }
    while (n < 0 && (errno == EINTR || errno == EAGAIN || errno == EWOULDBLOCK)) {
        n = recvmsg(peer, message, MSG_CMSG_CLOEXEC);
        if (n < 0 && errno != EINTR) break;
    }
    return n;
}

/* Carries out the batches of an answer "berth/1 wire <sizes of three> <ignored error>" newline batches what-to-print, and
 * tells the agent what came of it. Returns where what is to be printed begins; NULL if that is not to be: the kernel
 * refused, or the agent listens no more. Then nobody remembers the pod, and there is none. */
static char *wire(int peer, char *text, ssize_t size) {
    unsigned sizes[3];
    int ignored, batch = 0, error = EPROTO;
    char verdict[48], *batches = strchr(text, '\n');
    if (batches++ && sscanf(text, "berth/%*d wire %u %u %u %d", &sizes[0], &sizes[1], &sizes[2], &ignored) == 4 &&
        sizes[0] < (unsigned)size && sizes[1] < (unsigned)size && sizes[2] < (unsigned)size &&
        batches + sizes[0] + sizes[1] + sizes[2] <= text + size)
        error = pair_carry_out(batches, sizes, ignored, &batch);
    if (error) {
        pair_undo(); /* before the agent makes links of its own: it might take these for them */
        snprintf(verdict, sizeof verdict, "berth/1 refused %d %d", batch, error);
    } else {
        strcpy(verdict, "berth/1 wired");
    }
    if (send(peer, verdict, strlen(verdict), MSG_NOSIGNAL) < 0) {
        pair_undo();
        return NULL;
    }
    return error ? NULL : batches + sizes[0] + sizes[1] + sizes[2];
}

static enum outcome receive_answer(int peer, int *code, int awake) {
    char text[16384];
    struct iovec part = {text, sizeof text - 1};
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } control;
    for (;;) {
        struct msghdr message = {
            .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
        ssize_t n = receive(peer, &message, awake);
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return TIMED_OUT;
        if (n <= 0) return LOST;
        text[n] = 0;
        struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
        char *output = strchr(text, '\n');
        int answer, there = rights && rights->cmsg_type == SCM_RIGHTS;
        if (!strncmp(text, "berth/1 wire ", 13)) {
            output = wire(peer, text, n);
            if (!output) continue; /* to the answer that follows, which may be there already; or to the agent's end */
            *code = put(STDOUT_FILENO, output, (size_t)(text + n - output)) ? misunderstood(errno) : 0;
            return WIRED;
        }
        /* an exit status has 8 bits: 256 would pass an error off as success */
        if ((!there && !output) || sscanf(text, "berth/%*d %d", code) != 1 || *code < 0 || *code > 255) {
            *code = misunderstood(0);
        } else if (there) {
            memcpy(&answer, CMSG_DATA(rights), sizeof answer);
            if (lseek(answer, 0, SEEK_SET) || copy(answer, STDOUT_FILENO)) *code = misunderstood(errno);
        } else if (put(STDOUT_FILENO, output + 1, (size_t)(text + n - output - 1))) {
            *code = misunderstood(errno);
        }
        return ANSWERED;
    }
}

/* One attempt. *request is made with the first, after connecting. */
static enum outcome exchange(const struct command *command, int *request, int *code, int *error) {
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = SOCKET};
    struct timeval limit = {.tv_sec = command->answer_ms / 1000, .tv_usec = command->answer_ms % 1000 * 1000};
    int peer = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    enum outcome outcome = NOT_CONNECTED;
    /* An agent that is busy is to find the request when it gets to it, instead of having to wait for it. */
    int awake = processors_idle(), pair = command->hand == MAKES_LINKS;
    if (!awake && *request < 0) *request = make_request(pair);
    /* SO_SNDTIMEO bounds connect() too, which blocks while the agent's backlog is full (unix(7)). */
    int connected = peer >= 0 && !setsockopt(peer, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) &&
                    !setsockopt(peer, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit) &&
                    !connect(peer, (struct sockaddr *)&address, sizeof address);
    int why = errno;
    if (*request < 0) *request = make_request(pair);
    if (*request < 0) return NOT_CONNECTED;
    if (connected) {
        int unopened, netns = open_netns(&unopened), sent = !send_request(peer, *request, netns, unopened);
        if (sent && pair) pair_make(netns);
        if (netns >= 0) close(netns); /* a plugin that waits is not to keep a pod's namespace alive */
        outcome = sent ? receive_answer(peer, code, awake) : LOST;
        why = errno;
    }
    *error = outcome <= ANSWERED ? 0 : why;
    if (peer >= 0) close(peer);
    return outcome;
}

/* Keeps a DEL for the agent; 0, or an error number. The rename makes it appear whole; a name with a leading dot is ignored by
 * the agent, so a kill before the rename leaves a DEL that the runtime saw fail. tmpfs needs no fsync: a reboot ends every
 * pod. With the index of the pod's host link, which is then in the name, it first takes the pod from the kernel: the DEL of
 * that very pod is kept, and concerns no later one of its container. ECANCELED if that is for the agent to do. */
static int keep(int request, unsigned index) {
    char draft[128], name[128];
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    snprintf(draft, sizeof draft, SPOOL "/.%lld.%09ld.%d", (long long)t.tv_sec, t.tv_nsec, (int)getpid());
    snprintf(name, sizeof name, SPOOL "/%lld.%09ld.%d.%u", (long long)t.tv_sec, t.tv_nsec, (int)getpid(), index);
    int file = open(draft, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600), error = 0;
    if (file < 0 && errno == ENOENT) { /* no agent has ever been here */
        mkdir(RUN, 0700);
        mkdir(SPOOL, 0700);
        file = open(draft, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    }
    if (file < 0) return errno;
    if (lseek(request, 0, SEEK_SET) || copy(request, file) || close(file)) error = errno;
    else if (index && !unwire()) error = ECANCELED;
    else if (rename(draft, name)) error = errno;
    if (error) unlink(draft);
    return error;
}

static int spool(int request) {
    int error = keep(request, 0);
    return error ? fail(5, "Berth's node agent is down and the DEL could not be kept in " SPOOL, error) : 0;
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
    unsigned index = command->hand == UNWIRES ? unwire_word(RUN) : 0;
    int request = index ? make_request(0) : -1;
    if (index && request < 0) return uncopied();
    if (index && !keep(request, index)) return 0;
    long long started = now_ms(), deadline = started + command->patience_ms;
    for (int code = 1, error = 0;;) {
        enum outcome outcome = exchange(command, &request, &code, &error);
        if (request < 0) return uncopied();
        if (outcome == WIRED) return code;
        if (outcome == ANSWERED) {
            pair_undo(); /* it was of no use */
            return code;
        }
        long long now = now_ms();
        if (outcome == LOST) deadline = now + command->patience_ms; /* it was there: wait for it afresh */
        if (outcome == TIMED_OUT || now >= deadline || now - started >= TOTAL_MS) {
            pair_undo();
            return fall_back(command, request, error);
        }
        nanosleep(&(struct timespec){.tv_nsec = PAUSE_MS * 1000000L}, NULL);
    }
}
