/* The name of a pod's host link; see name.c. */
#ifndef BERTH_NAME_H
#define BERTH_NAME_H

#define IFNAME "eth0" /* what Kubernetes' runtimes call a pod's interface: others are the agent's alone */
#define LINK_NAME 16  /* bytes, with the NUL */

/* By the CNI_* variables. 0 if there is no name to be had. */
int link_name(char name[LINK_NAME]);

#endif
