/* Allocations with an address: reserve before calling the driver, so that no interleaving of threads and processes passes the cap; correct to
 * what the driver really took; give back when it is freed. */
#include "memory.h"

#include "overhead.h"

static struct mica_table allocations;
static _Atomic uint64_t rounding[MICA_GPUS]; /* bytes to which the driver was seen to round sizes up; 0: not seen */

static bool charge(int gpu, uint64_t bytes, bool enforce)
{
    return mica_ledger_charge(gpu, bytes, atomic_load_explicit(&mica_slice.memory[gpu], memory_order_relaxed), enforce);
}

bool mica_charge_try(int gpu, uint64_t bytes)
{
    const bool enforce = atomic_load_explicit(&mica_slice.enforce, memory_order_relaxed) != 0;
    const uint64_t limit = atomic_load_explicit(&mica_slice.memory[gpu], memory_order_relaxed);
    if (!enforce && (bytes > limit || mica_ledger_used(gpu) > limit - bytes))
        MICA_LOG_ONCE("GPU %d: an allocation of %llu bytes passes the limit of %llu (mode=report: allowed)", gpu, (unsigned long long)bytes,
                      (unsigned long long)limit);
    return charge(gpu, bytes, enforce);
}

bool mica_charge_make_room(int gpu, uint64_t bytes, int step)
{
    const bool enforce = atomic_load_explicit(&mica_slice.enforce, memory_order_relaxed) != 0;
    if (step > 1 || (enforce && bytes > atomic_load_explicit(&mica_slice.memory[gpu], memory_order_relaxed))) {
        mica_ledger_deny(gpu);
        return false;
    }
    if (step == 0) {
        mica_ledger_reap();
    } else {
        mica_pools_trim(gpu);
        mica_graph_memory_trim(gpu);
    }
    return true;
}

static __attribute__((noinline)) bool charge_otherwise(int gpu, uint64_t bytes)
{
    if (!atomic_load_explicit(&mica_slice.enforce, memory_order_relaxed) && mica_charge_try(gpu, bytes))
        return true;
    for (int step = 0; mica_charge_make_room(gpu, bytes, step); step++)
        if (mica_charge_try(gpu, bytes))
            return true;
    return false;
}

bool mica_charge(int gpu, uint64_t bytes)
{
    return (MICA_LIKELY(atomic_load_explicit(&mica_slice.enforce, memory_order_relaxed) != 0) && MICA_LIKELY(charge(gpu, bytes, true)))
        || charge_otherwise(gpu, bytes);
}

void mica_charge_taken(int gpu, uint64_t bytes)
{
    (void)charge(gpu, bytes, false);
}

bool mica_charge_correct(int gpu, uint64_t charged, uint64_t took)
{
    if (took < charged)
        mica_ledger_release(gpu, charged - took);
    return took <= charged || mica_charge(gpu, took - charged);
}

CUresult mica_memory_usable(int *gpu, CUresult error)
{
    if (*gpu != MICA_GPU_FOREIGN)
        return MICA_CUDA_SUCCESS;
    *gpu = MICA_GPU_NONE;
    return mica_slice_foreign(error);
}

CUresult mica_memory_begin(void)
{
    CUresult result = mica_slice_check();
    if (!result)
        mica_slice_look();
    return result;
}

/* context: the current one. */
static inline CUresult gate(int *gpu, CUcontext *context)
{
    CUresult result = mica_slice_check();
    if (MICA_UNLIKELY(result))
        return result;
    mica_slice_look();
    *context = mica_memory_context();
    *gpu = *context ? mica_gpu_of_context(*context) : MICA_GPU_NONE;
    return MICA_LIKELY(*gpu != MICA_GPU_FOREIGN) ? MICA_CUDA_SUCCESS : mica_memory_usable(gpu, MICA_CUDA_OUT_OF_MEMORY);
}

CUresult mica_memory_gate(int *gpu)
{
    CUcontext context;
    return gate(gpu, &context);
}

CUcontext mica_memory_context(void)
{
    CUcontext context = NULL;
    return mica_real.cuCtxGetCurrent && mica_real.cuCtxGetCurrent(&context) == 0 ? context : NULL;
}

static void freed(const struct mica_entry *entry)
{
    if (MICA_LIKELY(entry->kind == MICA_KIND_PLAIN)) {
        mica_ledger_release(entry->gpu, entry->bytes);
        return;
    }
    if (entry->kind == MICA_KIND_POOLED)
        mica_pool_freed(entry->owner);
    else
        mica_ledger_release(entry->gpu, entry->bytes);
    if (entry->kind == MICA_KIND_EXPORTED)
        mica_ledger_drop_export((int)entry->handles, 0);
    if (entry->kind == MICA_KIND_MANAGED)
        mica_overhead_managed(entry->gpu, -(int64_t)entry->bytes);
}

