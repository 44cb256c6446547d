/* Prints the sum over the chain of libraries, then what cuLaunchKernel of an unrelated library answers. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>

int foo(int depth);

int main(int argc, char **argv)
{
    void *other = argc > 1 ? dlopen(argv[1], RTLD_NOW) : NULL;
    int (*own)(void) = other ? (int (*)(void))dlsym(other, "cuLaunchKernel") : NULL;
    printf("%d %d %d\n", foo(0), own ? own() : -1, dlsym(RTLD_DEFAULT, "no_such_name") == NULL && dlerror() != NULL);
    return 0;
}
