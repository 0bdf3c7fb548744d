/* A pod whose DEL needs nobody's thinking; see unwire.c. */
#ifndef BERTH_UNWIRE_H
#define BERTH_UNWIRE_H

/* Looks whether the agent has left word how the pod of this DEL is taken from the kernel. Returns the index of its host link,
 * 0 if the agent is to do it. `folder` is the agent's. */
unsigned unwire_word(const char *folder);

/* Does it. 1 if all of that is done; 0 if the agent is to do what is left. After unwire_word alone. */
int unwire(void);

#endif