void mica_memory_exported(CUdeviceptr base, unsigned place)
{
    mica_acquire(&allocations.lock);
    struct mica_entry *entry = mica_table_find(&allocations, base);
    if (entry && entry->kind == MICA_KIND_PLAIN) {
        entry->kind = MICA_KIND_EXPORTED;
        entry->handles = place;
    }
    mica_release(&allocations.lock);
}

static inline __attribute__((always_inline)) bool remember(CUdeviceptr pointer, uint64_t bytes, int gpu, void *owner, enum mica_kind kind)
{
    struct mica_entry old;
    mica_acquire(&allocations.lock);
    struct mica_entry *entry = mica_table_claim(&allocations, pointer, &old);
    if (MICA_LIKELY(entry != NULL)) {
        entry->bytes = bytes;
        entry->owner = owner;
        entry->gpu = gpu;
        entry->kind = kind;
    }
    mica_release(&allocations.lock);
    if (MICA_UNLIKELY(!entry))
        return false;
    if (MICA_UNLIKELY(kind == MICA_KIND_MANAGED))
        mica_overhead_managed(gpu, (int64_t)bytes);
    if (MICA_UNLIKELY(old.key != 0)) /* freed by a way we do not see */
        freed(&old);
    return true;
}

bool mica_memory_remember(CUdeviceptr pointer, uint64_t bytes, int gpu, void *owner, enum mica_kind kind)
{
    return remember(pointer, bytes, gpu, owner, kind);
}

/* What an allocation will take, as far as this driver's rounding is known; never more. */
static uint64_t predict(int gpu, uint64_t bytes)
{
    uint64_t unit = atomic_load_explicit(&rounding[gpu], memory_order_relaxed);
    return unit && bytes <= MICA_USED_MASK ? (bytes + unit - 1) & ~(unit - 1) : bytes;
}

/* The smallest power of two that explains what the driver took. The true one may be larger, never smaller, so predictions stay below. */
static void learn(int gpu, uint64_t asked, uint64_t took)
{
    uint64_t unit = 1;
    while (unit < took && ((asked + unit - 1) & ~(unit - 1)) != took)
        unit <<= 1;
    atomic_store_explicit(&rounding[gpu], unit < took ? unit : 0, memory_order_relaxed);
}

/* There is no memory to remember what took so much: back to what was reserved, which is released once the driver has it back. */
static __attribute__((noinline)) CUresult forget(int gpu, uint64_t took, uint64_t reserved)
{
    if (took > reserved)
        mica_ledger_release(gpu, took - reserved);
    else
        mica_charge_taken(gpu, reserved - took);
    return MICA_CUDA_OUT_OF_MEMORY;
}

/* The driver gave memory for which `reserved` bytes are charged: charge what it really took, and remember it. With an error they are still charged. */
static inline __attribute__((always_inline)) CUresult keep(int gpu, CUcontext context, CUdeviceptr pointer, uint64_t asked, uint64_t reserved, enum mica_kind kind)
{
    CUdeviceptr base = 0;
    size_t size = 0;
    uint64_t took = reserved;
    if (mica_real.cuMemGetAddressRange_v2 && mica_real.cuMemGetAddressRange_v2(&base, &size, pointer) == 0 && base == pointer)
        took = size;
    if (MICA_UNLIKELY(took != reserved)) {
        if (asked)
            learn(gpu, asked, took);
        if (!mica_charge_correct(gpu, reserved, took))
            return MICA_CUDA_OUT_OF_MEMORY;
    }
    return MICA_LIKELY(remember(pointer, took, gpu, context, kind)) ? MICA_CUDA_SUCCESS : forget(gpu, took, reserved);
}

/* One allocating call in the current context. kind: of memory; asked: bytes, 0 when they say nothing about rounding; reserve: what to charge before;
 * real: the call itself; undo: frees what it gave. */
#define ALLOCATE(kind, asked, reserve, pointer, real, undo) \
    do { \
        int gpu; \
        CUcontext context; \
        CUresult result = gate(&gpu, &context); \
        if (MICA_UNLIKELY(result)) \
            return result; \
        uint64_t wanted = gpu == MICA_GPU_NONE ? 0 : (reserve); \
        if (MICA_UNLIKELY(!wanted)) \
            return (real); /* no context, no bytes: the driver says so */ \
        mica_activity_begin(); \
        if (MICA_UNLIKELY(!mica_charge(gpu, wanted))) { \
            mica_activity_end(); \
            return MICA_CUDA_OUT_OF_MEMORY; \
        } \
        result = (real); \
        if (MICA_UNLIKELY(result)) { \
            mica_ledger_release(gpu, wanted); \
        } else if (MICA_UNLIKELY((result = keep(gpu, context, *(pointer), (asked), wanted, (kind))))) { \
            (void)(undo); \
            *(pointer) = 0; \
            mica_ledger_release(gpu, wanted); \
        } \
        mica_activity_end(); \
        return result; \
    } while (0)

/* Below the cap, but the card is full: with oversubscription the newcomer's memory is managed, and lives on the host until there is room. Nobody who has
 * memory loses it; what cannot be managed memory is refused. */
