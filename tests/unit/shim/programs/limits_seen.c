/* What the limiter's parser reads in a limits file: one line for the file, one for each card. */
#include <inttypes.h>
#include <stdio.h>

#include "limits.h"

int main(int argc, char **argv)
{
    struct mica_limits limits;
    struct stat st;
    char error[192] = "";
    if (argc != 2 || !mica_limits_read(argv[1], &limits, &st, error, sizeof error)) {
        fprintf(stderr, "%s\n", error);
        return 1;
    }
    printf("%" PRIu64 " %d %d %s %u %s\n", limits.generation, limits.enforce, limits.oversubscribe, limits.driver, limits.gpus,
           limits.have_unknown_key ? limits.unknown_key : "-");
    for (uint32_t g = 0; g < limits.gpus; g++) {
        const struct mica_limit *limit = &limits.gpu[g];
        printf("%s %" PRIu64 " %u %u %u %u\n", limit->uuid, limit->memory, limit->cores, limit->weight, limit->policy, limit->priority);
    }
    return 0;
}
