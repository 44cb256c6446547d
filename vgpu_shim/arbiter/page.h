/* The node page as its writer sees it. */
#ifndef MICA_PAGE_H
#define MICA_PAGE_H

#include "containers.h"

/* True when an arbiter keeps the page at the path: its heartbeat is fresh. */
bool page_alive(const char *path);
/* Make a new page at the path, in place of an old one. False with a message on stderr; also when another arbiter keeps that page. */
bool page_open(const char *path);
void page_beat(uint64_t now);
/* Say who a container is; a place that changes hands grants nothing in between. */
void page_name(unsigned place, uint64_t inode, uint64_t device);
/* Publish an answer; wakes the container when it is for the better. */
void page_grant(unsigned place, unsigned gpu, const struct contender *answer);
/* Nobody is there any more: containers go by their own balance at once. */
void page_leave(void);

#endif
