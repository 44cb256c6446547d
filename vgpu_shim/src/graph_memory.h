/* Launching a graph with the memory it allocates: charged before, corrected after. */
#ifndef MICA_GRAPH_MEMORY_H
#define MICA_GRAPH_MEMORY_H

#include "slice.h"

/* cuGraphLaunch or its per-thread form; out of memory when what the graph allocates does not fit. */
CUresult mica_graph_launch(CUgraphExec exec, CUstream stream, bool per_thread);

#endif
