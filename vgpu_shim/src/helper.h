/* One thread per process that launches: settles finished work, closes batches that nobody adds to, keeps an eye on limits and the node page. */
#ifndef MICA_HELPER_H
#define MICA_HELPER_H

#include <stdatomic.h>

enum { MICA_HELPER_NONE = 0, MICA_HELPER_ASLEEP = 1, MICA_HELPER_AWAKE = 2, MICA_HELPER_IMPOSSIBLE = 3 };
extern _Atomic int mica_helper_state;

void mica_helper_wake_slow(void);
/* There is something to settle. */
static inline void mica_helper_wake(void)
{
    if (__builtin_expect(atomic_load_explicit(&mica_helper_state, memory_order_relaxed) < MICA_HELPER_AWAKE, 0))
        mica_helper_wake_slow();
}
/* A forked child has no such thread. */
void mica_helper_forked(void);

#endif
