/* Arrays and mipmapped arrays: rows are padded to the pitch, the whole to the granularity. They have no address. */
#include "sim.h"

#include <stdlib.h>

enum { ARRAY_MAGIC = 0x41525231, MIPMAP_MAGIC = 0x4d495031, LAYERED = 1, CUBEMAP = 4, DEFERRED = 0x80, MAX_LEVELS = 32 };

struct mica_array {
    unsigned magic;
    struct mica_mipmap *part_of;
    struct sim_device *device;
    uint64_t bytes, needs; /* taken; and what it would take if it had memory */
    struct mica_ctx *ctx;
};

struct mica_mipmap {
    unsigned magic;
    unsigned levels;
    uint64_t bytes, needs;
    struct sim_device *device;
    struct mica_array parts[MAX_LEVELS];
};

/* Bits of an element of one channel (block-compressed formats: of a texel, all channels); 0 = unknown format. */
static unsigned bits(int format)
{
    switch (format) {
    case 0x01: case 0x08: return 8;
    case 0x02: case 0x09: case 0x10: return 16;
    case 0x03: case 0x0a: case 0x20: return 32;
    case 0xc0: case 0xc6: return 8;
    case 0xc1: case 0xc3: case 0xc7: case 0xc9: return 16;
    case 0xc2: case 0xc4: case 0xc8: case 0xca: return 32;
    case 0xc5: case 0xcb: return 64;
    case 0x91: case 0x92: case 0x97: case 0x98: return 4;
    case 0xb0: return 12;
    default: return format >= 0x93 && format <= 0x9e ? 8 : 0;
    }
}

static CUresult size_of(const CUarray3dDesc *desc, uint64_t *bytes)
{
    bool packed = desc->format >= 0x91;
    if (!desc->width || (desc->channels != 1 && desc->channels != 2 && desc->channels != 4) || !bits(desc->format))
        return MICA_CUDA_INVALID_VALUE;
    uint64_t rows = desc->height ? desc->height : 1, planes = desc->depth ? desc->depth : 1, row, total;
    uint64_t width_bits;
    if (__builtin_mul_overflow((uint64_t)desc->width, (uint64_t)bits(desc->format) * (packed ? 1 : desc->channels), &width_bits)
        || __builtin_add_overflow(width_bits, (uint64_t)7, &width_bits))
        return MICA_CUDA_OUT_OF_MEMORY;
    row = sim_round_to(width_bits / 8, sim.config.memory.pitch);
    if (__builtin_mul_overflow(row, rows, &total) || __builtin_mul_overflow(total, planes, &total) || total > UINT64_C(1) << 48)
        return MICA_CUDA_OUT_OF_MEMORY;
    *bytes = total;
    return MICA_CUDA_SUCCESS;
}

CUresult cuArray3DCreate_v2(CUarray *array, const CUarray3dDesc *desc)
{
    struct mica_ctx *ctx;
    uint64_t bytes;
    CUresult result = sim_current(&ctx);
    if (!result)
        result = sim_unsafe_call();
    if (!result)
        result = array && desc ? size_of(desc, &bytes) : MICA_CUDA_INVALID_VALUE;
    if (result)
        return result;
    struct mica_array *made = calloc(1, sizeof *made);
    if (!made)
        return MICA_CUDA_OUT_OF_MEMORY;
    *made = (struct mica_array){.magic = ARRAY_MAGIC, .device = sim_device_of(ctx), .needs = sim_round(bytes), .ctx = ctx};
    made->bytes = desc->flags & DEFERRED ? 0 : made->needs;
    result = sim_take(made->device, made->bytes);
    if (result)
        free(made);
    else
        *array = made;
    return result;
}

CUresult cuArrayCreate_v2(CUarray *array, const CUarrayDesc *desc)
{
    if (!desc)
        return MICA_CUDA_INVALID_VALUE;
    const CUarray3dDesc wide = {.width = desc->width, .height = desc->height, .format = desc->format, .channels = desc->channels};
    return cuArray3DCreate_v2(array, &wide);
}

