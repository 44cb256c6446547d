/* Calls that make the overhead larger: measured before and after, undone where what they took does not fit. */
#ifndef MICA_GROWTH_H
#define MICA_GROWTH_H

#include "slice.h"

/* One such call. */
struct mica_growth {
    int gpu; /* negative: not counted */
    enum mica_part part;
    uint64_t reserved;
};

void mica_growth_begin(struct mica_growth *growth, int gpu, enum mica_part part);
/* A context is about to be made: also reserves what one was seen to take. An error: it must not be made. */
CUresult mica_growth_begin_context(struct mica_growth *growth, CUdevice device, bool counted);
/* False when what was taken does not fit: the call must be undone. */
bool mica_growth_end(struct mica_growth *growth, CUresult result, CUcontext context);

#endif
