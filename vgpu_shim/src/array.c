/* Arrays and mipmapped arrays. They have no address to ask the driver for; what one takes is asked of a twin without memory (deferred mapping),
 * and where the driver has no such thing it is measured by the card's free memory, which neighbours move too, so between bounds only. */
#include "memory.h"

enum { SPARSE = 0x40, DEFERRED = 0x80 };

static struct mica_table arrays; /* key: handle */

/* One creating call. */
struct making {
    enum { ARRAY, ARRAY_V1, ARRAY_3D, ARRAY_3D_V1, MIPMAP } form;
    void *out;
    const void *asked; /* the program's descriptor */
    CUarray3dDesc desc;
    unsigned levels;
};

static CUresult ask_driver(const struct making *m)
{
    switch (m->form) {
    case ARRAY:
        return MICA_REAL(cuArrayCreate_v2, m->out, m->asked);
    case ARRAY_V1:
        return MICA_REAL(cuArrayCreate, m->out, m->asked);
    case ARRAY_3D:
        return MICA_REAL(cuArray3DCreate_v2, m->out, m->asked);
    case ARRAY_3D_V1:
        return MICA_REAL(cuArray3DCreate, m->out, m->asked);
    default:
        return MICA_REAL(cuMipmappedArrayCreate, m->out, m->asked, m->levels);
    }
}

static void destroy(const struct making *m)
{
    if (m->form == MIPMAP)
        (void)MICA_REAL(cuMipmappedArrayDestroy, *(CUmipmap *)m->out);
    else
        (void)MICA_REAL(cuArrayDestroy, *(CUarray *)m->out);
    *(void **)m->out = NULL;
}

/* Bytes of a twin without memory; 0 when the driver cannot say. */
static uint64_t of_twin(const struct making *m)
{
    CUarrayNeeds needs = {0};
    CUarray3dDesc desc = m->desc;
    CUdevice device;
    CUarray array;
    CUmipmap mipmap;
    desc.flags |= DEFERRED;
    if (!mica_real.cuCtxGetDevice || mica_real.cuCtxGetDevice(&device))
        return 0;
    if (m->form == MIPMAP) {
        if (!mica_real.cuMipmappedArrayGetMemoryRequirements || MICA_REAL(cuMipmappedArrayCreate, &mipmap, &desc, m->levels))
            return 0;
        if (mica_real.cuMipmappedArrayGetMemoryRequirements(&needs, mipmap, device))
            needs.size = 0;
        (void)MICA_REAL(cuMipmappedArrayDestroy, mipmap);
        return needs.size;
    }
    if (!mica_real.cuArrayGetMemoryRequirements || MICA_REAL(cuArray3DCreate_v2, &array, &desc))
        return 0;
    if (mica_real.cuArrayGetMemoryRequirements(&needs, array, device))
        needs.size = 0;
    (void)MICA_REAL(cuArrayDestroy, array);
    return needs.size;
}

/* Bits of a texel at least: the format's, times channels where it has them. Unknown formats: the smallest there is. */
static uint64_t texel_bits(const CUarray3dDesc *desc)
{
    static const struct { int format, bits; } known[] = {{0x01, 8}, {0x02, 16}, {0x03, 32}, {0x08, 8}, {0x09, 16}, {0x0a, 32}, {0x10, 16}, {0x20, 32},
                                                         {0xb0, 12}};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (known[i].format == desc->format)
            return (uint64_t)known[i].bits * (desc->channels ? desc->channels : 1);
    return 4;
}

/* Bytes without any padding, all levels; UINT64_MAX when they are more than any card has. */
static uint64_t least(const struct making *m)
{
    CUarray3dDesc level = m->desc;
    uint64_t total = 0;
    for (unsigned l = 0; l < (m->form == MIPMAP ? m->levels : 1) && l < 64; l++) {
        uint64_t rows = level.height ? level.height : 1, planes = level.depth ? level.depth : 1, bits;
        if (__builtin_mul_overflow((uint64_t)level.width, rows, &bits) || __builtin_mul_overflow(bits, planes, &bits)
            || __builtin_mul_overflow(bits, texel_bits(&level), &bits))
            return UINT64_MAX;
        total += bits / 8;
        level.width = level.width > 1 ? level.width / 2 : 1;
        level.height = level.height > 1 ? level.height / 2 : level.height;
        if (!(level.flags & 5)) /* layers and faces do not get fewer */
            level.depth = level.depth > 1 ? level.depth / 2 : level.depth;
    }
    return total;
}

static uint64_t card_free(void)
{
    size_t free_bytes = 0, total = 0;
    return mica_real.cuMemGetInfo_v2 && mica_real.cuMemGetInfo_v2(&free_bytes, &total) == 0 ? free_bytes : 0;
}