CUresult cuArrayDestroy(CUarray array)
{
    CUresult result = sim_check();
    if (result)
        return result;
    if (!array || array->magic != ARRAY_MAGIC || array->part_of)
        return MICA_CUDA_INVALID_HANDLE;
    sim_give(array->device, array->bytes);
    array->magic = 0;
    free(array);
    return MICA_CUDA_SUCCESS;
}

CUresult cuMipmappedArrayCreate(CUmipmap *mipmap, const CUarray3dDesc *desc, unsigned levels)
{
    struct mica_ctx *ctx;
    CUresult result = sim_current(&ctx);
    if (result)
        return result;
    if (!mipmap || !desc || !levels || levels > MAX_LEVELS)
        return MICA_CUDA_INVALID_VALUE;
    struct mica_mipmap *made = calloc(1, sizeof *made);
    if (!made)
        return MICA_CUDA_OUT_OF_MEMORY;
    *made = (struct mica_mipmap){.magic = MIPMAP_MAGIC, .levels = levels, .device = sim_device_of(ctx)};
    CUarray3dDesc level = *desc;
    for (unsigned l = 0; l < levels && !result; l++) {
        uint64_t bytes = 0;
        result = size_of(&level, &bytes);
        made->bytes += bytes;
        made->parts[l] = (struct mica_array){.magic = ARRAY_MAGIC, .part_of = made, .device = made->device};
        level.width = level.width > 1 ? level.width / 2 : 1;
        level.height = level.height > 1 ? level.height / 2 : level.height;
        if (!(level.flags & (LAYERED | CUBEMAP))) /* layers and faces do not get fewer */
            level.depth = level.depth > 1 ? level.depth / 2 : level.depth;
    }
    made->needs = sim_round(made->bytes);
    made->bytes = desc->flags & DEFERRED ? 0 : made->needs;
    if (!result)
        result = sim_take(made->device, made->bytes);
    if (result)
        free(made);
    else
        *mipmap = made;
    return result;
}

CUresult cuMipmappedArrayGetLevel(CUarray *array, CUmipmap mipmap, unsigned level)
{
    if (!array || !mipmap || mipmap->magic != MIPMAP_MAGIC || level >= mipmap->levels)
        return MICA_CUDA_INVALID_VALUE;
    *array = &mipmap->parts[level];
    return MICA_CUDA_SUCCESS;
}

CUresult cuMipmappedArrayDestroy(CUmipmap mipmap)
{
    CUresult result = sim_check();
    if (result)
        return result;
    if (!mipmap || mipmap->magic != MIPMAP_MAGIC)
        return MICA_CUDA_INVALID_HANDLE;
    sim_give(mipmap->device, mipmap->bytes);
    mipmap->magic = 0;
    free(mipmap);
    return MICA_CUDA_SUCCESS;
}

/* Only of those without memory of their own, as the API has it. */
CUresult cuArrayGetMemoryRequirements(CUarrayNeeds *needs, CUarray array, CUdevice device)
{
    (void)device;
    CUresult result = sim_check();
    if (!result && (!needs || !array || array->magic != ARRAY_MAGIC || array->bytes))
        result = MICA_CUDA_INVALID_VALUE;
    if (!result)
        *needs = (CUarrayNeeds){.size = array->needs, .alignment = sim.config.memory.granularity};
    return result;
}

CUresult cuMipmappedArrayGetMemoryRequirements(CUarrayNeeds *needs, CUmipmap mipmap, CUdevice device)
{
    (void)device;
    CUresult result = sim_check();
    if (!result && (!needs || !mipmap || mipmap->magic != MIPMAP_MAGIC || mipmap->bytes))
        result = MICA_CUDA_INVALID_VALUE;
    if (!result)
        *needs = (CUarrayNeeds){.size = mipmap->needs, .alignment = sim.config.memory.granularity};
    return result;
}
