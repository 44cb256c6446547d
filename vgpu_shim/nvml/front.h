/* What the parts of the library in front of NVML share. Own declarations: types are reduced to what the ABI needs. */
#ifndef MICA_NVML_FRONT_H
#define MICA_NVML_FRONT_H

#include <stdbool.h>
#include <stdint.h>

#include "../include/region.h"

typedef int nvmlReturn_t;
typedef struct mica_nvml_device *nvmlDevice_t;
typedef struct { unsigned long long total, free, used; } nvmlMemory_t;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } nvmlMemory_v2_t;
typedef struct { unsigned gpu, memory; } nvmlUtilization_t;
typedef struct { unsigned pid; unsigned long long bytes; } nvmlProcessInfo_v1_t;
typedef struct { unsigned pid; unsigned long long bytes; unsigned gpu_instance, compute_instance; } nvmlProcessInfo_t;
typedef struct { unsigned pid; unsigned long long bytes; unsigned gpu_instance, compute_instance; unsigned long long protected_bytes; } nvmlProcessDetail_t;
typedef struct { unsigned version, mode, count; nvmlProcessDetail_t *list; } nvmlProcessDetailList_t;
typedef struct { unsigned pid; unsigned long long time_us; unsigned sm, memory, encoder, decoder; } nvmlProcessSample_t;
typedef struct { unsigned long long time_us; unsigned pid, sm, memory, encoder, decoder, jpeg, optical_flow; } nvmlProcessesSample_t;
typedef struct { unsigned version, count; unsigned long long seen_us; nvmlProcessesSample_t *list; } nvmlProcessesInfo_t;
typedef struct { unsigned flags; struct { unsigned present, percent, up, down; } domains[8]; } nvmlPstatesInfo_t;

enum {
    NVML_OK = 0,
    NVML_BAD_ARGUMENT = 2,
    NVML_NOT_SUPPORTED = 3,
    NVML_NO_PERMISSION = 4,
    NVML_NOT_FOUND = 6,
    NVML_TOO_SMALL = 7,
    NVML_LIBRARY_NOT_FOUND = 12,
    NVML_FUNCTION_NOT_FOUND = 13
};

/* A function of the real library by name, NULL when there is none. */
void *mica_nvml_real(const char *name);
/* The error for a call that has no real function behind it. */
nvmlReturn_t mica_nvml_absent(void);

/* What a container may see of one card. */
struct mica_share {
    enum { MICA_SHARE_ALL, MICA_SHARE_NONE, MICA_SHARE_SOME } kind; /* no limits in force; not this container's card, or limits that cannot be read */
    uint64_t limit; /* bytes */
    int gpu;        /* record in the region, -1 when no process used the card yet */
};
/* 0 and the share of a device, or the error to give. */
nvmlReturn_t mica_nvml_share(nvmlDevice_t device, struct mica_share *share);
/* The region, read-only; NULL when nothing has used a GPU yet. */
const struct mica_region *mica_nvml_region(void);
bool mica_nvml_slot_alive(unsigned slot);
uint64_t mica_nvml_used(const struct mica_share *share);

/* Begin to watch how busy the container is. */
void mica_nvml_watch(void);
/* Percent of the card's time that the container (slot < 0) or one of its processes used of late. */
unsigned mica_nvml_busy(int gpu, int slot);

#endif
