/* Looking functions up by name, version and stream flavour, and the texts of errors. */
#include "sim.h"

#include <string.h>

#include "entries.h"

static void *find(const char *name, int version, bool per_thread, int *status)
{
    void *plain = NULL, *flavoured = NULL;
    *status = MICA_SYMBOL_NOT_FOUND;
    for (size_t i = 0; i < sim_entry_count; i++) {
        const struct sim_entry *entry = &sim_entries[i];
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
    {900, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"},
    {901, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "operation failed due to a previous error during capture"},
    {902, "CUDA_ERROR_STREAM_CAPTURE_MERGE", "operation would result in a merge of separate capture sequences"},
    {903, "CUDA_ERROR_STREAM_CAPTURE_UNMATCHED", "capture was not ended in the same stream as it began"},
    {904, "CUDA_ERROR_STREAM_CAPTURE_UNJOINED", "capturing stream has unjoined work"},
    {905, "CUDA_ERROR_STREAM_CAPTURE_ISOLATION", "dependency created on uncaptured work in another stream"},
    {906, "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT", "operation would make the legacy stream depend on a capturing blocking stream"},
    {907, "CUDA_ERROR_CAPTURED_EVENT", "operation not permitted on an event last recorded in a capturing stream"},
    {908, "CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD", "attempt to terminate a thread-local capture sequence from another thread"},
    {910, "CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE", "the graph update was not performed"},
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
