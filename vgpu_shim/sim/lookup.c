/* Looking functions up by name, version and stream flavour, and the texts of errors. */
#include "sim.h"

#include <string.h>

struct entry {
    const char *name;
    int version;
    bool per_thread;
    void *function;
};

/* Written by gen_build.py: the functions of this driver, with the version each came in. Sorted by name, then version. */
static const struct entry entries[] = {
#define MICA_ENTRY(symbol, base, version, per_thread) {#base, version, per_thread, (void *)symbol},
#include "sim_entries.inc"
};

static void *find(const char *name, int version, bool per_thread, int *status)
{
    void *plain = NULL, *flavoured = NULL;
    *status = MICA_SYMBOL_NOT_FOUND;
    for (size_t i = 0; i < sizeof entries / sizeof entries[0]; i++) {
        const struct entry *entry = &entries[i];
        if (strcmp(entry->name, name) != 0)
            continue;
        if (*status == MICA_SYMBOL_NOT_FOUND)
            *status = MICA_SYMBOL_VERSION_TOO_OLD;
        if (entry->version > version)
            continue;
        if (entry->per_thread)
            flavoured = entry->function;
        else
            plain = entry->function;
    }
    /* the per-thread form where there is one, the plain one otherwise */
    void *found = per_thread && flavoured ? flavoured : plain;
    if (found)
        *status = MICA_SYMBOL_FOUND;
    return found;
}

CUresult cuGetProcAddress_v2(const char *symbol, void **function, int version, uint64_t flags, int *status)
{
    int ignored;
    status = status ? status : &ignored;
    if (!symbol || !function || flags > MICA_LOOKUP_PER_THREAD)
        return MICA_CUDA_INVALID_VALUE;
    *function = find(symbol, version, flags == MICA_LOOKUP_PER_THREAD, status);
    /* without a status the caller learns of a missing symbol by the error */
    return *function || status != &ignored ? MICA_CUDA_SUCCESS : MICA_CUDA_NOT_FOUND;
}

CUresult cuGetProcAddress(const char *symbol, void **function, int version, uint64_t flags)
{
    return cuGetProcAddress_v2(symbol, function, version, flags, NULL);
}

CUresult cuGetExportTable(const void **table, const CUuuid *id)
{
    (void)id; /* private tables: this driver has none */
    if (!table)
        return MICA_CUDA_INVALID_VALUE;
    *table = NULL;
    return MICA_CUDA_NOT_FOUND;
}

static const struct { CUresult error; const char *name; const char *text; } errors[] = {
    {0, "CUDA_SUCCESS", "no error"},
    {1, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {2, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {3, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {4, "CUDA_ERROR_DEINITIALIZED", "driver shutting down"},
    {46, "CUDA_ERROR_DEVICE_UNAVAILABLE", "device unavailable"},
    {100, "CUDA_ERROR_NO_DEVICE", "no device"},
    {101, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {201, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {214, "CUDA_ERROR_ECC_UNCORRECTABLE", "uncorrectable hardware error"},
    {400, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {401, "CUDA_ERROR_ILLEGAL_STATE", "illegal state"},
    {500, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {600, "CUDA_ERROR_NOT_READY", "device not ready"},
    {800, "CUDA_ERROR_NOT_PERMITTED", "operation not permitted"},
    {801, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {999, "CUDA_ERROR_UNKNOWN", "unknown error"},
};

static CUresult describe(CUresult error, const char **out, bool name)
{
    if (!out)
        return MICA_CUDA_INVALID_VALUE;
    *out = NULL;
    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++)
        if (errors[i].error == error)
            *out = name ? errors[i].name : errors[i].text;
    return *out ? MICA_CUDA_SUCCESS : MICA_CUDA_INVALID_VALUE;
}

CUresult cuGetErrorName(CUresult error, const char **text)
{
    return describe(error, text, true);
}

CUresult cuGetErrorString(CUresult error, const char **text)
{
    return describe(error, text, false);
}
