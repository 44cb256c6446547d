/* Memory shared between processes: what was exported here is known by a hash of its handle, kept in the usage region. */
#ifndef MICA_IMPORTS_H
#define MICA_IMPORTS_H

#include <stdint.h>

/* Hash of a shareable handle of virtual memory management (a descriptor's file, or the bytes); 0 when there is none to take. */
uint64_t mica_shareable_hash(const void *shareable, int type);
/* Take over the charge of what is open here and has lost its exporter. */
void mica_imports_adopt(void);

#endif
