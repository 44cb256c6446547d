/* Graphs as their makers and their launcher see them. */
#ifndef MICA_SIM_GRAPH_H
#define MICA_SIM_GRAPH_H

#include "sim.h"

struct mica_node {
    unsigned magic;
    CUgraph graph;
    struct sim_task task;
    struct mica_node **after; /* nodes of the same graph that come before */
    size_t after_count;
    size_t place; /* in the graph's list */
};

struct mica_graph {
    unsigned magic;
    struct mica_node **nodes;
    size_t count, room;
};

bool sim_is_graph(CUgraph graph);
bool sim_is_node(CUgraphNode node);

#endif
