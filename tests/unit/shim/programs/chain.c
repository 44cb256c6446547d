/* A library in a chain of RTLD_NEXT lookups: foo() of LEVEL asks for the next foo and adds its own number. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>

int foo(int depth);
int foo(int depth)
{
    int (*next)(int) = (int (*)(int))dlsym(RTLD_NEXT, "foo");
    if (depth > 50)
        return 499; /* asked for the next one and got itself */
    return LEVEL + (next ? next(depth + 1) : 0);
}

/* A name that belongs to the driver, in a library that has nothing to do with it. */
int cuLaunchKernel(void);
int cuLaunchKernel(void)
{
    return 4242;
}
