/* The pod's pair of links, made by the plugin while the agent chooses an address; see pair.c. */
#ifndef BERTH_PAIR_H
#define BERTH_PAIR_H
#include <stddef.h>

/* Whether a pair would be of use to a pod with this configuration: one that needs more than links is the agent's to wire,
 * and a pair would only be in its way. */
int pair_suits(const char *config, size_t size);

/* Looks whether the agent wants it, and puts what it is to be told among the variables (BERTH_LINK=…, with its NUL) into
 * `told`. Returns that many bytes, 0 if the agent is to make the links. `folder` is the agent's. To be called once. */
size_t pair_offer(const char *folder, char *told, size_t size);

/* Makes the pair, and enters the pod's namespace for good. Does nothing if it was not offered or is there already. */
void pair_make(int netns);

/* Carries out what the agent answered: three batches of `sizes` bytes one after the other (host, pod, a look at the host
 * link). `ignored` is an error number that does not matter on the host. Returns 0, or the error number of what was
 * refused, and in `batch` where. */
int pair_carry_out(char *batches, const unsigned sizes[3], int ignored, int *batch);

/* Takes the pair away, unless there is none. */
void pair_undo(void);

#endif
