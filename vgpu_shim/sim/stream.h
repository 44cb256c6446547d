/* How work enters a stream and how the host waits for one. */
#ifndef MICA_SIM_STREAM_H
#define MICA_SIM_STREAM_H

#include "sim.h"

struct sim_queue *sim_queue_of(int queue);
/* Append to the stream's queue; blocks while the queue is full. event: set for a record operation. */
void sim_push(struct mica_stream *stream, struct sim_op op, struct mica_event *event);
/* Sleep until the first `until` operations of a queue are done. */
void sim_wait(struct sim_device *device, int queue, uint64_t until);
/* True when the host can see that they are. */
bool sim_done(struct sim_device *device, int queue, uint64_t until);
/* Sleep for about that long, between 20 us (1 us in virtual time) and 50 ms. */
void sim_doze(uint64_t ns);
/* Do a task in a stream, or add it to the graph that the stream is captured into. */
CUresult sim_submit(struct mica_stream *stream, const struct sim_task *task);
/* The same without a look at captures. */
void sim_run_task(struct mica_stream *stream, const struct sim_task *task);
/* All streams of the process; with sim.mutex held. */
struct mica_stream *sim_streams(void);
const struct mica_stream *sim_stream_legacy(CUdevice device);
/* host.c: a host function at the end of the stream. */
void sim_host_push(struct mica_stream *stream, CUhostFn run, void *user);
/* event.c: the ring place of a queue is used again; card locked. */
void sim_event_moves(int queue, uint64_t sequence, struct mica_event *event);

#endif
