/* Between the scheduler of virtual time (clock_core.c) and what makes a process part of it (clock_start.c). */
#ifndef MICA_SIM_CLOCK_PAGE_H
#define MICA_SIM_CLOCK_PAGE_H

#include <sys/types.h>

#include "clock.h"

enum { LOCK_PAGE = 0, LOCK_PROC = 4096 };
extern int clk_fd;

/* fcntl on one byte of the page's file. F_GETLK: the type of the lock that is in the way, F_UNLCK if none. */
int clk_file_lock(int command, short type, off_t start);
void clk_lock_page(void);
void clk_unlock_page(void);
/* With the page locked: a new process of the same number; is the process dead; give the turn to the next thread; give it away and unlock. */
void clk_bury(uint32_t proc);
bool clk_dead(uint32_t proc);
void clk_pass_on(void);
void clk_give_turn(void);
void clk_await_turn(void);
/* A forked child: no thread of it holds the page. */
void clk_page_forked(void);

#endif
