/* How launches enter a stream and how the host waits for one. */
#ifndef MICA_SIM_STREAM_H
#define MICA_SIM_STREAM_H

#include "sim.h"

/* Append to the stream's queue; blocks while the queue is full. event: set for a record operation. */
void sim_push(struct mica_stream *stream, struct sim_op op, struct mica_event *event);
/* Sleep until the first `until` operations of a queue are done. */
void sim_wait(struct sim_device *device, int queue, uint64_t until);

#endif
