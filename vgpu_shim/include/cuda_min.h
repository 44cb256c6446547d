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
    MICA_CUDA_UNKNOWN = 999
};

enum { MICA_LOCATION_DEVICE = 1 };
enum { MICA_EVENT_DISABLE_TIMING = 2 };
enum { MICA_SYMBOL_FOUND = 0, MICA_SYMBOL_NOT_FOUND = 1, MICA_SYMBOL_VERSION_TOO_OLD = 2 };
enum { MICA_LOOKUP_PER_THREAD = 2 };
#define MICA_STREAM_LEGACY ((CUstream)1)
#define MICA_STREAM_PER_THREAD ((CUstream)2)

#include "cuda_api.h"

#endif
