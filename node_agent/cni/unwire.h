/* A pod whose DEL needs nobody's thinking; see unwire.c. */
#ifndef BERTH_UNWIRE_H
#define BERTH_UNWIRE_H

/* Takes the pod of this DEL from the kernel, if the agent has left word how. 1 if that is done, and the agent need only know;
 * 0 if it is to do what is left. `folder` is the agent's. */
int unwire(const char *folder);

#endif
