/* Own declarations of the part of the public CUDA driver API that Mica hooks or simulates. Not a copy of any header: types are reduced to
 * what the ABI needs. Both the limiter and the simulator use them, and programs in tools/. */
#ifndef MICA_CUDA_MIN_H
#define MICA_CUDA_MIN_H

#include <stddef.h>
#include <stdint.h>

typedef int CUresult;
typedef int CUdevice;
typedef unsigned long long CUdeviceptr;
typedef unsigned long long CUmemHandle;
typedef struct mica_ctx *CUcontext;
typedef struct mica_stream *CUstream;
typedef struct mica_event *CUevent;
typedef struct mica_module *CUmodule;
typedef struct mica_function *CUfunction;
typedef struct mica_pool *CUmempool;
typedef struct mica_graph *CUgraph;
typedef struct mica_graph_exec *CUgraphExec;
typedef struct mica_green *CUgreen;
typedef struct mica_multi_launch CUmultiLaunch;
typedef struct mica_node *CUgraphNode;
typedef struct mica_array *CUarray;
typedef struct mica_mipmap *CUmipmap;
typedef struct mica_external *CUexternal;
typedef struct mica_library *CUlibrary;
typedef struct mica_resources *CUresources;
typedef void (*CUhostFn)(void *user);

typedef struct { char bytes[16]; } CUuuid;
/* where memory lives: type 1 is a device, id its ordinal */
typedef struct { int type; int id; } CUmemLocation;
typedef struct {
    int type;
    int handle_types;
    CUmemLocation location;
    void *security;
    unsigned char flags[8];
} CUmemProp;
typedef struct { CUmemLocation location; int flags; } CUmemAccess;
typedef struct {
    int type;
    int handle_types;
    CUmemLocation location;
    void *security;
    size_t max_size;
    unsigned short usage;
    unsigned char reserved[54];
} CUpoolProps;
typedef struct {
    unsigned grid_x, grid_y, grid_z, block_x, block_y, block_z, shared_bytes;
    CUstream stream;
    void *attributes;
    unsigned attribute_count;
} CUlaunchConfig;
/* kernel node parameters, first form; later forms add fields behind */
typedef struct {
    CUfunction function;
    unsigned grid_x, grid_y, grid_z, block_x, block_y, block_z, shared_bytes;
    void **params, **extra;
} CUkernelNodeParams;
typedef struct { CUhostFn run; void *user; } CUhostNodeParams;
typedef struct {
    CUpoolProps pool;
    const CUmemAccess *access;
    size_t access_count, bytes;
    CUdeviceptr pointer;
} CUallocNodeParams;
typedef struct {
    CUdeviceptr target;
    size_t pitch;
    unsigned value, element;
    size_t width, height;
} CUmemsetNodeParams;
typedef struct {
    int type;
    int reserved[3];
    union {
        long long words[29];
        CUkernelNodeParams kernel;
        CUhostNodeParams host;
        struct { CUgraph graph; int ownership; } child;
        CUallocNodeParams alloc;
        struct { CUdeviceptr pointer; } free;
    } as;
    long long reserved2;
} CUgraphNodeParams;
typedef struct { uint64_t flags; CUstream upload; CUgraphNode bad_node; int result; } CUinstantiateParams;
typedef struct { int result; CUgraphNode node, from; } CUupdateResult;
typedef struct { size_t width, height; int format; unsigned channels; } CUarrayDesc;
typedef struct { size_t width, height, depth; int format; unsigned channels, flags; } CUarray3dDesc;
/* as the first versions had it */
typedef struct { unsigned width, height; int format; unsigned channels; } CUarrayDescV1;
typedef struct { unsigned width, height, depth; int format; unsigned channels, flags; } CUarray3dDescV1;
typedef struct { size_t size, alignment; unsigned reserved[4]; } CUarrayNeeds;
typedef struct { unsigned char bytes[64]; } CUipcHandle;
typedef struct {
    int type;
    union { int fd; struct { void *handle; const void *name; } win32; } handle;
    unsigned long long size;
    unsigned flags, reserved[16];
} CUexternalDesc;
typedef struct { unsigned long long offset, size; unsigned flags, reserved[16]; } CUexternalBufferDesc;

enum {
    MICA_CUDA_SUCCESS = 0,
    MICA_CUDA_INVALID_VALUE = 1,
    MICA_CUDA_OUT_OF_MEMORY = 2,
    MICA_CUDA_NOT_INITIALIZED = 3,
    MICA_CUDA_NO_DEVICE = 100,
    MICA_CUDA_INVALID_DEVICE = 101,
    MICA_CUDA_INVALID_CONTEXT = 201,
    MICA_CUDA_ECC = 214,
    MICA_CUDA_UNAVAILABLE = 46,
    MICA_CUDA_INVALID_HANDLE = 400,
    MICA_CUDA_ILLEGAL_STATE = 401,
    MICA_CUDA_NOT_FOUND = 500,
    MICA_CUDA_NOT_READY = 600,
    MICA_CUDA_NOT_PERMITTED = 800,
    MICA_CUDA_NOT_SUPPORTED = 801,
    MICA_CUDA_CAPTURE_UNSUPPORTED = 900,
    MICA_CUDA_CAPTURE_INVALIDATED = 901,
    MICA_CUDA_CAPTURE_MERGE = 902,
    MICA_CUDA_CAPTURE_UNMATCHED = 903,
    MICA_CUDA_CAPTURE_UNJOINED = 904,
    MICA_CUDA_CAPTURE_ISOLATION = 905,
    MICA_CUDA_CAPTURE_IMPLICIT = 906,
    MICA_CUDA_CAPTURED_EVENT = 907,
    MICA_CUDA_CAPTURE_WRONG_THREAD = 908,
    MICA_CUDA_GRAPH_UPDATE_FAILURE = 910,
    MICA_CUDA_UNKNOWN = 999
};

enum { MICA_LOCATION_DEVICE = 1, MICA_LOCATION_DEVICE_PART = 6 }; /* a part: id is device + 256 * part */
enum { MICA_EVENT_DISABLE_TIMING = 2 };
enum { MICA_SYMBOL_FOUND = 0, MICA_SYMBOL_NOT_FOUND = 1, MICA_SYMBOL_VERSION_TOO_OLD = 2 };
enum { MICA_LOOKUP_PER_THREAD = 2 };
#define MICA_STREAM_LEGACY ((CUstream)1)
#define MICA_STREAM_PER_THREAD ((CUstream)2)

#include "cuda_api.h"

#endif