/* What the card has less than before, if an array of at least `low` bytes can explain it. */
static uint64_t measured(uint64_t before, uint64_t low)
{
    uint64_t after = card_free(), high = low * 4 + (UINT64_C(64) << 20);
    return before > after && before - after >= low && before - after <= high ? before - after : low;
}

static CUresult create(struct making m)
{
    int gpu;
    CUresult result = mica_memory_gate(&gpu);
    if (result)
        return result;
    if (gpu == MICA_GPU_NONE || !m.out || !m.asked || (m.desc.flags & (SPARSE | DEFERRED))) /* those take memory that cuMemCreate charged */
        return ask_driver(&m);
    uint64_t exact = of_twin(&m), wanted = exact ? exact : least(&m);
    mica_activity_begin();
    if (!mica_charge(gpu, wanted)) {
        mica_activity_end();
        return MICA_CUDA_OUT_OF_MEMORY;
    }
    uint64_t before = exact ? 0 : card_free();
    result = ask_driver(&m);
    uint64_t took = result ? 0 : exact ? exact : measured(before, wanted);
    bool fits = mica_charge_correct(gpu, wanted, took);
    if (!result && fits) {
        const struct mica_entry entry = {.key = (uintptr_t) * (void **)m.out, .bytes = took, .owner = mica_memory_context(), .gpu = gpu};
        fits = mica_table_put(&arrays, &entry);
        wanted = took;
    }
    if (!result && !fits) {
        destroy(&m);
        mica_ledger_release(gpu, wanted);
        result = MICA_CUDA_OUT_OF_MEMORY;
    }
    mica_activity_end();
    return result;
}

CUresult cuArrayCreate_v2(CUarray *array, const CUarrayDesc *desc)
{
    struct making m = {.form = ARRAY, .out = array, .asked = desc};
    if (desc)
        m.desc = (CUarray3dDesc){.width = desc->width, .height = desc->height, .format = desc->format, .channels = desc->channels};
    return create(m);
}

CUresult cuArrayCreate(CUarray *array, const CUarrayDescV1 *desc)
{
    struct making m = {.form = ARRAY_V1, .out = array, .asked = desc};
    if (desc)
        m.desc = (CUarray3dDesc){.width = desc->width, .height = desc->height, .format = desc->format, .channels = desc->channels};
    return create(m);
}

CUresult cuArray3DCreate_v2(CUarray *array, const CUarray3dDesc *desc)
{
    return create((struct making){.form = ARRAY_3D, .out = array, .asked = desc, .desc = desc ? *desc : (CUarray3dDesc){0}});
}

CUresult cuArray3DCreate(CUarray *array, const CUarray3dDescV1 *desc)
{
    struct making m = {.form = ARRAY_3D_V1, .out = array, .asked = desc};
    if (desc)
        m.desc = (CUarray3dDesc){.width = desc->width, .height = desc->height, .depth = desc->depth, .format = desc->format,
                                 .channels = desc->channels, .flags = desc->flags};
    return create(m);
}

CUresult cuMipmappedArrayCreate(CUmipmap *mipmap, const CUarray3dDesc *desc, unsigned levels)
{
    return create((struct making){.form = MIPMAP, .out = mipmap, .asked = desc, .desc = desc ? *desc : (CUarray3dDesc){0}, .levels = levels});
}

#define RELEASE(handle, real) \
    do { \
        struct mica_entry entry; \
        mica_activity_begin(); \
        bool known = mica_table_take(&arrays, (uintptr_t)(handle), &entry); \
        CUresult result = (real); \
        if (known && result) \
            (void)mica_table_put(&arrays, &entry); \
        else if (known) \
            mica_ledger_release(entry.gpu, entry.bytes); \
        mica_activity_end(); \
        return result; \
    } while (0)

CUresult cuArrayDestroy(CUarray array)
{
    RELEASE(array, MICA_REAL(cuArrayDestroy, array));
}

CUresult cuMipmappedArrayDestroy(CUmipmap mipmap)
{
    RELEASE(mipmap, MICA_REAL(cuMipmappedArrayDestroy, mipmap));
}

void mica_arrays_mark(CUcontext context, const void *mark)
{
    mica_table_reown(&arrays, context, (void *)(uintptr_t)mark);
}

void mica_arrays_settle(const void *mark, CUcontext context, bool gone)
{
    struct mica_entry entry;
    if (!gone)
        mica_table_reown(&arrays, mark, context);
    while (gone && mica_table_take_owned(&arrays, mark, &entry))
        mica_ledger_release(entry.gpu, entry.bytes);
}

void mica_arrays_forked(void)
{
    mica_table_forked(&arrays);
}
