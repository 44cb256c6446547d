/* Which sources this library was built from: kernels.py refuses one that does not match the sources beside it. */
#include "fleet.h"

#ifndef MICA_KERNEL_DIGEST
#define MICA_KERNEL_DIGEST ""
#endif

const char *mica_kernel_digest(void)
{
    return MICA_KERNEL_DIGEST;
}