static CUresult linear(CUdeviceptr *pointer, size_t bytes, enum mica_kind *kind)
{
    enum { EVERYWHERE = 1 };
    CUresult result = mica_real.cuMemAlloc_v2 ? mica_real.cuMemAlloc_v2(pointer, bytes) : mica_driver_absent(); /* limits are in force: it is loaded */
    if (MICA_LIKELY(result != MICA_CUDA_OUT_OF_MEMORY) || !atomic_load(&mica_slice.oversubscribe) || !mica_real.cuMemAllocManaged)
        return result;
    MICA_LOG_ONCE("the card is full: what does not fit lives on the host and is slow (oversubscribe=true)");
    *kind = MICA_KIND_MANAGED;
    return mica_real.cuMemAllocManaged(pointer, bytes, EVERYWHERE);
}

CUresult cuMemAlloc_v2(CUdeviceptr *pointer, size_t bytes)
{
    enum mica_kind kind = MICA_KIND_PLAIN;
    ALLOCATE(kind, bytes, predict(gpu, bytes), pointer, linear(pointer, bytes, &kind), MICA_REAL(cuMemFree_v2, *pointer));
}

CUresult cuMemAlloc(unsigned *pointer, unsigned bytes)
{
    ALLOCATE(MICA_KIND_PLAIN, bytes, predict(gpu, bytes), pointer, MICA_REAL(cuMemAlloc, pointer, bytes), MICA_REAL(cuMemFree, *pointer));
}

static uint64_t area(uint64_t width, uint64_t height)
{
    uint64_t bytes;
    return __builtin_mul_overflow(width, height, &bytes) ? UINT64_MAX : bytes;
}

CUresult cuMemAllocPitch_v2(CUdeviceptr *pointer, size_t *pitch, size_t width, size_t height, unsigned element)
{
    ALLOCATE(MICA_KIND_PLAIN, 0, area(width, height), pointer, MICA_REAL(cuMemAllocPitch_v2, pointer, pitch, width, height, element),
             MICA_REAL(cuMemFree_v2, *pointer));
}

CUresult cuMemAllocPitch(unsigned *pointer, unsigned *pitch, unsigned width, unsigned height, unsigned element)
{
    ALLOCATE(MICA_KIND_PLAIN, 0, area(width, height), pointer, MICA_REAL(cuMemAllocPitch, pointer, pitch, width, height, element),
             MICA_REAL(cuMemFree, *pointer));
}

CUresult cuMemAllocManaged(CUdeviceptr *pointer, size_t bytes, unsigned flags)
{
    ALLOCATE(MICA_KIND_MANAGED, bytes, predict(gpu, bytes), pointer, MICA_REAL(cuMemAllocManaged, pointer, bytes, flags), MICA_REAL(cuMemFree_v2, *pointer));
}

/* One freeing call. The entry goes first: once the driver has freed the address, another thread may be given it again. */
#define RELEASE(pointer, real) \
    do { \
        struct mica_entry entry; \
        mica_activity_begin(); \
        bool known = mica_table_take(&allocations, (pointer), &entry); \
        CUresult result = (real); \
        if (known && MICA_UNLIKELY(result)) \
            (void)mica_table_put(&allocations, &entry); \
        else if (known) \
            freed(&entry); \
        mica_activity_end(); \
        return result; \
    } while (0)

CUresult cuMemFree_v2(CUdeviceptr pointer)
{
    RELEASE(pointer, MICA_REAL(cuMemFree_v2, pointer));
}

CUresult cuMemFree(unsigned pointer)
{
    RELEASE(pointer, MICA_REAL(cuMemFree, pointer));
}

CUresult cuMemFreeAsync(CUdeviceptr pointer, CUstream stream)
{
    RELEASE(pointer, MICA_REAL(cuMemFreeAsync, pointer, stream));
}

CUresult cuMemFreeAsync_ptsz(CUdeviceptr pointer, CUstream stream)
{
    RELEASE(pointer, MICA_REAL(cuMemFreeAsync_ptsz, pointer, stream));
}

const void *mica_memory_mark(CUcontext context)
{
    static _Atomic uintptr_t marks;
    void *mark = (void *)(atomic_fetch_add(&marks, 2) + 1); /* odd, so no context */
    mica_contexts_forget();
    mica_table_reown(&allocations, context, mark);
    mica_arrays_mark(context, mark);
    return mark;
}

void mica_memory_settle(const void *mark, CUcontext context, bool gone)
{
    struct mica_entry entry;
    mica_contexts_forget(); /* its address may be another's now */
    if (!gone)
        mica_table_reown(&allocations, mark, context);
    while (gone && mica_table_take_owned(&allocations, mark, &entry))
        freed(&entry);
    mica_arrays_settle(mark, context, gone);
}

void mica_memory_forked(void)
{
    mica_table_forked(&allocations);
    atomic_store(&mica_activity, 0);
}
